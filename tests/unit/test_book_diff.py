"""What `tollgate prices diff` says: every change, in words, and nothing else."""

import copy
import json
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from adapters.model_prices import snapshot
from core.book_diff import Kind, differences
from tests.priced_usage import document


def _priced(**entry: Any) -> dict[str, Any]:
    return {"prices": [{"usd_per_mtok": {"input": "2.5", "output": "10"}} | entry]}


MODEL = _priced(
    above_input_tokens=[{"tokens": 200_000, "usd_per_mtok": {"input": "5"}}],
    service_tiers={"batch": {"usd_per_mtok": {"output": "5"}}},
)
CATALOG = {
    "source": "genai-prices 1",
    "providers": [
        {
            "provider": "openai",
            "models": [
                {"model": "gpt-4o", "match": {"equals": "gpt-4o"}, **MODEL},
                {"model": "o3", "match": {"equals": "o3"}, **_priced()},
            ],
        }
    ],
}
BOOK = document(
    catalog=CATALOG,
    currencies={"USD": [{"credits": "1"}], "CNY": [{"credits": "100"}]},
    flat={"tokens_per_credit": "200", "models": ["acme/flat"]},
    billed={"providers": ["openrouter"], "markup": "1.1"},
    actions={
        "job": {"credits": "0.5"},
        "call": {"charge": "per_unit", "credits": "0.3", "per": "60", "unit": "seconds"},
        "mail": {
            "charge": "graduated",
            "steps": [{"up_to": "1000", "credits": "0.01"}, {"credits": "0.005"}],
        },
        "map": {"charge": "package", "credits": "10", "size": "1000", "free_units": "500"},
    },
    models={"acme/large": {"aliases": ["big"], **_priced()}},
)
BOOK.pop("credits_per_usd", None)
_OWN = ("models", "acme/large", "prices", 0)
_LISTED = ("catalog", "providers", 0, "models", 0)


def _with(path: tuple[str | int, ...], value: Any) -> dict[str, Any]:
    changed = copy.deepcopy(BOOK)
    place: Any = changed
    for step in path[:-1]:
        place = place[step]
    if value is None:
        del place[path[-1]]
    else:
        place[path[-1]] = value
    return changed


@pytest.mark.parametrize(
    ("path", "value", "said"),
    [
        (
            (*_LISTED, "prices", 0, "usd_per_mtok", "output"),
            "12",
            "openai/gpt-4o: output 10 -> 12 dollars a million tokens (+20 %)",
        ),
        (
            (*_LISTED, "prices", 0, "service_tiers", "batch", "usd_per_mtok", "output"),
            "4",
            "openai/gpt-4o, batch: output 5 -> 4 dollars a million tokens (-20 %)",
        ),
        (
            (*_LISTED, "prices", 0, "above_input_tokens", 0, "usd_per_mtok", "input"),
            "5.00005",
            (
                "openai/gpt-4o, above 200,000 input tokens: input 5 -> 5.00005 dollars a million"
                " tokens (+less than 0.01 %)"
            ),
        ),
        (
            (*_LISTED, "prices", 0, "service_tiers", "priority"),
            {"usd_per_mtok": {"input": "5", "output": "20"}},
            "openai/gpt-4o, priority: new: input 5, output 20 dollars a million tokens",
        ),
        (
            (*_LISTED, "prices", 0, "service_tiers"),
            None,
            "openai/gpt-4o, batch: no more: output 5 dollars a million tokens",
        ),
        (
            (*_LISTED, "match"),
            {"equals": "gpt-4"},
            'openai/gpt-4o: matching rule {"equals": "gpt-4o"} -> {"equals": "gpt-4"}',
        ),
        (
            ("models", "openai/o3"),
            _priced(usd_per_mtok={"input": "2.5", "output": "20"}),
            "openai/o3: output 10 -> 20 dollars a million tokens (+100 %)",
        ),
        (
            ("models", "acme/small"),
            _priced() | {"free": True},
            (
                "acme/small: new: multiplied by power_level, multiplied by tier, free|"
                "acme/small: new: input 2.5, output 10 dollars a million tokens"
            ),
        ),
        (
            ("models", "acme/large", "aliases"),
            ["big", "largest"],
            "acme/large: new: alias largest",
        ),
        (("models", "acme/large", "multipliers"), [], "acme/large: no more: multiplied by"),
        (
            (*_OWN, "between"),
            ["16:30", "00:30"],
            (
                "acme/large, from 16:30 to 00:30 UTC: new: input 2.5, output 10 dollars a million"
                " tokens|acme/large: no more: input 2.5, output 10 dollars a million tokens"
            ),
        ),
        ((*_OWN, "usd_per_request"), "0.01", "acme/large: new: request 0.01 dollars each"),
        (("tiers", "free"), "2", "tier free: multiplier 1.5 -> 2 (+33.33 %)"),
        (("tiers", "gold"), "1", "tier gold: new: multiplier 1"),
        (("power_levels", "eco"), "0.25", "power level eco: multiplier 0.5 -> 0.25 (-50 %)"),
        (("own_key_share",), "0.1", "own key: share of the price 0.05 -> 0.1 (+100 %)"),
        (("currencies", "CNY"), None, "currency CNY: no more: rate 100 credits"),
        (
            ("currencies", "USD"),
            [{"credits": "1"}, {"from": "2026-12-01", "credits": "1.1"}],
            "currency USD, from 2026-12-01: rate 1 -> 1.1 credits (+10 %)",
        ),
        (("flat", "tokens_per_credit"), "100", "flat price: one credit 200 -> 100 tokens (-50 %)"),
        (("flat", "models"), [], "flat price: no more: for model acme/flat"),
        (("billed", "markup"), "1", "provider's own bill: markup 1.1 -> 1 (-9.09 %)"),
        (("billed",), None, "provider's own bill: no more: markup 1.1, of provider openrouter"),
        (
            ("actions", "job", "credits"),
            "0.6",
            "action job: price 0.5 -> 0.6 credits each (+20 %)",
        ),
        (
            ("actions", "call", "per"),
            "30",
            "action call: price 0.3 credits per 60 seconds -> 0.3 credits per 30 seconds",
        ),
        (
            ("actions", "mail", "steps", 1, "credits"),
            "0.004",
            "action mail, above 1,000 units: price 0.005 -> 0.004 credits each (-20 %)",
        ),
        (
            ("actions", "map", "free_units"),
            "0",
            "action map: free in a month 500 -> 0 units (-100 %)",
        ),
        (("catalog", "source"), "genai-prices 2", "catalog: source genai-prices 1 -> genai-prices"),
        (
            (*_LISTED[:-1],),
            list(reversed(CATALOG["providers"][0]["models"])),
            "provider openai: its models are tried in another order",
        ),
    ],
)
def test_a_change_is_said_in_words(path: tuple[str | int, ...], value: Any, said: str) -> None:
    changed = _with(path, value)
    lines = [str(change) for change in differences(BOOK, changed)]
    expected = said.split("|")
    assert len(lines) == len(expected), lines
    for line, start in zip(lines, expected, strict=True):
        assert line.startswith(start)
    back = differences(changed, BOOK)
    assert len(back) == len(lines)


