"""What a price book document may say, which version holds, and which rule a name finds."""

import ast
import json
import tracemalloc
from datetime import UTC, datetime, timedelta
from itertools import permutations
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from adapters.model_prices import snapshot
from core.prices import MEMO_NAMES_MAX, BookError, PriceBook, PriceHistory, parse_book
from core.rating import Rated, rate
from tests.priced_usage import EPOCH, NOVEMBER, PRO, book, document, usage

CORE = Path(__file__).parents[2] / "core"
FRACTIONS = {"components.py", "explain.py"}  # their quotients are exact


def _row(**changes: Any) -> dict[str, Any]:
    return {"prices": [{"usd_per_mtok": {"input": "1"}}]} | changes


def _entry(**changes: Any) -> dict[str, Any]:
    return {"models": {"acme/m": {"prices": [{"usd_per_mtok": {"input": "1"}} | changes]}}}


def _catalog(model: dict[str, Any]) -> dict[str, Any]:
    return {"catalog": {"source": "s", "providers": [{"provider": "acme", "models": [model]}]}}


@pytest.mark.parametrize(
    ("changes", "complaint"),
    [
        ({"credits_per_usd": 1}, "book.credits_per_usd: expected a decimal in quotes"),
        ({"credits_per_usd": "0"}, "book.credits_per_usd: must be more than 0"),
        ({"credits_per_usd": "1.0000001"}, "book.credits_per_usd: '1.0000001' has more than 6"),
        ({"tiers": {"free": "-1"}}, "book.tiers.free: '-1' is not a plain decimal"),
        ({"tiers": []}, "book.tiers: expected a mapping"),
        ({"tiers": {1: "1"}}, "book.tiers: the key 1 is not a text"),
        ({"own_key_share": "1.1"}, "book.own_key_share: is a share"),
        ({"power_levels": {"eco": "1"}}, "book.power_levels: is missing balanced, precision"),
        ({"prices": {}}, "book: does not know prices"),
        ({"actions": {"a": {}}}, "book.actions.a: is missing credits"),
        ({"actions": {"a": {"credits": "0"}}}, "book.actions.a.credits: is zero exactly when"),
        ({"actions": {"a": {"credits": "1", "free": True}}}, "book.actions.a.credits: is zero"),
        ({"actions": {"a": {"credits": "1", "free": 1}}}, "book.actions.a.free: expected true"),
        (
            {"actions": {"a": {"credits": "1", "charge": "flat_tokens"}}},
            "book.actions.a.charge: the charge model here is per_unit",
        ),
        (
            {"actions": {"a": {"credits": "1", "multipliers": ["moon"]}}},
            "book.actions.a.multipliers[0]: 'moon' is not one of power_level, tier",
        ),
        ({"flat": {"tokens_per_credit": "0", "models": []}}, "book.flat.tokens_per_credit: must"),
        ({"flat": {"tokens_per_credit": "1", "models": [""]}}, "book.flat.models[0]: expected a"),
        ({"models": {"gpt-4o": _row()}}, "book.models.gpt-4o: a model is named provider/model"),
        ({"models": {"acme/m": _row(prices=[])}}, "book.models.acme/m.prices: expected at least"),
        (
            {"models": {"acme/a": _row(aliases=["x"]), "acme/b": _row(aliases=["x"])}},
            "book.models.acme/b: 'x' is a name of model:acme/a already",
        ),
        (_entry(usd_per_mtok={"smell": "1"}), "usd_per_mtok.smell: 'smell' is not a kind of token"),
        (_entry(usd_per_mtok={"input": "abc"}), "prices[0].usd_per_mtok.input: 'abc' is not a"),
        (_entry(**{"from": "yesterday"}), "prices[0].from: 'yesterday' is not a date or time"),
        (_entry(**{"from": "2026-01-01T00:00:00"}), "prices[0].from: '2026-01-01T00:00:00' has no"),
        (_entry(between=["25:00", "01:00"]), "prices[0].between[0]: '25:00' is not a time"),
        (_entry(between=["23:00+01:00", "01:00"]), "prices[0].between[0]: '23:00+01:00' must be"),
        (_entry(between=["23:00"]), "prices[0].between: expected a start and an end"),
        (
            _entry(above_input_tokens=[{"tokens": -1, "usd_per_mtok": {}}]),
            "tokens: expected a whole",
        ),
        (_entry(cached_apart=["sound"]), "cached_apart[0]: 'sound' is not a kind of token"),
        (_catalog(_row(model="m", match={"like": "m"})), "match.like: is not a matching rule"),
        (_catalog(_row(model="m", match={})), "match: expected exactly one matching rule"),
        (_catalog(_row(model="m", match={"regex": "("})), "match.regex: is not a regular"),
        (
            {
                "catalog": {
                    "source": "s",
                    "providers": [{"provider": "a", "models": [], "falls_back_on": ["b"]}],
                }
            },
            "book.catalog.providers[0]: falls back on 'b', which is not in the catalog",
        ),
    ],
)
def test_a_document_that_cannot_be_used_names_the_place(
    changes: dict[str, Any], complaint: str
) -> None:
    with pytest.raises(BookError) as refused:
        parse_book(document(**changes), version=1, effective_from=EPOCH)
    assert complaint in str(refused.value)


