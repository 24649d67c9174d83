"""The components of a price: what was counted, at which unit price, and what that comes to."""

from __future__ import annotations

from dataclasses import dataclass
from fractions import Fraction
from typing import TYPE_CHECKING, assert_never

from core.charge_models import (
    CONTAINED_IN,
    MICRO,
    MULTIPLIER_DECIMALS,
    PRICE_DECIMALS,
    TokenKind,
)
from core.counted import Graduated, Package, Volume
from core.fixed_point import exact_text

if TYPE_CHECKING:
    from core.charge_models import FlatRule, Rates, UnitRule
    from core.counted import CountedRule, Step
    from schemas.usage import TokenCounts, UsageData

CREDITS = "credits"
_DOLLARS = "USD"
_PRICE_ONE = 10**PRICE_DECIMALS


def _total(kind: TokenKind) -> TokenKind:
    while kind in CONTAINED_IN:
        kind = CONTAINED_IN[kind]
    return kind


# What is counted in the input, then what is counted in the output.
_IN_ORDER = sorted(TokenKind, key=lambda kind: _total(kind) is TokenKind.OUTPUT)


@dataclass(frozen=True, slots=True)
class Line:
    """One component: quantity / per x unit_price = amount, in `currency` (credits or ISO 4217)."""

    component: str
    quantity: Fraction
    unit: str
    unit_price: Fraction
    per: int
    currency: str

    @property
    def amount(self) -> Fraction:
        """What the component comes to, before multipliers."""
        return self.quantity * self.unit_price / self.per

    def as_json(self) -> dict[str, object]:
        """The same with every exact figure as text."""
        return {
            "component": self.component,
            "quantity": exact_text(self.quantity),
            "unit": self.unit,
            "unit_price": exact_text(self.unit_price),
            "per": self.per,
            "currency": self.currency,
            "amount": exact_text(self.amount),
        }


def token_lines(rates: Rates, data: UsageData, *, free: bool) -> tuple[Line, ...]:
    """Every token once, in the innermost kind that has a price, and the fee for each request."""
    per_token = rates.per_token()
    lines = [
        Line(kind, Fraction(count), "tokens", _price(0 if free else per_token[kind]), MICRO, "USD")
        for kind, count in _counted_once(rates, data.tokens).items()
        if count
    ]
    if rates.per_request and data.quantity and not free:
        fee = _price(rates.per_request) / MICRO
        lines.append(Line("requests", Fraction(data.quantity), "requests", fee, 1, _DOLLARS))
    return tuple(lines)


def flat_line(rule: FlatRule, data: UsageData) -> Line:
    """Tokens of input and output at one price."""
    tokens = Fraction(data.tokens.input + data.tokens.output)
    price = Fraction(10**MULTIPLIER_DECIMALS, rule.tokens_per_credit)
    return Line("input and output", tokens, "tokens", price, 1, CREDITS)


def unit_line(rule: UnitRule, data: UsageData) -> Line:
    """The quantity of an action."""
    unit, price = rule.unit or data.unit or "units", _price(rule.credits_per_unit)
    return Line("quantity", Fraction(data.quantity), unit, price, rule.per, CREDITS)


def billed_line(data: UsageData) -> Line:
    """The provider's bill."""
    assert data.billed is not None, "a bill was found"
    amount, currency = Fraction(data.billed.amount), data.billed.currency
    return Line("provider's bill", Fraction(1), "bill", amount, 1, currency)


def counted_lines(rule: CountedRule, before: int, after: int) -> tuple[Line, ...]:
    """What the units from `before` to `after` of a month add; together C(after) - C(before)."""
    shape, unit = rule.shape, "tokens" if rule.of_tokens else rule.unit or "units"
    match shape:
        case Package():
            begun = shape.packages(after) - shape.packages(before)
            component = f"packages begun, of {shape.size:,} {unit}"
            price = _price(shape.credits_each)
            return (Line(component, Fraction(begun), "packages", price, 1, CREDITS),)
        case Graduated():
            return tuple(_graduated_lines(shape, before, after, unit, rule.per))
        case Volume():
            return tuple(_volume_lines(shape, before, after, unit, rule.per))
        case _:
            assert_never(shape)


def _counted_once(rates: Rates, tokens: TokenCounts) -> dict[TokenKind, int]:
    kinds = [kind for kind in _IN_ORDER if kind in rates.priced or kind not in CONTAINED_IN]
    left = {kind: int(getattr(tokens, kind)) for kind in kinds}
    for kind in kinds:
        around = CONTAINED_IN.get(kind)
        while around is not None and around not in left:
            around = CONTAINED_IN[around]
        if around is not None:
            left[around] -= getattr(tokens, kind)
    return left


def _graduated_lines(shape: Graduated, before: int, after: int, unit: str, per: int) -> list[Line]:
    lines = []
    below = 0
    for number, step in enumerate(shape.steps, 1):
        top = after if step.up_to is None else min(after, step.up_to)
        within = top - max(below, before)
        if within > 0:
            component = f"step {number} ({_span(below, step)})"
            price = _price(step.credits_per)
            lines.append(Line(component, Fraction(within), unit, price, per, CREDITS))
            if step.fee and before <= below:
                fee = _price(step.fee)
                lines.append(Line(f"entry to step {number}", Fraction(1), "fee", fee, 1, CREDITS))
        if step.up_to is None or after <= step.up_to:
            break
        below = step.up_to
    return lines


def _volume_lines(shape: Volume, before: int, after: int, unit: str, per: int) -> list[Line]:
    same = before and shape.step_of(before) is shape.step_of(after)
    if same:
        price = _price(shape.step_of(after).credits_per)
        return [Line("units of the month", Fraction(after - before), unit, price, per, CREDITS)]
    lines = []
    for component, units, sign in (
        ("all units of the month", after, 1),
        ("less those before, at their step", before, -1),
    ):
        if units:
            step = shape.step_of(units)
            price, fee = _price(step.credits_per), _price(step.fee)
            lines.append(Line(component, Fraction(sign * units), unit, price, per, CREDITS))
            if fee:
                lines.append(Line(f"{component}: fee", Fraction(sign), "fee", fee, 1, CREDITS))
    return lines


def _span(below: int, step: Step) -> str:
    return f"above {below:,}" if step.up_to is None else f"{below + 1:,} to {step.up_to:,}"


def _price(scaled: int) -> Fraction:
    return Fraction(scaled, _PRICE_ONE)
