"""What holds for every counted price, however a month's usage is split into events."""

from fractions import Fraction
from itertools import pairwise
from math import floor
from typing import Any

from hypothesis import given
from hypothesis import strategies as st

from core.rating import AccountFacts, Counting, Rated, rate
from schemas.usage import PowerLevel
from tests.counted_rows import COUNTED, MONOTONIC, UNITS, defined, graduated, volume
from tests.priced_usage import PRO, history, usage

_MONTHS = st.lists(UNITS, max_size=12)
EVENTS = st.tuples(st.sampled_from(list(PowerLevel)), st.sampled_from(("free", "pro")))


def month(
    row: dict[str, Any], sizes: list[int], power: str = "balanced", tier: str = "pro"
) -> list[int]:
    """What events of those sizes cost, one after the other in one month of one account."""
    prices = history(actions={"work": row})
    facts, before, costs = AccountFacts(tier, demo=False), 0, []
    for units in sizes:
        event = usage(action="work", quantity=units, power_level=PowerLevel(power))
        counting = rate(event, prices, facts)
        assert isinstance(counting, Counting), counting
        rated = counting.rated(before)
        assert isinstance(rated, Rated), rated
        assert (rated.counter_before, rated.counter_units) == (before, units)
        costs.append(rated.rated_micro)
        before += units
    return costs


def _scaled(row: dict[str, Any]) -> dict[str, Any]:
    """The row with every multiplier that its model takes."""
    power = [] if row["charge"] == "package" else ["power_level"]
    return row | {"multipliers": [*power, "tier"]}


@given(COUNTED, UNITS)
def test_a_month_in_one_event_costs_its_definition(row: dict[str, Any], units: int) -> None:
    assert month(row, [units]) == [floor(defined(row, units) * 10**6 + Fraction(1, 2))]


@given(COUNTED, _MONTHS)
def test_the_total_does_not_depend_on_how_the_month_is_split(
    row: dict[str, Any], sizes: list[int]
) -> None:
    together = month(row, [sum(sizes)])
    assert sum(month(row, sizes)) == sum(together)
    assert sum(month(row, sizes[::-1])) == sum(together)


@given(graduated(), _MONTHS)
def test_splitting_never_makes_graduated_pricing_cheaper_than_its_definition(
    row: dict[str, Any], sizes: list[int]
) -> None:
    exact_micro = defined(row, sum(sizes)) * 10**6
    assert abs(sum(month(row, sizes)) - exact_micro) <= Fraction(1, 2)


@given(MONOTONIC, _MONTHS, EVENTS)
def test_no_event_costs_less_than_nothing_and_more_units_never_less(
    row: dict[str, Any], sizes: list[int], event: tuple[str, str]
) -> None:
    scaled = _scaled(row)
    assert all(micro >= 0 for micro in month(scaled, sizes, *event))
    more = [month(scaled, [*sizes, last], *event)[-1] for last in (0, 1, 7, 900)]
    assert more == sorted(more)


@given(MONOTONIC, _MONTHS, EVENTS)
def test_an_event_loses_less_than_one_micro_credit_and_the_month_at_most_half_a_one(
    row: dict[str, Any], sizes: list[int], event: tuple[str, str]
) -> None:
    scaled = _scaled(row)
    power = {"eco": Fraction(1, 2), "balanced": Fraction(1), "precision": Fraction(2)}[event[0]]
    factor = power if "power_level" in scaled["multipliers"] else Fraction(1)
    factor *= {"free": Fraction(3, 2), "pro": Fraction(1)}[event[1]]
    costs = month(scaled, sizes, *event)
    counts = [sum(sizes[:n]) for n in range(len(sizes) + 1)]
    exact = [defined(row, count) * factor * 10**6 for count in counts]
    for charged, (before, after) in zip(costs, pairwise(exact), strict=True):
        assert abs(charged - (after - before)) < 1
    assert abs(sum(costs) - exact[-1]) <= Fraction(1, 2)


@given(volume(), _MONTHS)
def test_a_volume_price_never_gives_back_more_than_the_month_was_charged(
    row: dict[str, Any], sizes: list[int]
) -> None:
    costs = month(row, sizes)
    assert all(sum(costs[:n]) >= 0 for n in range(len(costs) + 1))


_PAID = st.lists(st.tuples(UNITS, st.booleans()), max_size=12)


@given(volume(), _PAID)
def test_it_gives_back_nothing_for_what_a_demo_account_was_not_charged(
    row: dict[str, Any], events: list[tuple[int, bool]]
) -> None:
    prices, counts, charged = history(actions={"work": row}), dict[str, int](), 0
    for units, demo in events:
        event = usage(action="work", quantity=units)
        counting = rate(event, prices, AccountFacts("pro", demo=demo))
        assert isinstance(counting, Counting)
        rated = counting.rated(counts.get(counting.counter, 0))
        assert isinstance(rated, Rated)
        counts[rated.counter] = counts.get(rated.counter, 0) + units
        charged += 0 if demo else rated.rated_micro
        assert charged >= 0


@given(MONOTONIC, st.integers(0, 10**9), st.integers(0, 10**6))
def test_counting_is_pure(row: dict[str, Any], before: int, units: int) -> None:
    event = usage(action="work", quantity=units)
    first, second = (rate(event, history(actions={"work": row}), PRO) for _ in range(2))
    assert isinstance(first, Counting)
    assert isinstance(second, Counting)
    assert first.rated(before) == second.rated(before) == first.rated(before)
