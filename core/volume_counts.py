"""Volume prices that would give back what nobody paid: one counter of a month has one price.

A step of a volume price gives back what the units before it were charged too much. That is right
only if they were charged by the same price: after a change within the month, or beside another
rule on the same counter, a cheap start would be paid back as if it had been dear (docs/decisions,
0084).
"""

from __future__ import annotations

from datetime import timedelta
from typing import TYPE_CHECKING, NamedTuple

from core.counted import CountedRule, Shape, Volume

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence
    from datetime import datetime

_MOMENT = timedelta(microseconds=1)


class Published(NamedTuple):
    """A version of the book: from when it prices, and since when workers know it."""

    version: int
    effective_from: datetime
    published_at: datetime


def clash(rules: Iterable[CountedRule]) -> tuple[CountedRule, CountedRule] | None:
    """Two rules that share a counter and price it otherwise, one of them by volume; None: none."""
    first: dict[str, CountedRule] = {}
    volumes: set[str] = set()
    others: dict[str, CountedRule] = {}
    for rule in rules:
        met = first.setdefault(rule.counter, rule)
        if _curve(met) != _curve(rule):
            others.setdefault(rule.counter, rule)
        if isinstance(rule.shape, Volume):
            volumes.add(rule.counter)
    for counter, other in others.items():
        if counter in volumes:
            return first[counter], other
    return None


def _curve(rule: CountedRule) -> tuple[Shape, int]:
    return rule.shape, rule.per


def versions_beside(new: Published, versions: Sequence[Published]) -> list[int]:
    """The numbers of the versions that price, or have priced, usage of a month that `new` prices.

    A version prices until a later one begins, and has priced what came before that one was known:
    charges already made stay, also when a correction begins in the past. Months are of UTC.
    """
    every = [*versions, new]
    new_end = _end(new, every)
    return [
        each.version
        for each, end in ((each, _end(each, every)) for each in versions)
        if (end is None or each.effective_from < end)
        and _reaches(each.effective_from, new_end)
        and _reaches(new.effective_from, end)
    ]


def _end(each: Published, every: Sequence[Published]) -> datetime | None:
    """When usage is no longer priced by it; None: never."""
    after = (
        max(later.effective_from, later.published_at)
        for later in every
        if (later.effective_from, later.version) > (each.effective_from, each.version)
    )
    return min(after, default=None)


def _reaches(start: datetime, end: datetime | None) -> bool:
    """Whether a stretch that ends then ends in the month of `start` or later."""
    if end is None:
        return True
    last = end - _MOMENT
    return (start.year, start.month) <= (last.year, last.month)
