"""Why an event costs what it costs: every component, multiplier and rounding, in exact figures.

It is worked out a second time, in fractions and from the prices as they are written, so that the
hot path's integers are checked whenever somebody asks.
"""

from __future__ import annotations

from dataclasses import dataclass
from fractions import Fraction
from math import floor
from typing import TYPE_CHECKING, assert_never

from core.charge_models import (
    MICRO,
    MULTIPLIER_DECIMALS,
    RATE_DECIMALS,
    BilledRule,
    ChargeModel,
    FlatRule,
    Multiplier,
    Refusal,
    TokenRule,
    UnitRule,
)
from core.components import Line, billed_line, counted_lines, flat_line, token_lines, unit_line
from core.counted import CountedRule
from core.currencies import USD
from core.fixed_point import exact_text
from core.rating import Counting, rate_with, rule_for, shares_own_key
from schemas.reasons import Rejected
from schemas.usage import ServiceTier

if TYPE_CHECKING:
    from datetime import datetime, time

    from core.prices import PriceBook
    from core.rating import AccountFacts, Rated, Rule
    from schemas.usage import UsageEvent

MULTIPLIER_ONE = 10**MULTIPLIER_DECIMALS


_HALF = Fraction(1, 2)


@dataclass(frozen=True, slots=True)
class Scale:
    """One multiplier by name, such as "tier free", and its exact value."""

    name: str
    value: Fraction


@dataclass(frozen=True, slots=True)
class Explanation:
    """How one event is priced under one version.

    exact_micro = sum of the lines' amounts x the product of the scales x 10^6. The rating rounds it
    half to even; a counted price rounds the month's price before and after the event, so that the
    month's total is rounded once. `rounding_micro` is what that added (or took).
    """

    price_version: int
    effective_from: datetime
    rule: str
    charge_model: ChargeModel
    conditions: tuple[str, ...]
    lines: tuple[Line, ...]
    scales: tuple[Scale, ...]
    exact_micro: Fraction
    rated_micro: int
    counter: str
    counter_units: int
    counter_before: int

    @property
    def rounding_micro(self) -> Fraction:
        """What rounding added to the exact amount; at most half a micro-credit, one if counted."""
        return self.rated_micro - self.exact_micro

    def as_json(self) -> dict[str, object]:
        """The same with every exact figure as text."""
        return {
            "price_version": self.price_version,
            "effective_from": self.effective_from.isoformat(),
            "rule": self.rule,
            "charge_model": self.charge_model.value,
            "conditions": list(self.conditions),
            "lines": [line.as_json() for line in self.lines],
            "multipliers": [
                {"name": scale.name, "value": exact_text(scale.value)} for scale in self.scales
            ],
            "exact_credits": exact_text(self.exact_micro / MICRO),
            "rounding_micro": exact_text(self.rounding_micro),
            "rated_micro": self.rated_micro,
            "counter": self.counter,
            "counter_units": self.counter_units,
            "counter_before": self.counter_before,
        }


def explain(
    event: UsageEvent, book: PriceBook, facts: AccountFacts, counter_before: int = 0
) -> Explanation | Rejected:
    """The price of an event under a version, in parts; `rated_micro` equals what `rate_with` says.

    `counter_before` is where the account's counter of the month stands, for a counted price.
    """
    rating = rate_with(event, book, facts)
    if isinstance(rating, Counting):
        rating = rating.rated(counter_before)
    if isinstance(rating, Rejected):
        return rating
    rule = rule_for(book, event.data)
    assert not isinstance(rule, Refusal), "a price was found"
    lines = _lines(rule, event, rating)
    scales = _scales(rule, event, book, facts)
    factor = Fraction(MICRO)
    for scale in scales:
        factor *= scale.value
    exact_micro = factor * sum((line.amount for line in lines), Fraction(0))
    rated_micro = round(exact_micro)
    if isinstance(rule, CountedRule):
        before = rule.cost(rating.counter_before) * factor
        rated_micro = floor(before + exact_micro + _HALF) - floor(before + _HALF)
    assert rated_micro == rating.rated_micro, "the explanation differs from the rating"
    return Explanation(
        price_version=book.version,
        effective_from=book.effective_from,
        rule=rule.name,
        charge_model=_charge_model(rule),
        conditions=_conditions(rule, event),
        lines=lines,
        scales=scales,
        exact_micro=exact_micro,
        rated_micro=rated_micro,
        counter=rating.counter,
        counter_units=rating.counter_units,
        counter_before=rating.counter_before,
    )


