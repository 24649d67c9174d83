"""The price book file as JSON Schema (draft 7, which editors know), for completion and red lines.

`core/prices.py` decides what a price book is; a test holds the two to the same judgement. What a
schema cannot say is left to `tollgate prices validate`: that steps and dates ascend, that a name
stands for one model, that a day exists, that an expression compiles.
"""

from collections.abc import Iterable
from dataclasses import fields
from typing import Any, Final

from schemas.usage import PowerLevel, ServiceTier, TokenCounts

Schema = dict[str, Any]

DIALECT: Final = "http://json-schema.org/draft-07/schema#"
INSTALLED_CATALOG: Final = "genai-prices"
_UNIT: Final[Schema] = {"type": "string", "pattern": "^[a-z0-9_]{1,32}$"}
_COUNTER: Final[Schema] = {"type": "string", "pattern": "^[A-Za-z0-9_.:/-]{1,128}$"}
_KINDS: Final = [kind.name for kind in fields(TokenCounts)]
_TEXT: Final[Schema] = {"type": "string", "minLength": 1}
_FLAG: Final[Schema] = {"type": "boolean"}
_POSITIVE: Final = "(?=.*[1-9])"
_UP_TO_A_MILLION: Final = "(?=0*([0-9]{1,6}(\\.[0-9]+)?|1000000(\\.0+)?)$)"


def price_book() -> Schema:
    """The schema of a price book file, in which `catalog` may be left out or be a name."""
    required = ["power_levels", "tiers", "own_key_share", "actions", "models"]
    book = _closed(
        required,
        {
            "currencies": _ref("currencies"),
            "credits_per_usd": _figure(6, lookahead=_POSITIVE + _UP_TO_A_MILLION),
            "power_levels": _closed(
                PowerLevel, {level: _ref("multiplier") for level in PowerLevel}
            ),
            "tiers": _table(_ref("multiplier")),
            "own_key_share": _figure(6, lookahead="(?=(0+(\\.[0-9]+)?|0*1(\\.0+)?)$)"),
            "flat": _flat(),
            "billed": _billed(),
            "actions": _table(_ref("action")),
            "models": _table(_ref("model"), {"pattern": "^[^/]+/[\\s\\S]"}),
            "catalog": {"anyOf": [{"const": INSTALLED_CATALOG}, _ref("catalog")]},
        },
    )
    book["oneOf"] = [{"required": ["currencies"]}, {"required": ["credits_per_usd"]}]
    head = {"$schema": DIALECT, "title": "Tollgate price book", "description": _ABOUT}
    return {**head, **book, "definitions": _definitions()}


_ABOUT: Final = (
    "Every figure is a decimal in quotes. Without `catalog` the model prices of the version that"
    " this one follows are kept. `tollgate prices validate` checks what a schema cannot say."
)


def _definitions() -> dict[str, Schema]:
    counted = {"counter": _COUNTER, "multipliers": _ref("multipliers")}
    of_actions, of_models = {"unit": _UNIT}, {"aliases": _texts()}
    return {
        "price": _figure(18),
        "multiplier": _figure(6, lookahead=_POSITIVE + _UP_TO_A_MILLION),
        "whole": _whole(),
        "some": _whole(_POSITIVE),
        "date": {"type": "string", "pattern": f"^{_DAY}(T{_CLOCK}(Z|[+-]{_HOUR}:{_MINUTE}))?$"},
        "time": {"type": "string", "pattern": f"^{_CLOCK}$"},
        "multipliers": {"type": "array", "items": {"enum": ["power_level", "tier"]}},
        "currencies": _currencies(),
        "action": {"oneOf": [_per_unit(), *_counted(counted | of_actions)]},
        "model": {"oneOf": [_token_model({"aliases": _texts()}), *_counted(counted | of_models)]},
        "tokens": _table(_ref("price"), {"enum": _KINDS}),
        "prices": {"type": "array", "minItems": 1, "items": _dated_prices()},
        "steps": _steps(),
        "match": _match(),
        "catalog": _catalog(),
    }


_DAY: Final = "[0-9]{4}-(0[1-9]|1[0-2])-(0[1-9]|[12][0-9]|3[01])"
_HOUR: Final = "([01][0-9]|2[0-3])"
_MINUTE: Final = "[0-5][0-9]"
_CLOCK: Final = f"{_HOUR}:{_MINUTE}(:{_MINUTE}(\\.[0-9]{{1,6}})?)?"


def _figure(decimals: int, *, lookahead: str = "") -> Schema:
    """A decimal of so many places; more may be written when they are zeros."""
    fraction = f"(\\.(?=[0-9]{{1,30}}$)[0-9]{{1,{decimals}}}0*)?"
    return {"type": "string", "pattern": f"^{lookahead}[0-9]{{1,18}}{fraction}$"}


def _whole(lookahead: str = "") -> Schema:
    return {"type": "string", "pattern": f"^{lookahead}[0-9]{{1,18}}(\\.0{{1,30}})?$"}


def _ref(name: str) -> Schema:
    return {"$ref": f"#/definitions/{name}"}


def _closed(required: Iterable[str], properties: dict[str, Schema]) -> Schema:
    return {
        "type": "object",
        "required": [str(name) for name in required],
        "properties": {str(name): schema for name, schema in properties.items()},
        "additionalProperties": False,
    }


