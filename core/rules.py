"""From a row of the document to a rule: every figure becomes an integer, or the row is refused."""

from __future__ import annotations

from typing import TYPE_CHECKING

from core.charge_models import (
    CONTAINED_IN,
    MICRO,
    MULTIPLIER_DECIMALS,
    PRICE_DECIMALS,
    Band,
    ChargeModel,
    DatedPrices,
    FlatRule,
    Multiplier,
    Rates,
    Surcharge,
    TokenKind,
    TokenRule,
    UnitRule,
)

if TYPE_CHECKING:
    from collections.abc import Mapping

    from core.document import Node

TOKEN_RULE_FIELDS = frozenset({"charge", "free", "multipliers"})
_PRICES_FIELDS = frozenset(
    {"from", "between", "usd_per_request", "above_input_tokens", "cached_apart"}
)
_TOTALS = (TokenKind.INPUT, TokenKind.OUTPUT)
_MULTIPLIERS = {"power_level": Multiplier.POWER_LEVEL, "tier": Multiplier.TIER}


def token_rule(name: str, fields: Mapping[str, Node], prices: Node) -> TokenRule:
    """The rule of one model from its prices, in the order written."""
    _charge_model(fields, ChargeModel.MODEL_TOKENS)
    dated = tuple(_dated_prices(entry) for entry in prices.elements())
    if not dated:
        raise prices.error("expected at least one entry")
    scaled_by = _multipliers(fields, Multiplier.POWER_LEVEL | Multiplier.TIER)
    free = "free" in fields and fields["free"].flag()
    return TokenRule(name, free, scaled_by | Multiplier.USD, dated)


def flat_rule(node: Node) -> tuple[FlatRule, frozenset[str]]:
    """The flat price and the models it holds for; "*" stands for all of them."""
    fields = node.fields(
        frozenset({"tokens_per_credit", "models"}), frozenset({"charge", "multipliers"})
    )
    _charge_model(fields, ChargeModel.FLAT_TOKENS)
    per_credit = fields["tokens_per_credit"].scaled(MULTIPLIER_DECIMALS)
    if per_credit == 0:
        raise fields["tokens_per_credit"].error("must be more than 0")
    models = frozenset(model.text().lower() for model in fields["models"].elements())
    return FlatRule("flat", _multipliers(fields, Multiplier.NONE), per_credit), models


def unit_rule(action: str, node: Node) -> UnitRule:
    """The price of one action; a price of zero must be said to be free."""
    fields = node.fields(frozenset({"credits"}), TOKEN_RULE_FIELDS)
    _charge_model(fields, ChargeModel.PER_UNIT)
    per_unit = fields["credits"].scaled(PRICE_DECIMALS)
    free = "free" in fields and fields["free"].flag()
    if free != (per_unit == 0):
        raise fields["credits"].error("is zero exactly when the action is free: true")
    return UnitRule(f"action:{action}", _multipliers(fields, Multiplier.NONE), per_unit)


def _charge_model(fields: Mapping[str, Node], expected: ChargeModel) -> None:
    if "charge" in fields and fields["charge"].text() != expected:
        raise fields["charge"].error(f"the charge model here is {expected.value}")


def _multipliers(fields: Mapping[str, Node], default: Multiplier) -> Multiplier:
    if "multipliers" not in fields:
        return default
    chosen = Multiplier.NONE
    for node in fields["multipliers"].elements():
        name = node.text()
        if name not in _MULTIPLIERS:
            raise node.error(f"{name!r} is not one of {', '.join(_MULTIPLIERS)}")
        chosen |= _MULTIPLIERS[name]
    return chosen


def _dated_prices(node: Node) -> DatedPrices:
    fields = node.fields(frozenset({"usd_per_mtok"}), _PRICES_FIELDS)
    between = fields["between"].elements() if "between" in fields else []
    if between and len(between) != 2:
        raise fields["between"].error("expected a start and an end")
    per_token = _per_token(fields["usd_per_mtok"])
    request = fields["usd_per_request"].scaled(PRICE_DECIMALS) if "usd_per_request" in fields else 0
    apart = _cached_apart(fields)
    bands = [
        _band(entry, per_token, request * MICRO, apart)
        for entry in (
            fields["above_input_tokens"].elements() if "above_input_tokens" in fields else ()
        )
    ]
    return DatedPrices(
        starts_at=fields["from"].instant() if "from" in fields else None,
        between=(between[0].time_of_day(), between[1].time_of_day()) if between else None,
        base=_rates(per_token, request * MICRO, apart),
        bands=tuple(sorted(bands, key=lambda band: -band.above_input_tokens)),
    )


def _band(
    node: Node, base: dict[TokenKind, int], per_request: int, apart: tuple[TokenKind, ...]
) -> Band:
    fields = node.fields(frozenset({"tokens", "usd_per_mtok"}), frozenset())
    per_token = base | _per_token(fields["usd_per_mtok"])
    return Band(fields["tokens"].whole(), _rates(per_token, per_request, apart))


def _cached_apart(fields: Mapping[str, Node]) -> tuple[TokenKind, ...]:
    if "cached_apart" not in fields:
        return ()
    return tuple(_kind(node, node.text()) for node in fields["cached_apart"].elements())


def _per_token(node: Node) -> dict[TokenKind, int]:
    return {_kind(price, name): price.scaled(PRICE_DECIMALS) for name, price in node.items()}


def _kind(node: Node, name: str) -> TokenKind:
    try:
        return TokenKind(name)
    except ValueError:
        raise node.error(f"{name!r} is not a kind of token: {', '.join(TokenKind)}") from None


def _rates(
    per_token: dict[TokenKind, int], per_request: int, cached_apart: tuple[TokenKind, ...]
) -> Rates:
    effective = dict.fromkeys(_TOTALS, 0) | per_token
    surcharges = []
    for kind, around in CONTAINED_IN.items():
        if kind not in per_token:
            effective[kind] = effective[around]
        elif per_token[kind] != effective[around]:
            surcharges.append(Surcharge(kind.value, per_token[kind] - effective[around]))
    return Rates(
        input=effective[TokenKind.INPUT],
        output=effective[TokenKind.OUTPUT],
        per_request=per_request,
        surcharges=tuple(surcharges),
        priced=frozenset(per_token),
        gaps=tuple(kind for kind in _TOTALS if kind not in per_token),
        cached_apart=cached_apart,
    )
