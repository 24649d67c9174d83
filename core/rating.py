"""Rating: what one usage event costs, from the version in force at the event's time.

For a model (M1, M2), with P the price of each kind of token in dollars per million:

    micro-credits = sum(tokens x P) x credits a dollar x power level x tier [x own-key share]

Everything is exact until one rounding, half to even, to whole micro-credits. A counted price also
depends on what the account used before in the month: see core.counted.
"""

from __future__ import annotations

from dataclasses import dataclass
from datetime import UTC
from typing import TYPE_CHECKING, NamedTuple, TypeAlias, assert_never

from core.charge_models import (
    MICRO,
    MULTIPLIER_DECIMALS,
    PRICE_DECIMALS,
    RATE_DECIMALS,
    BilledRule,
    FlatRule,
    Refusal,
    TokenRule,
    UnitRule,
    no_service_tier,
    other_unit,
)
from core.counted import CountedRule, Volume
from core.fixed_point import rounded_half_even, rounded_half_up, scaled
from core.multipliers import FACTOR_ONE
from schemas.reasons import Reason, Rejected
from schemas.usage import ServiceTier, priced_as

if TYPE_CHECKING:
    from datetime import date

    from core.prices import PriceBook, PriceHistory
    from schemas.usage import UsageData, UsageEvent

# A billion credits for one event is a broken counter, and thousands of such charges would not fit
# the 64-bit balance of an account.
RATED_MICRO_MAX = 10**15
# Far below 2**63, where the stored counter ends.
COUNTED_UNITS_MAX = 10**18
BILLED_DECIMALS = 12
PRICE_DENOMINATOR = 10**PRICE_DECIMALS * FACTOR_ONE
_FLAT_NUMERATOR = MICRO * 10**MULTIPLIER_DECIMALS
_BILLED_DENOMINATOR = 10 ** (BILLED_DECIMALS + RATE_DECIMALS + MULTIPLIER_DECIMALS) * FACTOR_ONE
_STANDARD = ServiceTier.STANDARD

Rule: TypeAlias = TokenRule | FlatRule | UnitRule | CountedRule | BilledRule


@dataclass(frozen=True, slots=True)
class AccountFacts:
    """What the price depends on besides the event."""

    tier: str
    demo: bool


class Rated(NamedTuple):
    """What the book says. For a demo account too: charging nothing is the ledger's decision.

    A counted price names its counter, the units of the event, and those counted before it in the
    account's month; with it the price can be negative (core.counted.Volume).
    """

    rated_micro: int
    price_version: int
    rule: str
    counter: str = ""
    counter_units: int = 0
    counter_before: int = 0


@dataclass(frozen=True, slots=True)
class Counting:
    """An event whose price depends on what its account used in the month of the event (UTC)."""

    event: UsageEvent
    price_version: int
    rule: CountedRule
    factor: int
    month: date
    units: int
    counter: str
    """The name under which the account's units of the month are counted; see `counter_of`."""

    def rated(self, before: int) -> Rated | Rejected:
        """The price when the account's counter of that month stands at `before`. Pure.

        Rejected when no balance or counter could hold the result.
        """
        after = before + self.units
        denominator = PRICE_DENOMINATOR * self.rule.per
        micro, micro_before = (
            rounded_half_up(self.rule.cumulative(units) * MICRO * self.factor, denominator)
            for units in (after, before)
        )
        rated_micro = micro - micro_before
        if abs(rated_micro) > RATED_MICRO_MAX:
            return rejected(self.event, _TOO_MUCH)
        if after > COUNTED_UNITS_MAX:
            return rejected(self.event, _COUNTER_FULL)
        rule = self.rule
        return Rated(rated_micro, self.price_version, rule.name, self.counter, self.units, before)


_TOO_MUCH = Refusal(Reason.UNPROCESSABLE, "the price is above a billion credits")
_COUNTER_FULL = Refusal(Reason.UNPROCESSABLE, "the month's counter would exceed 10^18 units")


def rate(
    event: UsageEvent, history: PriceHistory, facts: AccountFacts
) -> Rated | Counting | Rejected:
    """The price of an event, or why it has none. Pure: the same arguments, the same answer."""
    book = history.at(event.time)
    if book is None:
        return rejected(event, Refusal(Reason.UNPRICED, "no price version is in force so early"))
    return rate_with(event, book, facts)


