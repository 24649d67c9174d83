"""A month's sum stays its definition, whatever of it is voided, amended and brought back."""

from collections.abc import Mapping
from dataclasses import replace
from fractions import Fraction
from math import floor
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from core.margin import MarginError, carried, remainder_micro, repriced, voided
from core.prices import PriceBook
from core.rating import Counting, Rated, rate_with
from core.recorded import USAGE_COLUMNS, recorded_event, usage_columns
from schemas.usage import PowerLevel, UsageEvent
from tests.priced_usage import PRO as FACTS
from tests.priced_usage import book, usage

_EMPTY = {"catalog": {"source": "none", "providers": []}}
# The figures of each by hand, in micro-credits: 0.01 up to 10, 0.005 above; 1 for each begun 7.
_STEPS = [{"up_to": "10", "credits": "0.01", "fee": "0.3"}, {"credits": "0.005"}]
BOOK = book(
    actions={
        "graduated": {"charge": "graduated", "steps": _STEPS},
        "volume": {"charge": "volume", "steps": _STEPS},
        "package": {"charge": "package", "credits": "1", "size": "7", "free_units": "3"},
        "thirds": {"charge": "graduated", "steps": [{"credits": "0.00001"}], "per": "3"},
        "once": {"credits": "0.002"},
        "scaled": {"charge": "graduated", "steps": _STEPS, "multipliers": ["power_level"]},
        "other": {"charge": "package", "credits": "1", "size": "7", "counter": "elsewhere"},
    },
    **_EMPTY,
)


