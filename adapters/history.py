"""The history of an account's credits, a page at a time, newest first."""

import base64
import binascii
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any

from adapters.failures import Failure
from adapters.postgres import Connection
from adapters.queries import load

SQL = load("history")
ROWS_MAX = 500


@dataclass(frozen=True, slots=True)
class Cursor:
    """The last row of a page: where the next one begins. Opaque to callers."""

    at: datetime
    place: str

    def __str__(self) -> str:
        """The cursor as text for a link."""
        raw = f"{self.at.isoformat()}|{self.place}"
        return base64.urlsafe_b64encode(raw.encode()).decode().rstrip("=")


@dataclass(frozen=True, slots=True)
class Filters:
    """Which entries are wanted; None is no limit. Times are aware; `until` is exclusive."""

    types: Sequence[str] | None = None
    statuses: Sequence[str] | None = None
    since: datetime | None = None
    until: datetime | None = None


@dataclass(frozen=True, slots=True)
class Page:
    """Some rows, and the cursor of the next page; None on the last one."""

    entries: list[dict[str, Any]]
    following: Cursor | None

    @property
    def next(self) -> str | None:
        """The cursor of the next page as text."""
        return None if self.following is None else str(self.following)


def page_of(rows: Sequence[Mapping[str, Any]], rows_max: int, at: str, place: str) -> Page:
    """A page of rows of which one more than `rows_max` was asked for.

    `at` and `place` name the columns that the rows are sorted by: a time, and what is unique.
    """
    entries = [dict(row) for row in rows[:rows_max]]
    if len(rows) <= rows_max:
        return Page(entries, None)
    return Page(entries, Cursor(entries[-1][at], entries[-1][place]))


def read_cursor(text: str) -> Cursor:
    """The cursor that `str` wrote. Raises Failure for any other text."""
    try:
        raw = base64.urlsafe_b64decode(text + "=" * (-len(text) % 4)).decode()
        moment, _, place = raw.partition("|")
        at = datetime.fromisoformat(moment)
    except (binascii.Error, ValueError):
        raise Failure("the cursor is not one that a page gave") from None
    if at.tzinfo is None or not place or len(place) > 200 or not place.isprintable():
        raise Failure("the cursor is not one that a page gave")
    return Cursor(at.astimezone(UTC), place)


async def history(
    connection: Connection, account_id: str, filters: Filters, rows_max: int, before: Cursor | None
) -> Page:
    """One page. Walking the pages shows each entry once, whatever is written meanwhile."""
    wanted = min(rows_max, ROWS_MAX)
    rows = await connection.fetch(
        SQL.history_page,
        account_id,
        None if filters.types is None else list(filters.types),
        None if filters.statuses is None else list(filters.statuses),
        filters.since,
        filters.until,
        None if before is None else before.at,
        None if before is None else before.place,
        wanted + 1,
    )
    return page_of(rows, wanted, "at", "place")