def test_a_dated_price_is_compared_with_the_one_that_it_follows() -> None:
    entries = [*MODEL["prices"], {"from": "2026-12-01", "usd_per_mtok": {"input": "1"}}]
    lines = [str(change) for change in differences(BOOK, _with((*_LISTED, "prices"), entries))]
    assert lines == [
        "openai/gpt-4o, from 2026-12-01: input 2.5 -> 1 dollars a million tokens (-60 %)",
        "openai/gpt-4o, from 2026-12-01: no more: output 10 dollars a million tokens",
        (
            "openai/gpt-4o, above 200,000 input tokens, from 2026-12-01: no more: input 5 dollars a"
            " million tokens"
        ),
        "openai/gpt-4o, batch, from 2026-12-01: no more: output 5 dollars a million tokens",
    ]


@pytest.mark.parametrize(
    ("path", "value"),
    [
        (("tiers", "free"), "1.50"),
        (("actions", "job"), {"charge": "per_unit", "credits": "0.500", "per": "1"}),
        (("models", "acme/large", "multipliers"), ["tier", "power_level"]),
        (("billed", "multipliers"), []),
        ((*_OWN, "service_tiers"), {}),
        (("actions", "map", "counter"), "action:map"),
    ],
)
def test_what_says_the_same_in_other_words_is_no_change(
    path: tuple[str | int, ...], value: Any
) -> None:
    assert differences(BOOK, _with(path, value)) == []


def test_dollars_by_their_old_name_are_dollars() -> None:
    old = {key: value for key, value in BOOK.items() if key != "currencies"}
    lines = [str(change) for change in differences(old | {"credits_per_usd": "1"}, BOOK)]
    assert lines == ["currency CNY: new: rate 100 credits"]


def _figures(value: Any, path: tuple[str | int, ...] = ()) -> list[tuple[str | int, ...]]:
    """Where every figure of the book stands."""
    if isinstance(value, dict):
        return [found for key in value for found in _figures(value[key], (*path, key))]
    if isinstance(value, list):
        return [found for n, part in enumerate(value) for found in _figures(part, (*path, n))]
    return [path] if isinstance(value, str) and value[:1].isdigit() else []


@given(st.sampled_from(_figures(BOOK)), st.integers(1, 9))
def test_no_figure_changes_unseen(path: tuple[str | int, ...], digit: int) -> None:
    place: Any = BOOK
    for step in path:
        place = place[step]
    more = f"{digit}{place}"
    changes = differences(BOOK, _with(path, more))
    assert changes
    assert any(change.kind is not Kind.REMOVED for change in changes)
    assert differences(_with(path, more), _with(path, more)) == []


def test_the_whole_catalog_equals_itself() -> None:
    whole = document(catalog=snapshot())
    assert differences(whole, json.loads(json.dumps(whole))) == []
