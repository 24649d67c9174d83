"""The schema for editors and the parser judge a price book alike, except where that is said."""

import copy
import json
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from jsonschema import Draft7Validator

from adapters.book_file import BookFile, Unquoted
from adapters.failures import Failure
from adapters.model_prices import snapshot
from core.default_book import default_document
from schemas.price_book import price_book
from schemas.usage import TokenCounts
from tollgate.prices_command import _judged

SCHEMA = price_book()
VALIDATOR = Draft7Validator(SCHEMA)
_MTOK = {"usd_per_mtok": {"input": "3", "output": "15", "cache_read": "0.3"}}
_PRICES: dict[str, Any] = {
    **_MTOK,
    "from": "2026-06-01",
    "between": ["16:30", "00:30:00"],
    "usd_per_request": "0.01",
    "above_input_tokens": [{"tokens": 200_000, "usd_per_mtok": {"input": "6"}}],
    "cached_apart": ["audio_input"],
    "service_tiers": {
        "batch": {"usd_per_mtok": {"output": "7.5"}},
        "priority": {"above_input_tokens": [{"tokens": 1, "usd_per_mtok": {}}]},
    },
}
_STEPS = [{"up_to": "1000", "credits": "0.01", "fee": "1"}, {"credits": "0.005"}]
BOOK: dict[str, Any] = {
    "currencies": {"USD": [{"credits": "1"}, {"from": "2026-12-01", "credits": "1.1"}]},
    "power_levels": {"eco": "0.5", "balanced": "1.0", "precision": "2"},
    "tiers": {"free": "1.5", "pro": "1000000"},
    "own_key_share": "0.05",
    "flat": {"tokens_per_credit": "200", "models": ["acme/small"], "charge": "flat_tokens"},
    "billed": {"providers": ["openrouter"], "markup": "1.1", "multipliers": ["tier"]},
    "actions": {
        "task": {"credits": "0.0005", "per": "60", "unit": "seconds", "multipliers": ["tier"]},
        "ping": {"charge": "per_unit", "credits": "0", "free": True},
        "map": {"charge": "package", "credits": "10", "size": "1000", "free_units": "500"},
        "mail": {"charge": "graduated", "steps": _STEPS, "per": "10", "counter": "mails"},
        "page": {"charge": "volume", "steps": _STEPS, "multipliers": [], "unit": "pages"},
    },
    "models": {
        "acme/large": {"aliases": ["big"], "prices": [_MTOK, _PRICES], "charge": "model_tokens"},
        "acme/free": {"free": True, "prices": [_MTOK], "multipliers": ["power_level"]},
        "acme/mini": {"charge": "package", "credits": "1", "size": "1000", "aliases": ["m"]},
        "acme/step": {"charge": "graduated", "steps": _STEPS, "multipliers": ["tier"]},
    },
    "catalog": {
        "source": "mine",
        "providers": [
            {
                "provider": "openai",
                "named": {"contains": "openai"},
                "makes": {"or": [{"starts_with": "gpt"}, {"and": [{"ends_with": "x"}]}]},
                "falls_back_on": ["openai"],
                "models": [{"model": "o3", "match": {"regex": "^o3"}, "prices": [_MTOK]}],
            }
        ],
    },
}
# What the parser alone can see: an order, a name that stands for two, a day that does not exist.
BEYOND_A_SCHEMA = (
    "must be later than the one before",
    "must be more than that of the step before",
    "is missing up_to",
    "does not know up_to",
    "is a name of",
    "is not a date or time",
    "is not a regular expression",
    "falls back on",
)


def _refusal(document: dict[str, Any]) -> str | None:
    """The parser's complaint, None when the document is a price book."""
    try:
        _judged(BookFile(Path("book.yaml"), document, {}))
    except Failure as failure:
        return str(failure)
    return None


def _disagreement(document: dict[str, Any]) -> str | None:
    refusal, valid = _refusal(document), VALIDATOR.is_valid(document)
    if refusal is not None and any(words in refusal for words in BEYOND_A_SCHEMA):
        return None
    return None if valid is (refusal is None) else f"the schema says {valid}, the parser: {refusal}"


def test_the_schema_is_one_and_knows_every_kind_of_token() -> None:
    Draft7Validator.check_schema(SCHEMA)
    kinds = SCHEMA["definitions"]["tokens"]["propertyNames"]["enum"]
    assert kinds == list(TokenCounts.__dataclass_fields__)


