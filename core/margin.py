"""What a charge is worth when it goes, or becomes another one.

A price without a counter is worth what it was charged. A counted price depends on what came before
it in the month, and taking an event out moves the price of all events after it. Instead of pricing
those again, the difference is taken at the margin: with N units counted now, an event of u units
that becomes one of v units changes what its account pays by

    C(N - u + v) - C(N)

so that the month's sum stays the definition, C of its total. A charge that leaves its counter costs
nothing there any more; its own price less the margin is what the others are worth more by then, and
one of them carries it.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from core.rating import Counting, Rated, rate_with
from core.recorded import Row, facts_of, recorded_event
from schemas.reasons import Rejected

if TYPE_CHECKING:
    from core.prices import PriceBook


class MarginError(ValueError):
    """The charge cannot be corrected by itself; the message is one line that says what to do."""


def voided(row: Row) -> Rated:
    """What the charge costs once it counts for nothing: nothing. It keeps the counter's name."""
    return Rated(0, row["price_version"], row["rule"], row["counter"])


def repriced(row: Row, rating: Rated | Counting, book: PriceBook | None, units_now: int) -> Rated:
    """What the charge costs once its usage has the new rating.

    `units_now` is where the counter of the new rating stands, and `book` the version that priced
    the charge: both are needed for counted prices only. A charge that stays in its counter keeps
    what it cost and adds the difference at the margin.

    Raises:
        MarginError: the price cannot be worked out.
    """
    if isinstance(rating, Rated):
        return rating
    stays = rating.counter == row["counter"]
    rated = _known(rating.rated(units_now - row["counter_units"] if stays else units_now))
    if not stays:
        return rated
    kept_micro = remainder_micro(row, book, units_now)
    return rated._replace(rated_micro=kept_micro + rated.rated_micro)


def remainder_micro(row: Row, book: PriceBook | None, units_now: int) -> int:
    """What the other charges of the month cost more when this one goes: its price less the margin.

    `units_now` is where its counter stands. 0 without a counter.

    Raises:
        MarginError: the version does not price the recorded usage by that counter.
    """
    price_micro: int = row["rated_micro"]
    if row["voided"] or not row["counter"]:
        return 0
    if book is None:
        raise MarginError(f"price version {row['price_version']} is not known")
    counting = rate_with(recorded_event(row), book, facts_of(row))
    if not isinstance(counting, Counting) or counting.counter != row["counter"]:
        raise MarginError(
            f"price version {row['price_version']} does not price it by {row['counter']!r}"
        )
    return price_micro - _known(counting.rated(units_now - row["counter_units"])).rated_micro


def carried(row: Row, more_micro: int) -> Rated:
    """The price of a charge that takes over what another one leaves behind."""
    return Rated(
        row["rated_micro"] + more_micro,
        row["price_version"],
        row["rule"],
        row["counter"],
        row["counter_units"],
        row["counter_before"],
    )


def _known(rated: Rated | Rejected) -> Rated:
    if isinstance(rated, Rejected):
        raise MarginError(rated.detail)
    return rated
