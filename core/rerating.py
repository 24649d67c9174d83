"""Re-rating: what charges would cost under another price book, or under today's.

Pure: the events, how their charges stand and the counts of the month are arguments. An event is
priced as it was recorded and for the account's tier of that time; a corrected charge is compared in
the state in force. Nothing is booked here: a `Change` says what would have to be.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from datetime import UTC, datetime, time, timedelta
from enum import StrEnum
from typing import TYPE_CHECKING, NamedTuple, TypeAlias

from core.corrections import Change, Kind, month_end, month_of
from core.counted import Volume
from core.rating import AccountFacts, Counting, Rated
from core.recorded import recorded_event, unit_charged
from core.volume_counts import clash
from schemas.reasons import Rejected

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, MutableMapping, Sequence
    from datetime import date

    from core.prices import PriceBook, PriceHistory
    from core.recorded import Row
    from schemas.usage import UsageEvent

CounterKey = tuple[str, str, "date"]  # account, counter, month
Rating: TypeAlias = Rated | Counting | Rejected


class Verdict(StrEnum):
    """What re-rating found of one event. The value is what is stored: it is never renamed."""

    SAME = "same"
    CHANGED = "changed"
    UNPRICED = "unpriced"
    VOIDED = "voided"
    UNCHARGED = "uncharged"

    @property
    def meaning(self) -> str:
        """One sentence for people."""
        return _MEANINGS[self]


_MEANINGS = {
    Verdict.SAME: "costs what it was charged",
    Verdict.CHANGED: "costs more or less",
    Verdict.UNPRICED: "has no price in this book: stays as it is",
    Verdict.VOIDED: "was voided: counts for nothing",
    Verdict.UNCHARGED: "waits for a price, and would have one",
}


class Item(NamedTuple):
    """One event to price again, and its charge as it stands; no `row`: it was never charged.

    A row has the columns of `charge` overlaid by the latest correction, with `voided` and
    `sequence` (sql/postgres/queries/rerate.sql, charges_at).
    """

    event: UsageEvent
    facts: AccountFacts
    row: Row | None


class Line(NamedTuple):
    """One event's line of the report; its fields are the columns of ClickHouse's rerate_line.

    The amounts are what the account is charged: 0 for a demo account. Without a price the new
    amount is the old one, because the charge stays; an uncharged event has no old amount.
    """

    account_id: str
    event_id: str
    occurred_at: datetime
    provider: str
    model: str
    action: str
    old_version: int
    new_version: int
    old_micro: int
    new_micro: int
    verdict: Verdict


@dataclass(slots=True)
class Tally:
    """How many events had which verdict, and what the charged ones cost before and after.

    What uncharged events would cost is in neither sum: they are charged by the rater, not here.
    """

    events: int = 0
    changed: int = 0
    unpriced: int = 0
    voided: int = 0
    uncharged: int = 0
    superseded: int = 0
    old_micro: int = 0
    new_micro: int = 0

    @property
    def difference_micro(self) -> int:
        """What the accounts would pay more (less: negative) in all."""
        return self.new_micro - self.old_micro


@dataclass(slots=True)
class Found:
    """What became of some events: a line each, and the changes that would make the lines true."""

    lines: list[Line] = field(default_factory=list)
    changes: list[Change] = field(default_factory=list)
    tally: Tally = field(default_factory=Tally)


class InsideMonthError(ValueError):
    """A counted price is met, but not all that its month has counted so far is in the stretch."""


class Stretch(NamedTuple):
    """The event times of a run, `until` exclusive, and `now`, when it began."""

    since: datetime
    until: datetime
    now: datetime

    def holds(self, month: date) -> bool:
        """Whether all that the month (UTC) has counted so far lies in it."""
        begins, ends = (datetime.combine(day, time(), UTC) for day in (month, month_end(month)))
        return self.since <= begins and self.until >= min(ends, self.now)


class OpenMonthError(ValueError):
    """What is counted would change in a month that is not over, while the rater counts in it."""


def in_their_units(items: Iterable[Item], history: PriceHistory) -> list[Item]:
    """The items with the units in which their quantities were charged, where they say none."""
    books: dict[int, PriceBook | None] = {}
    known = []
    for item in items:
        row = item.row
        if row is not None and not item.event.data.unit:
            version = row["price_version"]
            if version not in books:
                books[version] = history.numbered(version)
            if unit := unit_charged(row, books[version]):
                item = item._replace(event=recorded_event(row, unit))  # noqa: PLW2901
        known.append(item)
    return known


def price_all(
    items: Iterable[Item], price: Callable[[UsageEvent, AccountFacts], Rating]
) -> list[Rating]:
    """Each event's rating; a voided charge's as well, though it will count for nothing."""
    return [price(item.event, item.facts) for item in items]


def counter_keys(items: Iterable[Item], ratings: Iterable[Rating]) -> set[CounterKey]:
    """The counts of the month that these ratings depend on."""
    return {
        (item.event.subject, rating.counter, rating.month)
        for item, rating in zip(items, ratings, strict=True)
        if isinstance(rating, Counting)
    }


def resolve(
    items: Sequence[Item],
    ratings: Sequence[Rating],
    counts: MutableMapping[CounterKey, int],
    stretch: Stretch,
) -> list[Rated | Rejected]:
    """Prices what depends on the month's usage, from the counts of this run, and moves those.

    In the order in which the rater counted: the items come in the order of their batches, and
    within these by what had been counted before them. A voided charge counts nothing.

    Raises:
        InsideMonthError: a month that is counted is not all in the stretch.
    """
    resolved: list[Rated | Rejected] = [
        rating if not isinstance(rating, Counting) else _NOT_YET for rating in ratings
    ]
    order = sorted(
        (_counted_before(item, rating), n)
        for n, (item, rating) in enumerate(zip(items, ratings, strict=True))
        if isinstance(rating, Counting)
    )
    for _, n in order:
        rating = ratings[n]
        assert isinstance(rating, Counting)
        item = items[n]
        if item.row is not None and item.row["voided"]:
            resolved[n] = Rated(0, rating.price_version, rating.rule.name, rating.counter)
            continue
        if not stretch.holds(rating.month):
            raise InsideMonthError(
                f"{rating.rule.name} counts the month of {rating.month:%Y-%m}: begin with --from"
                f" {rating.month} or before, and end with --to {month_end(rating.month)} or after"
            )
        key = (item.event.subject, rating.counter, rating.month)
        before = counts.get(key, 0)
        rated = rating.rated(before)
        if isinstance(rated, Rated):
            counts[key] = before + rating.units
        resolved[n] = rated
    return resolved


_NOT_YET = Rated(0, 0, "")


def _counted_before(item: Item, rating: Counting) -> int:
    """Where the same counter stood when the rater counted it; the order of the items otherwise."""
    row = item.row
    return row["counter_before"] if row is not None and row["counter"] == rating.counter else 0


def compare(items: Sequence[Item], ratings: Sequence[Rated | Rejected]) -> Found:
    """What each event costs now and would cost. Order and number of the lines are the items'."""
    found = Found()
    tally = found.tally
    for item, rating in zip(items, ratings, strict=True):
        if item.row is None:
            line = _uncharged(item, rating)
        else:
            line = _charged(item, item.row, rating)
            tally.old_micro += line.old_micro
            tally.new_micro += line.new_micro
            if line.verdict is Verdict.CHANGED and isinstance(rating, Rated):
                found.changes.append(_change(item, item.row, rating))
        _count(tally, line.verdict)
        found.lines.append(line)
    return found


