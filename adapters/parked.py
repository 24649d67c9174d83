"""Parked letters: unpriced events, sent to `usage.events` again once a version prices them.

A letter is marked in the transaction that sent it, after the broker's acknowledgement. A crash in
between sends it again; its event id is claimed by then, so it is charged once.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from typing import Any

from aiokafka import AIOKafkaProducer

from adapters.faultpoints import reached
from adapters.postgres import Connection
from adapters.publishing import Outgoing, send_all
from adapters.queries import load
from core.batch import Entry, rate_all, read
from core.prices import PriceHistory
from core.rating import AccountFacts
from schemas.events import ANY_TIME, Rejected

SQL = load("parked")
LETTERS_MAX = 200  # of one transaction, which stays open until the broker has acked them
_LOCK = 7_201_003
_EPOCH = datetime(1970, 1, 1, tzinfo=UTC)
_MS = timedelta(milliseconds=1)


@dataclass(frozen=True, slots=True)
class Tried:
    """What one look at the parked letters did."""

    requeued: int
    unpriced: int

    @property
    def letters(self) -> int:
        """How many were looked at."""
        return self.requeued + self.unpriced


@dataclass(frozen=True, slots=True)
class Letter:
    """A parked letter as the record that it was; `timestamp` is its append time in milliseconds."""

    dead_letter_id: int
    partition: int
    offset: int
    timestamp: int
    key: bytes | None
    value: bytes


class Parked:
    """The parked letters of one usage topic, as one transaction of `connection` sees them."""

    def __init__(self, connection: Connection, topic: str) -> None:
        self._connection = connection
        self._topic = topic

    async def claim(self) -> tuple[int, list[Letter]]:
        """The newest price version and up to 200 letters that it was not tried on, oldest first.

        No letters when another transaction looks after them: one at a time, so that a new version
        does not flood the topic.
        """
        if not await self._connection.fetchval(SQL.begin, _LOCK):
            return 0, []
        version: int = await self._connection.fetchval(SQL.newest_price_version)
        rows = await self._connection.fetch(SQL.claim_untried, version, LETTERS_MAX)
        return version, [_letter(row) for row in rows]

    async def retry(
        self,
        letters: Sequence[Letter],
        producer: AIOKafkaProducer,
        history: PriceHistory,
        new_facts: AccountFacts,
    ) -> Tried:
        """Sends those that `history` prices, with their own keys and bytes, and marks all.

        `new_facts` is what holds for accounts that do not exist yet. Raises KafkaError when the
        broker does not acknowledge; the caller's transaction then marks nothing.
        """
        by_id = {letter.dead_letter_id: letter for letter in letters}
        priced = await self._priced(letters, history, new_facts)
        again = [by_id[letter_id] for letter_id in priced]
        await send_all(producer, [Outgoing(self._topic, one.key, one.value) for one in again])
        if again:
            reached("after_requeue")
        version = history.latest_version
        await self._connection.execute(SQL.mark_requeued, priced, version)
        unpriced = [letter_id for letter_id in by_id if letter_id not in set(priced)]
        await self._connection.execute(SQL.mark_tried, unpriced, version)
        return Tried(len(priced), len(unpriced))

    async def waiting(self) -> int:
        """How many letters wait for a price, tried or not."""
        count: int = await self._connection.fetchval(SQL.count_waiting)
        return count

    async def _priced(
        self,
        letters: Sequence[Letter],
        history: PriceHistory,
        new_facts: AccountFacts,
    ) -> list[int]:
        """The ids of those that have a price now; the rater decides again, under its locks.

        Of any age: a copy's own append time says nothing, and the rater knows the first one.
        """
        entries, _ = read(letters, ANY_TIME)
        subjects = {entry.event.subject for entry in entries}
        rows = await self._connection.fetch(SQL.read_facts, list(subjects))
        facts = dict.fromkeys(subjects, new_facts) | {
            row["account_id"]: AccountFacts(row["tier"], row["demo"]) for row in rows
        }
        ratings = rate_all(entries, history, facts)
        return [
            _id(entry)
            for entry, rating in zip(entries, ratings, strict=True)
            if not isinstance(rating, Rejected)
        ]


def _id(entry: Entry) -> int:
    assert isinstance(entry.record, Letter)  # noqa: S101 - it was read from one
    return entry.record.dead_letter_id


def _letter(row: Mapping[str, Any]) -> Letter:
    return Letter(
        row["dead_letter_id"],
        row["partition"],
        row["offset"],
        (row["appended_at"] - _EPOCH) // _MS,
        row["key"],
        row["payload"],
    )
