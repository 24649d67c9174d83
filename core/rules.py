"""From a row of the document to a rule: every figure becomes an integer, or the row is refused."""

from __future__ import annotations

from dataclasses import dataclass
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
    TierPrices,
    TokenKind,
    TokenRule,
)
from schemas.usage import ServiceTier

if TYPE_CHECKING:
    from collections.abc import Mapping

    from core.document import Node

TOKEN_RULE_FIELDS = frozenset({"charge", "free", "multipliers"})
_PRICES_FIELDS = frozenset(
    {"from", "between", "usd_per_request", "above_input_tokens", "cached_apart", "service_tiers"}
)
_TIER_FIELDS = frozenset({"usd_per_mtok", "usd_per_request", "above_input_tokens", "cached_apart"})
_SERVICE_TIERS = tuple(tier.value for tier in ServiceTier)
_TOTALS = (TokenKind.INPUT, TokenKind.OUTPUT)
_MULTIPLIERS = {"power_level": Multiplier.POWER_LEVEL, "tier": Multiplier.TIER}


def token_rule(name: str, fields: Mapping[str, Node], prices: Node) -> TokenRule:
    """The rule of one model from its prices, in the order written."""
    charge_model(fields, ChargeModel.MODEL_TOKENS)
    dated = tuple(_dated_prices(entry) for entry in prices.elements())
    if not dated:
        raise prices.error("expected at least one entry")
    scaled_by = multipliers(fields, Multiplier.POWER_LEVEL | Multiplier.TIER)
    free = "free" in fields and fields["free"].flag()
    return TokenRule(name, free, scaled_by | Multiplier.USD, dated)


def flat_rule(node: Node) -> tuple[FlatRule, frozenset[str]]:
    """The flat price and the models it holds for; "*" stands for all of them."""
    fields = node.fields(
        frozenset({"tokens_per_credit", "models"}), frozenset({"charge", "multipliers"})
    )
    charge_model(fields, ChargeModel.FLAT_TOKENS)
    per_credit = fields["tokens_per_credit"].scaled(MULTIPLIER_DECIMALS)
    if per_credit == 0:
        raise fields["tokens_per_credit"].error("must be more than 0")
    models = frozenset(model.text().lower() for model in fields["models"].elements())
    return FlatRule("flat", multipliers(fields, Multiplier.NONE), per_credit), models


def charge_model(fields: Mapping[str, Node], *possible: ChargeModel) -> ChargeModel:
    """The charge model that the row names, the first of the possible ones when it names none.

    Raises:
        BookError: it names one that is not possible there.
    """
    if "charge" not in fields:
        return possible[0]
    for model in possible:
        if fields["charge"].text() == model:
            return model
    raise fields["charge"].error(f"the charge model here is {' or '.join(possible)}")


def multipliers(fields: Mapping[str, Node], default: Multiplier) -> Multiplier:
    """The multipliers that the row lists; without a list, the default."""
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
    written = _written(fields, _NOTHING)
    tiers = {}
    for name, tier in fields["service_tiers"].items() if "service_tiers" in fields else ():
        if name == ServiceTier.STANDARD or name not in _SERVICE_TIERS:
            raise tier.error(f"{name!r} is not one of {', '.join(_SERVICE_TIERS[1:])}")
        tiers[ServiceTier(name)] = _written(tier.fields(frozenset(), _TIER_FIELDS), written)
    return DatedPrices(
        starts_at=fields["from"].instant() if "from" in fields else None,
        between=(between[0].time_of_day(), between[1].time_of_day()) if between else None,
        standard=written.prices(),
        service_tiers={tier: prices.prices() for tier, prices in tiers.items()},
    )


@dataclass(frozen=True, slots=True)
class _Written:
    """Prices as a document has them, by kind: of a request, and above numbers of input tokens."""

    per_token: dict[TokenKind, int]
    above: dict[int, dict[TokenKind, int]]
    per_request: int
    cached_apart: tuple[TokenKind, ...]

    def at(self, threshold: int) -> dict[TokenKind, int]:
        """The prices of a request above that many input tokens: those of the highest step."""
        reached = [step for step in self.above if step <= threshold]
        return self.per_token | (self.above[max(reached)] if reached else {})

    def over(self, standard: _Written) -> _Written:
        """These prices where they name a kind, the standard ones at the same length elsewhere."""
        steps = self.above.keys() | standard.above.keys()
        return _Written(
            standard.per_token | self.per_token,
            {step: standard.at(step) | self.at(step) for step in steps},
            self.per_request,
            self.cached_apart,
        )

    def prices(self) -> TierPrices:
        """The same as integers per token, ready to multiply."""
        bands = [
            Band(step, _rates(self.at(step), self.per_request, self.cached_apart))
            for step in sorted(self.above, reverse=True)
        ]
        base = _rates(self.per_token, self.per_request, self.cached_apart)
        return TierPrices(base, tuple(bands))


_NOTHING = _Written({}, {}, 0, ())


def _written(fields: Mapping[str, Node], standard: _Written) -> _Written:
    above: dict[int, dict[TokenKind, int]] = {}
    for entry in fields["above_input_tokens"].elements() if "above_input_tokens" in fields else ():
        step = entry.fields(frozenset({"tokens", "usd_per_mtok"}), frozenset())
        above.setdefault(step["tokens"].whole(), _per_token(step["usd_per_mtok"]))
    request, apart = standard.per_request, standard.cached_apart
    if "usd_per_request" in fields:
        request = fields["usd_per_request"].scaled(PRICE_DECIMALS) * MICRO
    if "cached_apart" in fields:
        apart = _cached_apart(fields)
    per_token = _per_token(fields["usd_per_mtok"]) if "usd_per_mtok" in fields else {}
    return _Written(per_token, above, request, apart).over(standard)


def _cached_apart(fields: Mapping[str, Node]) -> tuple[TokenKind, ...]:
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
