"""Random counted prices, and their definition written the long way."""

from fractions import Fraction
from typing import Any

from hypothesis import strategies as st

UNITS = st.integers(0, 400)
_PRICE = st.integers(0, 3 * 10**7).map(lambda micro: f"{micro // 10**7}.{micro % 10**7:07}")
_COSTS = _PRICE.filter(lambda price: price.strip("0."))
_PERS = st.sampled_from(("1", "3", "60", "1000", "1000000"))


@st.composite
def _ladders(draw: st.DrawFn) -> list[dict[str, str]]:
    bounds = sorted(draw(st.sets(st.integers(1, 600), max_size=4)))
    steps = [{"up_to": str(bound)} for bound in bounds] + [{}]
    return [step | {"credits": draw(_COSTS), "fee": draw(_PRICE | st.just("0"))} for step in steps]


@st.composite
def packages(draw: st.DrawFn) -> dict[str, Any]:
    return {
        "charge": "package",
        "credits": draw(_COSTS),
        "size": str(draw(st.integers(1, 300))),
        "free_units": str(draw(st.integers(0, 300))),
    }


@st.composite
def graduated(draw: st.DrawFn) -> dict[str, Any]:
    return {"charge": "graduated", "steps": draw(_ladders()), "per": draw(_PERS)}


@st.composite
def volume(draw: st.DrawFn) -> dict[str, Any]:
    return {"charge": "volume", "steps": draw(_ladders()), "per": draw(_PERS)}


MONOTONIC = packages() | graduated()
COUNTED = MONOTONIC | volume()


def defined(row: dict[str, Any], units: int) -> Fraction:
    """The definitions of docs/pricing.md written the long way, in credits: unit by unit."""
    if row["charge"] == "package":
        paid, begun = units - int(row["free_units"]), 0
        while paid > 0:
            begun, paid = begun + 1, paid - int(row["size"])
        return begun * Fraction(row["credits"])
    per, last = int(row["per"]), row["steps"][-1]
    if row["charge"] == "volume":
        step = next((s for s in row["steps"][:-1] if units <= int(s["up_to"])), last)
        cost = Fraction(units, per) * Fraction(step["credits"]) + Fraction(step["fee"])
        return cost if units else Fraction(0)
    inside = [0] * len(row["steps"])
    for unit in range(1, units + 1):
        inside[sum(unit > int(step["up_to"]) for step in row["steps"][:-1])] += 1
    return sum(
        (
            Fraction(count, per) * Fraction(step["credits"]) + Fraction(step["fee"])
            for count, step in zip(inside, row["steps"], strict=True)
            if count
        ),
        Fraction(0),
    )