def _count(tally: Tally, verdict: Verdict) -> None:
    tally.events += 1
    if verdict is not Verdict.SAME:
        name = verdict.value
        setattr(tally, name, getattr(tally, name) + 1)


def _charged(item: Item, row: Row, rating: Rated | Rejected) -> Line:
    old_version, old_micro = row["price_version"], row["amount_micro"]
    if row["voided"]:
        return _line(item, old_version, old_version, old_micro, old_micro, Verdict.VOIDED)
    if isinstance(rating, Rejected):
        return _line(item, old_version, 0, old_micro, old_micro, Verdict.UNPRICED)
    same = rating.rated_micro == row["rated_micro"] and (
        (rating.counter, rating.counter_units) == (row["counter"], row["counter_units"])
    )
    new_micro = 0 if row["demo"] else rating.rated_micro
    verdict = Verdict.SAME if same else Verdict.CHANGED
    return _line(item, old_version, rating.price_version, old_micro, new_micro, verdict)


def _uncharged(item: Item, rating: Rated | Rejected) -> Line:
    if isinstance(rating, Rejected):
        return _line(item, 0, 0, 0, 0, Verdict.UNPRICED)
    new_micro = 0 if item.facts.demo else rating.rated_micro
    return _line(item, 0, rating.price_version, 0, new_micro, Verdict.UNCHARGED)