# As the first release stored it: versions are never edited, so it must mean the same for ever.
STORED = """
{
  "credits_per_usd": "1",
  "power_levels": {"eco": "0.5", "balanced": "1.0", "precision": "2.0"},
  "tiers": {"free": "1.5", "pro": "1.0"},
  "own_key_share": "0.05",
  "flat": {"tokens_per_credit": "200", "models": ["acme/small"]},
  "actions": {
    "scheduled_task": {"credits": "0.0005"},
    "bulk_operation": {"credits": "0.005", "multipliers": ["tier"]},
    "health_check": {"credits": "0", "free": true}
  },
  "models": {
    "acme/large": {
      "aliases": ["large-latest"],
      "prices": [
        {"usd_per_mtok": {"input": "3", "cache_read": "0.3", "output": "15"}},
        {
          "from": "2026-06-01",
          "usd_per_mtok": {"input": "2", "cache_read": "0.2", "output": "10"},
          "above_input_tokens": [{"tokens": 200000, "usd_per_mtok": {"input": "4", "output": "15"}}]
        }
      ]
    }
  },
  "catalog": {"source": "none", "providers": []}
}
"""


def test_a_document_of_the_first_release_has_the_prices_that_it_had() -> None:
    prices = PriceHistory([parse_book(json.loads(STORED), version=1, effective_from=EPOCH)])
    events = [
        (usage("large-latest", input=1000, cache_read=800), 400 + 160),
        (usage("acme/large", input=200_001), 800_004),
        (usage("acme/large", input=200_001, cache_read=200_001), 40_000),
        (usage("acme/large", input=1000, time=datetime(2026, 5, 31, tzinfo=UTC)), 3000),
        (usage("acme/small", output=200), 1_000_000),
        (usage(action="scheduled_task", quantity=3), 1500),
        (usage(action="health_check"), 0),
    ]
    for event, micro in events:
        answer = rate(event, prices, PRO)
        assert isinstance(answer, Rated), answer
        assert answer.rated_micro == micro


def _found(prices: PriceBook, provider: str, model: str) -> str | None:
    rule = prices.model_rule(provider, model)
    return None if rule is None else rule.name


@pytest.mark.parametrize(
    ("provider", "model", "rule"),
    [
        ("openai", "gpt-4o", "openai/gpt-4o"),
        ("", "gpt-4o", "openai/gpt-4o"),
        ("OpenAI", "GPT-4o", "openai/gpt-4o"),
        ("", "openai/gpt-4o", "openai/gpt-4o"),
        ("openai", "openai/gpt-4o", "openai/gpt-4o"),
        ("openai", "gpt-4o-2024-08-06", "openai/gpt-4o"),
        ("litellm", "openai/gpt-4o", "openai/gpt-4o"),
        ("", "gpt-5.2-20251211", "openai/gpt-5.2"),
        # sold by a gateway: the gateway's price, not the maker's
        ("", "openrouter/anthropic/claude-sonnet-4.5", "openrouter/anthropic/claude-sonnet-4.5"),
        ("openrouter", "anthropic/claude-sonnet-4.5", "openrouter/anthropic/claude-sonnet-4.5"),
        ("", "anthropic/claude-sonnet-4.5", "anthropic/claude-sonnet-4-5"),
        # azure has no row for it and sells Anthropic's models: the rule says whose price it is
        ("azure", "claude-sonnet-4-5", "anthropic/claude-sonnet-4-5"),
        # retired by its maker, priced for ever
        ("anthropic", "claude-3-5-sonnet-20241022", "anthropic/claude-3-5-sonnet"),
        # nobody's model is priced as somebody's
        ("vllm", "gpt-4o", None),
        ("anthropic", "gpt-4o", None),
        ("anthropic", "openai/gpt-4o", None),
        ("azure", "openai/gpt-4o", None),
        ("", "gpt4all", None),
    ],
)
def test_a_model_is_found_by_any_name_apps_send(
    provider: str, model: str, rule: str | None
) -> None:
    assert _found(book(), provider, model) == (rule and f"model:{rule}")


@pytest.mark.parametrize(
    ("rules", "name", "found"),
    [
        ([{"equals": "fox-1"}, {"contains": "fox"}], "fox-1", 0),
        ([{"contains": "fox"}, {"equals": "fox-1"}], "fox-1", 0),
        ([{"equals": "Fox-1"}, {"equals": "fox-1"}], "FOX-1", 0),
        ([{"starts_with": "fox"}, {"ends_with": "fox"}], "redfox", 1),
        ([{"or": [{"equals": "fox"}, {"regex": "^f.x-[0-9]$"}]}], "fix-2", 0),
        ([{"or": [{"contains": "ox"}, {"contains": "ix"}]}], "fix", 0),
        ([{"and": [{"starts_with": "f"}, {"or": [{"equals": "fox"}]}]}], "fox", 0),
        ([{"and": [{"starts_with": "f"}, {"equals": "fox"}]}], "fix", None),
    ],
)
def test_the_first_rule_of_the_catalog_that_matches_wins(
    rules: list[dict[str, Any]], name: str, found: int | None
) -> None:
    models = [_row(model=str(number), match=rule) for number, rule in enumerate(rules)]
    catalog = {"source": "s", "providers": [{"provider": "acme", "models": models}]}
    expected = None if found is None else f"model:acme/{found}"
    assert _found(book(catalog=catalog), "acme", name) == expected