def definition_micro(action: str, units: int) -> int:
    """What a month of that many units costs, worked out without the rules' code."""
    match action:
        case "graduated":
            credits_due = min(units, 10) * Fraction("0.01") + max(0, units - 10) * Fraction("0.005")
            credits_due += Fraction("0.3") if units else 0
        case "volume":
            each = Fraction("0.01") if units <= 10 else Fraction("0.005")
            credits_due = units * each + (Fraction("0.3") if 0 < units <= 10 else 0)
        case "package":
            credits_due = Fraction(-(-max(0, units - 3) // 7))
        case _:
            credits_due = Fraction(units, 300_000)
    return floor(credits_due * 10**6 + Fraction(1, 2))


class Month:
    """One account's month in memory: the oracle's side of a charge table."""

    def __init__(self, prices: PriceBook = BOOK) -> None:
        self.prices = prices
        self.rows: list[dict[str, Any]] = []
        self.units = 0

    def _stand(self, place: int, event: UsageEvent, rated: Rated, *, void: bool) -> None:
        row = dict(zip(USAGE_COLUMNS, usage_columns(event), strict=True))
        row |= {"event_id": event.id, "account_id": event.subject, "occurred_at": event.time}
        row |= {"source": event.source, "hold_id": None, "resource_id": "", "attributes": ""}
        row |= {"tier": "pro", "demo": False, "voided": void, **rated._asdict()}
        self.units += row["counter_units"] - (
            self.rows[place]["counter_units"] if place < len(self.rows) else 0
        )
        self.rows[place : place + 1] = [row]

    def charge(self, action: str, quantity: int, power: PowerLevel = PowerLevel.BALANCED) -> None:
        event = usage(action=action, quantity=quantity, power_level=power)
        rating = rate_with(event, self.prices, FACTS)
        rated = rating.rated(self.units) if isinstance(rating, Counting) else rating
        assert isinstance(rated, Rated)
        self._stand(len(self.rows), event, rated, void=False)

    def void(self, place: int) -> None:
        row = self.rows[place]
        self._leave(place)
        self._stand(place, recorded_event(row), voided(row), void=True)

    def amend(self, place: int, action: str, quantity: int) -> None:
        row = self.rows[place]
        event = usage(action=action, quantity=quantity)
        rating = rate_with(event, self.prices, FACTS)
        assert isinstance(rating, Rated | Counting)
        rated = repriced(row, rating, self.prices, self.units)
        if rating.counter != row["counter"]:
            self._leave(place)
        self._stand(place, event, rated, void=False)

    def _leave(self, place: int) -> None:
        """The others' price moves to the one that was counted last, as in adapters/charges.py."""
        row = self.rows[place]
        others = [
            n
            for n, other in enumerate(self.rows)
            if n != place and other["counter"] == row["counter"] and not other["voided"]
        ]
        if row["voided"] or not row["counter"] or not others:
            return
        last = max(
            others,
            key=lambda n: (self.rows[n]["counter_units"] > 0, self.rows[n]["counter_before"]),
        )
        more_micro = remainder_micro(row, self.prices, self.units)
        carrier = self.rows[last]
        self._stand(last, recorded_event(carrier), carried(carrier, more_micro), void=False)

    @property
    def total_micro(self) -> int:
        return sum(row["rated_micro"] for row in self.rows)


STEP = st.tuples(
    st.sampled_from(["charge", "void", "amend"]), st.integers(0, 9), st.integers(0, 25)
)


@pytest.mark.parametrize("action", ["graduated", "volume", "package", "thirds"])
@given(steps=st.lists(STEP, max_size=25))
def test_the_sum_of_a_month_is_its_definition_after_every_step(
    action: str, steps: list[tuple[str, int, int]]
) -> None:
    month = Month()
    for what, number, quantity in [("charge", 0, 4), *steps]:
        place = number % max(1, len(month.rows))
        if what == "charge":
            month.charge(action, quantity)
        elif what == "void" and not month.rows[place]["voided"]:
            month.void(place)
        elif what == "amend":
            month.amend(place, action, quantity)
        counted = sum(row["quantity"] for row in month.rows if not row["voided"])
        assert month.units == counted
        assert month.total_micro == definition_micro(action, counted)


@given(
    charged=st.lists(st.tuples(st.integers(0, 25), st.sampled_from(PowerLevel)), min_size=1),
    data=st.data(),
)
def test_a_month_whose_charges_are_all_voided_costs_nothing_whatever_multiplied_them(
    charged: list[tuple[int, PowerLevel]], data: st.DataObject
) -> None:
    month = Month()
    for quantity, power in charged:
        month.charge("scaled", quantity, power)
    for place in data.draw(st.permutations(range(len(charged)))):
        month.void(place)
        assert month.rows[place]["rated_micro"] == 0
    assert (month.total_micro, month.units) == (0, 0)


def test_a_void_gives_back_the_margin_and_another_charge_carries_the_rest() -> None:
    month = Month()
    month.charge("graduated", 10)  # 0.3 + 10 x 0.01
    month.charge("graduated", 10)  # 10 x 0.005
    assert [row["rated_micro"] for row in month.rows] == [400_000, 50_000]
    month.void(0)
    # The other ten are the month's first now: 0.35 more than they were charged.
    assert [row["rated_micro"] for row in month.rows] == [0, 400_000]
    month.void(1)
    assert [row["rated_micro"] for row in month.rows] == [0, 0]


def test_an_amendment_within_the_counter_changes_its_own_charge_only() -> None:
    month = Month()
    month.charge("graduated", 10)
    month.charge("graduated", 10)
    month.amend(0, "graduated", 8)  # 18 units: two fewer of those at 0.005
    assert [row["rated_micro"] for row in month.rows] == [390_000, 50_000]


def test_a_charge_without_a_counter_is_worth_what_it_was_charged() -> None:
    month = Month()
    month.charge("once", 5)
    month.void(0)
    assert month.rows[0]["rated_micro"] == 0
    month.amend(0, "once", 2)
    assert month.rows[0]["rated_micro"] == 4_000


def test_usage_without_a_counter_may_become_counted_usage() -> None:
    month = Month()
    month.charge("package", 9)
    month.charge("once", 5)
    month.amend(1, "package", 5)  # 14 - 3 units: two packages, one of them new
    assert [row["rated_micro"] for row in month.rows] == [1_000_000, 1_000_000]
    assert month.units == 14


def test_a_counted_charge_may_leave_its_counter() -> None:
    month = Month()
    month.charge("package", 9)  # one package
    month.charge("package", 3)  # the second
    month.amend(0, "once", 5)
    assert [row["rated_micro"] for row in month.rows] == [10_000, 0]
    assert month.units == 3


def test_a_counted_charge_needs_the_version_that_priced_it() -> None:
    month = Month()
    month.charge("package", 9)
    row: Mapping[str, Any] = month.rows[0]
    with pytest.raises(MarginError, match="version 1 is not known"):
        remainder_micro(row, None, 9)
    other = replace(BOOK, actions={"package": BOOK.actions["once"]})
    with pytest.raises(MarginError, match="does not price it by 'action:package'"):
        remainder_micro(row, other, 9)
