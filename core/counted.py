"""Counted charge models: what an account used in a month costs, as functions of the whole month.

A counted price is a function C of all units of the month, and an event that moves the count from
n to n + u costs C(n + u) - C(n). The differences telescope: however a month's usage is split into
events, its sum is C of the total. With F the multipliers of the event and R the rounding, half
up, to whole micro-credits:

    charge = R(F x C(n + u)) - R(F x C(n))

Half up and not half to even: so the difference of two of them is off by less than one, always.

The unit of C here is 10**-PRICE_DECIMALS credits, divided by the rule's `per`.
"""

from __future__ import annotations

from dataclasses import dataclass
from fractions import Fraction
from typing import TYPE_CHECKING, NamedTuple, TypeAlias

from core.charge_models import PRICE_DECIMALS, ChargeModel

if TYPE_CHECKING:
    from core.charge_models import Multiplier


class Step(NamedTuple):
    """One step of a ladder of prices: up to and including `up_to` units, None for all above.

    `credits_per` is the price of each `per` units and `fee` is charged once when the step is
    entered, both in 10**-PRICE_DECIMALS credits.
    """

    up_to: int | None
    credits_per: int
    fee: int


@dataclass(frozen=True, slots=True)
class Package:
    """Whole packages: a begun one is paid in full when its first unit is used.

        C(n) = ceil(max(0, n - free_units) / size) x credits

    10 credits for each 1,000 units, the first 500 free: 500 units cost nothing, the 501st costs
    10 credits, and the next 999 cost nothing more; 2,600 units are three packages, 30 credits.
    """

    size: int
    free_units: int
    credits_each: int

    model = ChargeModel.PACKAGE

    def cumulative(self, units: int, per: int) -> int:
        """C of that many units of a month; never falls."""
        return self.packages(units) * self.credits_each * per

    def packages(self, units: int) -> int:
        """How many packages that many units of a month begin."""
        return -(-max(0, units - self.free_units) // self.size)


@dataclass(frozen=True, slots=True)
class Graduated:
    """Every unit costs the price of the step that it falls into.

        C(n) = sum over the steps entered ((units within the step) / per x credits + fee)

    0.01 credits each up to 1,000, 0.005 above: 1,500 units cost 1,000 x 0.01 + 500 x 0.005 = 12.5
    credits, in one event or in 1,500.
    """

    steps: tuple[Step, ...]

    model = ChargeModel.GRADUATED

    def cumulative(self, units: int, per: int) -> int:
        """C of that many units of a month; never falls."""
        total = below = 0
        for step in self.steps:
            if units <= below:
                break
            top = units if step.up_to is None else min(units, step.up_to)
            total += (top - below) * step.credits_per + step.fee * per
            below = top
        return total


@dataclass(frozen=True, slots=True)
class Volume:
    """All units of the month cost the price of the step that the month's total falls into.

        C(n) = n / per x credits of the step of n + its fee

    0.01 credits each up to 1,000, 0.005 above: 1,000 units cost 10 credits; the 1,001st makes all
    of them cost 0.005, together 5.005, so it gives back 4.995 at once.
    """

    steps: tuple[Step, ...]

    model = ChargeModel.VOLUME

    def cumulative(self, units: int, per: int) -> int:
        """C of that many units of a month; falls where a step begins that is cheaper."""
        if units == 0:
            return 0
        step = self.step_of(units)
        return units * step.credits_per + step.fee * per

    def step_of(self, units: int) -> Step:
        """The step that a month of that many units falls into."""
        for step in self.steps:
            if step.up_to is None or units <= step.up_to:
                return step
        raise AssertionError("the last step has no end")


Shape: TypeAlias = Package | Graduated | Volume


@dataclass(frozen=True, slots=True)
class CountedRule:
    """A price that depends on what the account used in the month, under the name of a counter.

    `of_tokens` says what is counted: input and output tokens of a model, or the quantity of an
    action. Rules may share a counter; each then prices its own events at the shared count.
    """

    name: str
    counter: str
    multipliers: Multiplier
    shape: Shape
    per: int
    unit: str
    of_tokens: bool

    def cumulative(self, units: int) -> int:
        """C of that many units of a month, times `per`."""
        return self.shape.cumulative(units, self.per)

    def cost(self, units: int) -> Fraction:
        """C of that many units of a month, in credits, exactly."""
        return Fraction(self.cumulative(units), self.per * 10**PRICE_DECIMALS)