def rate_with(
    event: UsageEvent, book: PriceBook, facts: AccountFacts
) -> Rated | Counting | Rejected:
    """The price of an event under that version, whenever the version holds: what if.

    An event is priced by one rule: by the provider's bill where the book says so; else its tokens
    by its model; without tokens, its action if the action table has a row for it, else its model.
    """
    data = event.data
    rule = rule_for(book, data)
    if isinstance(rule, Refusal):
        return rejected(event, rule)
    own_key = data.own_key and shares_own_key(rule)
    key = (rule.multipliers, data.power_level, facts.tier, own_key)
    factor = book.factor(key, event.time)
    if factor is None:
        return rejected(event, no_tier(facts.tier, book))
    match rule:
        case TokenRule():
            numerator = rule.numerator(data, event.time)
            denominator = PRICE_DENOMINATOR
        case UnitRule():
            amount = data.quantity * rule.credits_per_unit * MICRO
            numerator = _other_kind(rule.unit, data) or amount
            denominator = PRICE_DENOMINATOR * rule.per
        case FlatRule():
            counted = data.tokens.input + data.tokens.output
            numerator = _other_kind("", data) or counted * _FLAT_NUMERATOR
            denominator = rule.tokens_per_credit * FACTOR_ONE
        case BilledRule():
            numerator = _billed(rule, book, event)
            denominator = _BILLED_DENOMINATOR
        case CountedRule():
            counter = counter_of(rule, own_key=own_key, demo=facts.demo)
            return _counting(rule, counter, factor, event, book)
        case _:
            assert_never(rule)
    if isinstance(numerator, Refusal):
        return rejected(event, named(numerator, rule.name, book))
    rated_micro = rounded_half_even(numerator * factor, denominator)
    if rated_micro > RATED_MICRO_MAX:
        return rejected(event, _TOO_MUCH)
    return Rated(rated_micro, book.version, rule.name)


def rule_for(book: PriceBook, data: UsageData) -> Rule | Refusal:
    """The one rule that prices this usage, or why there is none."""
    if data.billed is not None and book.billed is not None:
        billed = book.billed.rule(data)
        if billed is not None:
            return billed
    tokens = data.tokens
    if not (tokens.input or tokens.output):
        action = book.actions.get(data.action)
        if action is not None:
            return action
        if not data.model:
            return Refusal(
                Reason.UNPRICED,
                f"price version {book.version} has no action {data.action} and the event has"
                " neither tokens nor a model",
            )
    rule = book.model_rule(data.provider, data.model)
    if rule is not None:
        return rule
    if not data.model:
        return Refusal(Reason.UNPRICED, "tokens without a model")
    return Refusal(
        Reason.UNPRICED, f"price version {book.version} does not know model {priced_as(data)}"
    )


def shares_own_key(rule: Rule) -> bool:
    """Whether the rule prices what a provider does, so that the account's own key pays for it."""
    return not isinstance(rule, UnitRule) and (not isinstance(rule, CountedRule) or rule.of_tokens)


def named(refusal: Refusal, rule: str, book: PriceBook) -> Refusal:
    """The refusal with the rule and the version that made it in front."""
    return Refusal(refusal.reason, f"{rule} in price version {book.version}: {refusal.detail}")


def no_tier(tier: str, book: PriceBook) -> Refusal:
    """An account of a tier that the book does not know is not priced as another one."""
    return Refusal(
        Reason.UNPRICED, f"price version {book.version} has no multiplier for tier {tier!r}"
    )


def rejected(event: UsageEvent, refusal: Refusal) -> Rejected:
    """The refusal as a dead letter of that event."""
    return Rejected(
        refusal.reason, refusal.detail[:300], event.subject, event.id, priced_as(event.data)
    )


def _other_kind(unit: str, data: UsageData) -> Refusal | None:
    """Why a price in credits does not hold for this usage: another service tier or unit."""
    if data.service_tier is not _STANDARD:
        return no_service_tier(data.service_tier)
    if unit and data.unit and data.unit != unit:
        return other_unit(unit, data.unit)
    return None


def _billed(rule: BilledRule, book: PriceBook, event: UsageEvent) -> int | Refusal:
    billed = event.data.billed
    assert billed is not None, "a bill was found"
    rate = book.currencies.at(billed.currency, event.time)
    if rate is None:
        return Refusal(Reason.UNPRICED, f"there is no rate for {billed.currency}")
    return scaled(billed.amount, BILLED_DECIMALS) * rate * rule.markup * MICRO


def counter_of(rule: CountedRule, *, own_key: bool, demo: bool) -> str:
    """The counter of an event that the rule prices: what cost little counts for itself.

    Usage on the account's own key or in demo mode would else begin packages and climb steps for
    usage that is paid in full, and a volume price would give back what nobody was charged. A book
    cannot name such a counter: it has a space.
    """
    paid = " (own key)" if own_key else ""
    return f"{rule.counter}{paid} (demo)" if demo else rule.counter + paid


def _counting(
    rule: CountedRule, counter: str, factor: int, event: UsageEvent, book: PriceBook
) -> Counting | Rejected:
    data = event.data
    refusal = _other_kind(rule.unit, data)
    if data.own_key and rule.of_tokens and isinstance(rule.shape, Volume):
        # What a step gives back was charged to events at the full price.
        refusal = Refusal(Reason.UNPRICED, "a volume price has no share for an own key")
    if refusal is not None:
        return rejected(event, named(refusal, rule.name, book))
    units = data.tokens.input + data.tokens.output if rule.of_tokens else data.quantity
    month = event.time.astimezone(UTC).date().replace(day=1)
    return Counting(event, book.version, rule, factor, month, units, counter)