def _table(row: Schema, names: Schema | None = None) -> Schema:
    named = {"minLength": 1} if names is None else names
    return {"type": "object", "propertyNames": named, "additionalProperties": row}


def _texts() -> Schema:
    return {"type": "array", "items": _TEXT}


def _currencies() -> Schema:
    credits_each = _figure(12, lookahead=_POSITIVE + _UP_TO_A_MILLION)
    first = _closed(["credits"], {"credits": credits_each})
    later = _closed(["from", "credits"], {"from": _ref("date"), "credits": credits_each})
    rates = {"type": "array", "minItems": 1, "items": [first], "additionalItems": later}
    return {**_table(rates, {"pattern": "^[A-Z]{3}$"}), "required": ["USD"]}


def _flat() -> Schema:
    return _closed(
        ["tokens_per_credit", "models"],
        {
            "tokens_per_credit": _figure(6, lookahead=_POSITIVE),
            "models": _texts(),
            "charge": {"const": "flat_tokens"},
            "multipliers": _ref("multipliers"),
        },
    )


def _billed() -> Schema:
    return _closed(
        ["providers"],
        {
            "providers": _texts(),
            "markup": _ref("multiplier"),
            "charge": {"const": "billed"},
            "multipliers": _ref("multipliers"),
        },
    )


def _per_unit() -> Schema:
    row = _closed(
        ["credits"],
        {
            "charge": {"const": "per_unit"},
            "credits": _ref("price"),
            "per": _ref("some"),
            "unit": _UNIT,
            "free": _FLAG,
            "multipliers": _ref("multipliers"),
        },
    )
    free = {"required": ["free"], "properties": {"free": {"const": True}}}
    zero = {"properties": {"credits": {"pattern": "^[0.]*$"}}}
    return {**row, "if": free, "then": zero, "else": {"properties": {"credits": _costs()}}}


def _costs() -> Schema:
    return {"pattern": "[1-9]"}


def _counted(more: dict[str, Schema]) -> list[Schema]:
    steps = {"steps": _ref("steps"), "per": _ref("some")}
    package = {
        "credits": {"allOf": [_ref("price"), _costs()]},
        "size": _ref("some"),
        "free_units": _ref("whole"),
    }
    no_multipliers = {"type": "array", "maxItems": 0}
    by_tier = {"type": "array", "items": {"enum": ["tier"]}}
    return [
        _closed(
            ["charge", "credits", "size"],
            {"charge": {"const": "package"}, **package, **more, "multipliers": by_tier},
        ),
        _closed(["charge", "steps"], {"charge": {"const": "graduated"}, **steps, **more}),
        _closed(
            ["charge", "steps"],
            {"charge": {"const": "volume"}, **steps, **more, "multipliers": no_multipliers},
        ),
    ]


def _steps() -> Schema:
    step = _closed(
        ["credits"], {"up_to": _ref("some"), "credits": _ref("price"), "fee": _ref("price")}
    )
    costs = [{"required": [name], "properties": {name: _costs()}} for name in ("credits", "fee")]
    last = {"not": {"required": ["up_to"]}}
    return {
        "type": "array",
        "minItems": 1,
        "items": step,
        "allOf": [{"contains": last}, {"contains": {"anyOf": costs}}],
    }


def _token_model(more: dict[str, Schema], required: Iterable[str] = ()) -> Schema:
    return _closed(
        ["prices", *required],
        {
            "charge": {"const": "model_tokens"},
            "prices": _ref("prices"),
            "free": _FLAG,
            "multipliers": _ref("multipliers"),
            **more,
        },
    )


def _dated_prices() -> Schema:
    band = _closed(
        ["tokens", "usd_per_mtok"],
        {"tokens": {"type": "integer", "minimum": 0}, "usd_per_mtok": _ref("tokens")},
    )
    prices = {
        "usd_per_mtok": _ref("tokens"),
        "usd_per_request": _ref("price"),
        "above_input_tokens": {"type": "array", "items": band},
        "cached_apart": {"type": "array", "items": {"enum": _KINDS}},
    }
    tiers = [tier.value for tier in ServiceTier if tier is not ServiceTier.STANDARD]
    hours = [{"maxItems": 0}, {"minItems": 2, "maxItems": 2}]
    return _closed(
        ["usd_per_mtok"],
        {
            **prices,
            "from": _ref("date"),
            "between": {"type": "array", "items": _ref("time"), "oneOf": hours},
            "service_tiers": _table(_closed([], prices), {"enum": tiers}),
        },
    )


def _match() -> Schema:
    rules = dict.fromkeys(("equals", "contains", "starts_with", "ends_with", "regex"), _TEXT)
    several = {"type": "array", "items": _ref("match")}
    one = _closed([], {**rules, "or": several, "and": several})
    return {**one, "minProperties": 1, "maxProperties": 1}


def _catalog() -> Schema:
    model = _token_model({"model": _TEXT, "match": _ref("match")}, ("model", "match"))
    provider = _closed(
        ["provider", "models"],
        {
            "provider": _TEXT,
            "models": {"type": "array", "items": model},
            "named": _ref("match"),
            "makes": _ref("match"),
            "falls_back_on": _texts(),
        },
    )
    return _closed(
        ["source", "providers"],
        {"source": _TEXT, "providers": {"type": "array", "items": provider}},
    )