def _line(
    item: Item, old_version: int, new_version: int, old_micro: int, new_micro: int, verdict: Verdict
) -> Line:
    event = item.event
    data = event.data
    return Line(
        event.subject, event.id, event.time, data.provider, data.model, data.action,
        old_version, new_version, old_micro, new_micro, verdict,
    )  # fmt: skip


def _change(item: Item, row: Row, rated: Rated) -> Change:
    event = item.event
    return Change(
        account_id=event.subject,
        event_id=event.id,
        kind=Kind.RERATE,
        voided=False,
        event=event,
        rated=rated,
        based_on=row["sequence"],
    )


def refuse_open_months(
    items: Iterable[Item], ratings: Iterable[Rated | Rejected], now: datetime
) -> None:
    """Refuses to change what is counted in the month of `now` (UTC) or later, before it is booked.

    The rater counts on from where the month's counter stands; a charge that joins or leaves the
    counter behind its back would leave a gap, or have units counted twice.

    Raises:
        OpenMonthError: naming the counter and the month.
    """
    open_from = month_of(now)
    for item, rating in zip(items, ratings, strict=True):
        row = item.row
        if row is None or row["voided"] or isinstance(rating, Rejected):
            continue
        after, before = (
            (rating.counter, rating.counter_units),
            (row["counter"], row["counter_units"]),
        )
        month = month_of(item.event.time)
        if after != before and month >= open_from:
            raise OpenMonthError(
                f"the counter {rating.counter or row['counter']!r} would count otherwise in"
                f" {month:%Y-%m}, which is not over: apply it when the month is"
            )


def clash_in_force(
    chosen: PriceBook, history: PriceHistory, since: datetime, until: datetime
) -> str | None:
    """Where usage would be counted on by another price once it is booked at the chosen one's.

    The versions are those that price the months (UTC) of the stretch, `until` exclusive, from now
    on; only what a volume price is part of clashes (docs/decisions, 0084). None: nothing does.
    """
    begins = datetime.combine(month_of(since), time(), UTC)
    last = month_of(until - timedelta(microseconds=1))
    numbers = range(1, history.latest_version + 1)
    later = [book.effective_from for number in numbers if (book := history.numbered(number))]
    starts = [when for when in later if begins < when and month_of(when) <= last]
    for book in filter(None, map(history.at, [begins, *starts])):
        if (pair := clash([*book.counted_rules(), *chosen.counted_rules()])) is not None:
            return (
                f"{pair[1].name} counts {pair[0].counter!r}, as {pair[0].name} of version"
                f" {book.version} does at another price in the same month"
            )
    return None


def counts_by_volume(book: PriceBook, counter: str) -> bool:
    """Whether usage that is counted there may give credits back; in demo mode none are moved."""
    return any(
        rule.counter == counter and isinstance(rule.shape, Volume) for rule in book.counted_rules()
    )


def restored(row: Row, event: UsageEvent, based_on: int) -> Change:
    """The change that takes a correction back: the charge is again what `row` says it was.

    `based_on` is the sequence in which the charge is what is taken back: in another state the
    change is stale.
    """
    rated = Rated(
        row["rated_micro"], row["price_version"], row["rule"], row["counter"],
        row["counter_units"], row["counter_before"],
    )  # fmt: skip
    return Change(
        row["account_id"], row["event_id"], Kind.REVERT, row["voided"], event, rated, based_on
    )