def test_whole_books_are_valid_to_both() -> None:
    older = {key: value for key, value in BOOK.items() if key != "currencies"}
    bare = {key: value for key, value in BOOK.items() if key != "catalog"}
    for document in (
        BOOK,
        bare,
        {**BOOK, "catalog": "genai-prices"},
        {**older, "credits_per_usd": "1"},
        default_document(snapshot()),
    ):
        assert _refusal(document) is None
        assert list(VALIDATOR.iter_errors(document)) == []


def _with(path: tuple[str | int, ...], value: Any) -> dict[str, Any]:
    changed = copy.deepcopy(BOOK)
    place: Any = changed
    for step in path[:-1]:
        place = place[step]
    place[path[-1]] = value
    return changed


@pytest.mark.parametrize(
    ("path", "value"),
    [
        (("credits_per_usd",), "1"),
        (("catalog",), "litellm"),
        (("colour",), "red"),
        (("own_key_share",), "1.000001"),
        (("tiers", "free"), "1000000.1"),
        (("tiers", "free"), "0.0000001"),
        (("tiers", "free"), Unquoted("1.5")),
        (("currencies", "usd"), [{"credits": "1"}]),
        (("currencies", "USD"), [{"credits": "1"}, {"credits": "2"}]),
        (("actions", "ping", "free"), False),
        (("actions", "task", "free"), True),
        (("actions", "task", "per"), "0.5"),
        (("actions", "task", "size"), "5"),
        (("actions", "map", "credits"), "0"),
        (("actions", "mail", "steps"), []),
        (("actions", "mail", "steps"), [{"credits": "0"}]),
        (("actions", "page", "multipliers"), ["tier"]),
        (("models", "large"), {"prices": [_MTOK]}),
        (("models", "acme/large", "prices"), []),
        (("models", "acme/large", "unit"), "seconds"),
        (("models", "acme/large", "prices", 1, "service_tiers", "standard"), _MTOK),
        (("models", "acme/large", "prices", 1, "usd_per_mtok", "smell"), "1"),
        (("models", "acme/large", "prices", 1, "between"), ["16:30"]),
        (("models", "acme/large", "prices", 1, "from"), "2026-13-01"),
        (("catalog", "providers", 0, "named"), {"equals": "a", "contains": "b"}),
    ],
)
def test_a_wrong_book_is_wrong_to_both(path: tuple[str | int, ...], value: Any) -> None:
    document = _with(path, value)
    assert _refusal(document) is not None
    assert not VALIDATOR.is_valid(document)


def _places(value: Any, path: tuple[str | int, ...] = ()) -> list[tuple[str | int, ...]]:
    keys = value.keys() if isinstance(value, dict) else range(len(value))
    found = []
    for key in keys:
        found.append((*path, key))
        if isinstance(value[key], dict | list):
            found += _places(value[key], (*path, key))
    return found


PLACES = _places(BOOK)
_ODD = st.sampled_from(
    [
        *("", "0", "0.0", "1", "01", "1.", ".5", "-1", "1e3", "1000000", "1000000.0", "1000000.1"),
        *("0.0000001", "0.1000000", "1." + "0" * 31, "9" * 19, "0.0000000000000000001", "x"),
        *("standard", "batch", "tier", "input", "2026-12-01", "2026-02-30", "2026-12-01T10:00Z"),
        *("2026-12-01 10:00", "24:00", "16:30", "16:30Z", "per_unit", "package", "volume", "*"),
        *(0, 1, -1, True, False, None, Unquoted("0.5")),
        *([], {}, ["x"], ["tier"], {"x": "1"}, {"credits": "1"}, [{"credits": "1"}]),
    ]
)


@settings(max_examples=400)
@given(st.sampled_from(PLACES), _ODD | st.just("a copy of another place"), st.data())
def test_whatever_is_changed_both_judge_it_alike(
    path: tuple[str | int, ...], value: Any, data: st.DataObject
) -> None:
    if value == "a copy of another place":
        value = BOOK
        for step in data.draw(st.sampled_from(PLACES)):
            value = value[step]
    assert _disagreement(_with(path, value)) is None


@given(st.sampled_from(PLACES), st.sampled_from(["x", "credits", "unit", "from", "free", "per"]))
def test_a_key_too_few_or_too_many_is_judged_alike(path: tuple[str | int, ...], key: str) -> None:
    fewer = copy.deepcopy(BOOK)
    place: Any = fewer
    for step in path[:-1]:
        place = place[step]
    del place[path[-1]]
    assert _disagreement(fewer) is None
    more = _with((*path[:-1], key), "1") if isinstance(path[-1], str) else fewer
    assert _disagreement(more) is None


def test_the_exported_file_is_this_schema() -> None:
    text = (Path(__file__).parents[2] / "schemas/json/price_book.v1.json").read_text("utf-8")
    assert json.loads(text) == SCHEMA
