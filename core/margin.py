"""What a charge is worth when it goes, or becomes another one.

A price without a counter is worth what it was charged. A counted price depends on what came before
it in the month, and taking an event out moves all events after it. Instead of pricing those again,
the difference is taken at the margin: with N units counted now, an event of u units that becomes
one of v units changes its account by

    C(N - u + v) - C(N)

so that the month's sum stays the definition, C of its total. What remains on the voided charge
itself (its own price less the margin) is what the other events of the month are worth more by then.
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


def voided(row: Row, book: PriceBook | None, units_now: int) -> Rated:
    """What the charge costs once it counts for nothing: 0, or what remains of a counted price.

    `book` is the version that priced it and `units_now` where its counter stands: both are needed
    for a counted price only.

    Raises:
        MarginError: the version does not price the recorded usage by that counter.
    """
    remaining_micro = row["rated_micro"] - _worth_micro(row, book, units_now)
    before = units_now - row["counter_units"] if row["counter"] else 0
    return Rated(remaining_micro, row["price_version"], row["rule"], row["counter"], 0, before)


def repriced(row: Row, rating: Rated | Counting, book: PriceBook | None, units_now: int) -> Rated:
    """What the charge costs once its usage has the new rating; arguments as for `voided`.

    `units_now` is where the counter of the new rating stands when the old price has none.

    Raises:
        MarginError: a counted charge would leave its counter, or the price cannot be worked out.
    """
    counter = rating.counter
    if row["counter"] and counter != row["counter"]:
        raise MarginError(
            f"it was priced by the counter {row['counter']!r}, and the amended usage would not be:"
            " void it, and publish the right usage as a new event"
        )
    remaining_micro = row["rated_micro"] - _worth_micro(row, book, units_now)
    if isinstance(rating, Counting):
        rated = rating.rated(units_now - row["counter_units"])
        if isinstance(rated, Rejected):
            raise MarginError(rated.detail)
        rating = rated
    return rating._replace(rated_micro=remaining_micro + rating.rated_micro)


def _worth_micro(row: Row, book: PriceBook | None, units_now: int) -> int:
    """What its account pays less without it, now."""
    if row["voided"]:
        return 0
    if not row["counter"]:
        worth_micro: int = row["rated_micro"]
        return worth_micro
    if book is None:
        raise MarginError(f"price version {row['price_version']} is not known")
    counting = rate_with(recorded_event(row), book, facts_of(row))
    if not isinstance(counting, Counting) or counting.counter != row["counter"]:
        raise MarginError(
            f"price version {row['price_version']} does not price it by {row['counter']!r}"
        )
    rated = counting.rated(units_now - row["counter_units"])
    if isinstance(rated, Rejected):
        raise MarginError(rated.detail)
    return rated.rated_micro
