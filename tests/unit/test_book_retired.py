"""A new snapshot loses no model that the old one priced."""

from typing import Any

from hypothesis import given
from hypothesis import strategies as st

from adapters.model_prices import snapshot
from core.retired import with_retired
from tests.priced_usage import book

_NAMES = st.lists(st.sampled_from("abcdef"), unique=True, max_size=5)


@st.composite
def catalogs(draw: st.DrawFn) -> dict[str, Any]:
    """Providers and models in any order, each model with a price that tells where it is from."""
    mark = str(draw(st.integers(1, 999)))
    return {
        "source": mark,
        "providers": [
            {"provider": provider, "models": [_row(model, mark) for model in draw(_NAMES)]}
            for provider in draw(_NAMES)
        ],
    }


def _row(model: str, price: str) -> dict[str, Any]:
    prices = [{"usd_per_mtok": {"input": price, "output": price}}]
    return {"model": model, "match": {"equals": model}, "prices": prices}


def _prices(catalog: dict[str, Any]) -> dict[tuple[str, str], Any]:
    return {
        (section["provider"], row["model"]): row["prices"]
        for section in catalog["providers"]
        for row in section["models"]
    }


@given(catalogs(), catalogs())
def test_new_prices_win_and_old_models_stay(old: dict[str, Any], new: dict[str, Any]) -> None:
    merged = with_retired(old, new)
    before, after = _prices(old), _prices(new)
    assert _prices(merged.catalog) == before | after
    assert sorted(merged.kept) == sorted("/".join(key) for key in before.keys() - after.keys())
    assert merged.catalog["source"] == new["source"]
    # the new snapshot's own order comes first, as the first rule that matches wins
    places = [section["provider"] for section in merged.catalog["providers"]]
    assert places[: len(new["providers"])] == [each["provider"] for each in new["providers"]]
    for section, own in zip(merged.catalog["providers"], new["providers"], strict=False):
        assert section["models"][: len(own["models"])] == own["models"]
    again = with_retired(merged.catalog, new)
    assert again == merged
    assert with_retired(None, new).catalog == new


def test_a_retired_model_is_priced_and_a_new_rule_for_its_name_goes_first() -> None:
    old = snapshot()
    providers: Any = old["providers"]
    openai = next(each for each in providers if each["provider"] == "openai")
    openai["models"] += [_row("gone-1", "7"), _row("gpt-4o-2024-08-06", "7")]
    merged = with_retired(old, snapshot())
    assert merged.kept == ["openai/gone-1", "openai/gpt-4o-2024-08-06"]
    prices = book(catalog=merged.catalog)
    for name, rule in (("gone-1", "openai/gone-1"), ("gpt-4o-2024-08-06", "openai/gpt-4o")):
        found = prices.model_rule("openai", name)
        assert found is not None
        assert found.name == f"model:{rule}"
