"""Rating: what one usage event costs, from the version in force at the event's time.

For a model (M1, M2), with P the price of each kind of token in dollars per million:

    micro-credits = sum(tokens x P) x credits_per_usd x power level x tier [x own-key share]

Everything is exact until one rounding, half to even, to whole micro-credits.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, assert_never

from core.charge_models import (
    MICRO,
    MULTIPLIER_DECIMALS,
    PRICE_DECIMALS,
    FlatRule,
    Refusal,
    TokenRule,
    UnitRule,
)
from core.fixed_point import rounded_half_even
from schemas.reasons import Reason, Rejected

if TYPE_CHECKING:
    from core.prices import PriceBook, PriceHistory
    from schemas.usage import UsageData, UsageEvent

# A billion credits for one event is a broken counter, and thousands of such charges would not fit
# the 64-bit balance of an account.
RATED_MICRO_MAX = 10**15
_FACTOR_ONE = 10 ** (4 * MULTIPLIER_DECIMALS)
_PRICE_DENOMINATOR = 10**PRICE_DECIMALS * _FACTOR_ONE
_FLAT_NUMERATOR = MICRO * 10**MULTIPLIER_DECIMALS


@dataclass(frozen=True, slots=True)
class AccountFacts:
    """What the price depends on besides the event."""

    tier: str
    demo: bool


@dataclass(frozen=True, slots=True)
class Rated:
    """What the book says. For a demo account too: charging nothing is the ledger's decision."""

    rated_micro: int
    price_version: int
    rule: str


def rate(event: UsageEvent, history: PriceHistory, facts: AccountFacts) -> Rated | Rejected:
    """The price of an event, or why it has none. Pure: the same arguments, the same answer.

    An event is priced by one rule: its tokens by its model; without tokens, its action if the
    action table has a row for it, else its model.
    """
    book = history.at(event.time)
    if book is None:
        return _rejected(event, Refusal(Reason.UNPRICED, "no price version is in force so early"))
    data = event.data
    rule = _rule(book, data)
    if isinstance(rule, Refusal):
        return _rejected(event, rule)
    own_key = data.own_key and not isinstance(rule, UnitRule)
    factor = book.factors.get((rule.multipliers, data.power_level, facts.tier, own_key))
    if factor is None:
        return _rejected(event, _no_tier(facts.tier, book))
    match rule:
        case TokenRule():
            numerator = rule.numerator(data, event.time)
            denominator = _PRICE_DENOMINATOR
        case FlatRule():
            numerator = (data.tokens.input + data.tokens.output) * _FLAT_NUMERATOR
            denominator = rule.tokens_per_credit * _FACTOR_ONE
        case UnitRule():
            numerator = data.quantity * rule.credits_per_unit * MICRO
            denominator = _PRICE_DENOMINATOR
        case _:
            assert_never(rule)
    if isinstance(numerator, Refusal):
        return _rejected(event, _named(numerator, rule.name, book))
    rated_micro = rounded_half_even(numerator * factor, denominator)
    if rated_micro > RATED_MICRO_MAX:
        return _rejected(
            event, Refusal(Reason.UNPROCESSABLE, "the price is above a billion credits")
        )
    return Rated(rated_micro, book.version, rule.name)


def _rule(book: PriceBook, data: UsageData) -> TokenRule | FlatRule | UnitRule | Refusal:
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
    name = f"{data.provider}/{data.model}" if data.provider else data.model
    return Refusal(Reason.UNPRICED, f"price version {book.version} does not know model {name}")


def _named(refusal: Refusal, rule: str, book: PriceBook) -> Refusal:
    return Refusal(refusal.reason, f"{rule} in price version {book.version}: {refusal.detail}")


def _no_tier(tier: str, book: PriceBook) -> Refusal:
    return Refusal(
        Reason.UNPRICED, f"price version {book.version} has no multiplier for tier {tier!r}"
    )


def _rejected(event: UsageEvent, refusal: Refusal) -> Rejected:
    return Rejected(refusal.reason, refusal.detail[:300], event.subject, event.id)