def test_a_row_of_the_book_wins_over_the_catalog_under_every_name() -> None:
    prices = book(models={"openai/gpt-4o": _row(aliases=["our-best"]), "acme/llama": _row()})
    own = prices.model_rule("openai", "gpt-4o")
    assert own is not book().model_rule("openai", "gpt-4o")
    for provider, model in (
        ("", "gpt-4o-2024-08-06"),
        ("", "openai/gpt-4o"),
        ("", "our-best"),
        ("openai", "Our-Best"),
    ):
        assert prices.model_rule(provider, model) is own, (provider, model)
    assert _found(prices, "acme", "llama") == "model:acme/llama"
    assert _found(prices, "", "acme/llama") == "model:acme/llama"
    assert _found(prices, "", "llama") is None
    assert _found(prices, "other", "our-best") is None


def test_a_flat_model_is_flat_under_every_name() -> None:
    prices = book(flat={"tokens_per_credit": "200", "models": ["openai/gpt-4o"]})
    for model in ("gpt-4o", "openai/gpt-4o", "gpt-4o-2024-08-06"):
        assert _found(prices, "", model) == "flat"
    assert _found(prices, "", "o3") == "model:openai/o3"


def test_names_from_strangers_do_not_fill_the_memory() -> None:
    prices = book()
    names = [f"{'x' * 180}{number}" for number in range(3 * MEMO_NAMES_MAX)]
    tracemalloc.start()
    try:
        for name in names:
            assert prices.model_rule("", name) is None
        held, _ = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert held < 2**20
    assert _found(prices, "", "gpt-4o") == "model:openai/gpt-4o"


def test_the_version_with_the_latest_start_holds_and_the_newest_of_equal_starts() -> None:
    books = [
        book(version, EPOCH + timedelta(days=day), catalog={"source": "none", "providers": []})
        for version, day in ((1, 0), (2, 10), (3, 10), (4, 5))
    ]
    for some_order in permutations(books):
        prices = PriceHistory(some_order)
        at = {day: prices.at(EPOCH + timedelta(days=day)) for day in (0, 4, 5, 9, 10, 99)}
        versions = {day: found and found.version for day, found in at.items()}
        assert versions == {0: 1, 4: 1, 5: 4, 9: 4, 10: 3, 99: 3}
        assert prices.at(EPOCH - timedelta(microseconds=1)) is None
        assert prices.latest_version == 4


def test_no_version_prices_nothing() -> None:
    assert PriceHistory([]).at(NOVEMBER) is None
    assert PriceHistory([]).latest_version == 0


STARTS = st.lists(st.integers(0, 40), min_size=1, max_size=6)


@given(STARTS, st.integers(-1, 41))
def test_the_version_in_force_by_its_definition(days: list[int], day: int) -> None:
    nothing = {"source": "none", "providers": []}
    books = [
        book(version, EPOCH + timedelta(days=start), catalog=nothing)
        for version, start in enumerate(days, 1)
    ]
    begun = [(start, version) for version, start in enumerate(days, 1) if start <= day]
    found = PriceHistory(books).at(EPOCH + timedelta(days=day))
    assert (found and found.version) == (max(begun)[1] if begun else None)


def test_the_snapshot_is_the_same_every_time_and_carries_every_model() -> None:
    catalog: Any = snapshot()
    assert catalog == snapshot()
    rows = [row for provider in catalog["providers"] for row in provider["models"]]
    assert len(rows) == 2330
    assert sum(len(row["prices"]) > 1 for row in rows) > 200
    free = [row["model"] for row in rows if row.get("free")]
    assert free
    assert all(name.endswith(":free") for name in free)


def test_reading_a_book_takes_little_time_and_memory() -> None:
    whole = document(catalog=snapshot())
    tracemalloc.start()
    try:
        kept = parse_book(whole, version=1, effective_from=datetime(2020, 1, 1, tzinfo=UTC))
        held, _ = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert kept.version == 1
    assert held < 8 * 2**20


def test_no_float_is_near_money() -> None:
    for path in sorted(CORE.glob("*.py")):
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            place = f"{path.name}:{getattr(node, 'lineno', 0)}"
            assert not (isinstance(node, ast.Name) and node.id == "float"), place
            assert not (isinstance(node, ast.Constant) and isinstance(node.value, float)), place
            if path.name not in FRACTIONS:
                assert not (isinstance(node, ast.BinOp) and isinstance(node.op, ast.Div)), place