def _lines(rule: Rule, event: UsageEvent, rating: Rated) -> tuple[Line, ...]:
    match rule:
        case TokenRule():
            rates = rule.rates(event.data, event.time)
            assert not isinstance(rates, Refusal), "a price was found"
            return token_lines(rates, event.data, free=rule.free)
        case FlatRule():
            return (flat_line(rule, event.data),)
        case UnitRule():
            return (unit_line(rule, event.data),)
        case CountedRule():
            before = rating.counter_before
            return counted_lines(rule, before, before + rating.counter_units)
        case BilledRule():
            return (billed_line(event.data),)
        case _:
            assert_never(rule)


def _scales(
    rule: Rule, event: UsageEvent, book: PriceBook, facts: AccountFacts
) -> tuple[Scale, ...]:
    data, scaled_by = event.data, book.multipliers
    scales = []
    if Multiplier.USD in rule.multipliers:
        scales.append(_currency(USD, book, event))
    if isinstance(rule, BilledRule):
        assert data.billed is not None, "a bill was found"
        scales.append(_currency(data.billed.currency, book, event))
        scales.append(Scale("markup", Fraction(rule.markup, MULTIPLIER_ONE)))
    if Multiplier.POWER_LEVEL in rule.multipliers:
        power = scaled_by.power_levels[data.power_level]
        scales.append(Scale(f"power level {data.power_level}", Fraction(power, MULTIPLIER_ONE)))
    if Multiplier.TIER in rule.multipliers:
        by_tier = scaled_by.tiers[facts.tier]
        scales.append(Scale(f"tier {facts.tier}", Fraction(by_tier, MULTIPLIER_ONE)))
    if data.own_key and shares_own_key(rule):
        scales.append(Scale("own key", Fraction(scaled_by.own_key_share, MULTIPLIER_ONE)))
    return tuple(scales)


def _currency(currency: str, book: PriceBook, event: UsageEvent) -> Scale:
    credits_each = book.currencies.at(currency, event.time)
    assert credits_each is not None, "a rate was found"
    return Scale(f"credits for 1 {currency}", Fraction(credits_each, 10**RATE_DECIMALS))


def _conditions(rule: Rule, event: UsageEvent) -> tuple[str, ...]:
    """Which of a model's prices were chosen: their start, service tier and length of the input."""
    if not isinstance(rule, TokenRule):
        return ()
    chosen, data = rule.in_force(event.time), event.data
    found = []
    if chosen.starts_at is not None:
        found.append(f"prices from {_clock(chosen.starts_at)} UTC")
    if chosen.between is not None:
        start, end = chosen.between
        found.append(f"prices between {_clock(start)} and {_clock(end)} UTC")
    prices = chosen.standard
    if data.service_tier is not ServiceTier.STANDARD:
        prices = chosen.service_tiers[data.service_tier]
        found.append(f"service tier {data.service_tier.value}")
    for band in prices.bands:
        if data.tokens.input > band.above_input_tokens:
            found.append(f"more than {band.above_input_tokens:,} input tokens")
            break
    if rule.free:
        found.append("listed as free")
    return tuple(found)


def _clock(moment: datetime | time) -> str:
    """To the minute, or as exact as it is."""
    return str(moment).removesuffix("+00:00").removesuffix(":00")


def _charge_model(rule: Rule) -> ChargeModel:
    match rule:
        case TokenRule():
            return ChargeModel.MODEL_TOKENS
        case FlatRule():
            return ChargeModel.FLAT_TOKENS
        case UnitRule():
            return ChargeModel.PER_UNIT
        case CountedRule():
            return rule.shape.model
        case BilledRule():
            return ChargeModel.BILLED
        case _:
            assert_never(rule)
