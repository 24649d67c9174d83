"""Dead letters in PostgreSQL, on their way to `usage.dead`, and back to `usage.events`.

The row is the truth: it is written in the transaction that moved the position. The topic is a
copy of it for whoever wants to listen.
"""

import asyncio
import contextlib
from collections import Counter
from collections.abc import AsyncIterator, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Any

from aiokafka import AIOKafkaProducer
from aiokafka.errors import KafkaError
from pydantic_core import from_json

from adapters.failures import Failure
from adapters.postgres import Connection
from adapters.publishing import Outgoing, send_all
from adapters.queries import load
from adapters.settings import Settings
from schemas.dead_letters import DeadLetter, Origin, encode_dead_letter
from schemas.reasons import Reason
from schemas.topics import USAGE_DEAD, USAGE_EVENTS

SQL = load("dead_letters")
PUBLISH_LETTERS_MAX = 200  # with 64 KiB each about 13 MiB, which the batch's memory allows
REQUEUE_LETTERS_MAX = 200  # of one transaction, which stays open until the broker has acked them
_PUBLISHING_LOCK = 7_201_001

Row = dict[str, Any]


@dataclass(frozen=True, slots=True)
class Selection:
    """Which dead letters are meant; None is no limit. Times are aware; the later is exclusive.

    `since` and `until` are of the letter's death, `event_since` and `event_until` of the event's
    own time, which only its bytes tell: a letter without a time that can be read is not meant by
    them. `models` are provider/model, or actions.
    """

    ids: Sequence[int] | None = None
    reasons: Sequence[Reason] | None = None
    account_id: str | None = None
    since: datetime | None = None
    until: datetime | None = None
    models: Sequence[str] | None = None
    event_since: datetime | None = None
    event_until: datetime | None = None

    @property
    def empty(self) -> bool:
        """True when it selects every dead letter there is."""
        return self == Selection()

    @property
    def arguments(self) -> tuple[object, ...]:
        """The first six parameters of every statement that selects."""
        return (
            None if self.ids is None else list(self.ids),
            None if self.reasons is None else [reason.value for reason in self.reasons],
            self.account_id,
            self.since,
            self.until,
            None if self.models is None else list(self.models),
        )

    @property
    def by_event_time(self) -> bool:
        """Whether the bytes have to be looked at."""
        return self.event_since is not None or self.event_until is not None

    def means(self, payload: bytes) -> bool:
        """Whether the event of a letter that the statement found is in the time that is meant."""
        if not self.by_event_time:
            return True
        when = event_time(payload)
        return (
            when is not None
            and (self.event_since is None or when >= self.event_since)
            and (self.event_until is None or when < self.event_until)
        )


@dataclass(frozen=True, slots=True)
class Waiting:
    """What a requeue finds: how many it can send, and why not the others."""

    reason: str
    waiting: int
    requeued: int
    truncated: int

    @property
    def sendable(self) -> int:
        """Never sent again so far, and whole."""
        return self.waiting - self.truncated


async def publish_pending(
    connection: Connection, producer: AIOKafkaProducer, settings: Settings
) -> int:
    """Publishes up to 200 unpublished dead letters and marks them; returns how many.

    At least once: a crash between the acknowledgement and the mark publishes them again. One
    session at a time does it; for the others the answer is 0. Raises KafkaError when the broker
    does not acknowledge; the rows stay unpublished.
    """
    if not await connection.fetchval(SQL.try_publishing, _PUBLISHING_LOCK):
        return 0
    try:
        rows = await connection.fetch(SQL.read_unpublished, PUBLISH_LETTERS_MAX)
        topic = settings.topic_prefix + USAGE_DEAD.name
        await send_all(producer, [letter_record(topic, row) for row in rows])
        await connection.execute(SQL.mark_published, [row["dead_letter_id"] for row in rows])
    finally:
        # A connection that broke has given its lock back already.
        with contextlib.suppress(Exception):
            await connection.execute(SQL.end_publishing, _PUBLISHING_LOCK)
    return len(rows)


def letter_record(topic: str, row: Mapping[str, Any]) -> Outgoing:
    """The dead letter as a record, keyed by its account when that is known."""
    letter = DeadLetter(
        reason=Reason(row["reason"]),
        detail=row["detail"],
        origin=Origin(row["topic"], row["partition"], row["offset"], row["epoch"]),
        appended_at=row["appended_at"],
        dead_at=row["dead_at"],
        account_id=row["account_id"],
        event_id=row["event_id"],
        key=row["key"],
        payload=row["payload"],
        payload_bytes=row["payload_bytes"],
        payload_sha256=row["payload_sha256"],
    )
    key = None if letter.account_id is None else letter.account_id.encode()
    return Outgoing(topic=topic, key=key, value=encode_dead_letter(letter))


async def summary(connection: Connection) -> list[Row]:
    """Dead letters by reason over the whole table, most frequent first."""
    return [dict(row) for row in await connection.fetch(SQL.count_dead_letters)]


async def list_letters(
    connection: Connection,
    selection: Selection,
    *,
    only_waiting: bool,
    below_id: int | None,
    letters_max: int,
) -> list[Row]:
    """Dead letters newest first, without their payloads."""
    rows = await connection.fetch(
        SQL.list_dead_letters, *selection.arguments, only_waiting, below_id, letters_max
    )
    return [dict(row) for row in rows]


async def read_letter(connection: Connection, dead_letter_id: int) -> Row:
    """One dead letter with its bytes; raises Failure when there is none of that id."""
    row = await connection.fetchrow(SQL.read_dead_letter, dead_letter_id)
    if row is None:
        raise Failure(
            f"no dead letter has the id {dead_letter_id}: see `tollgate dead-letters list`"
        )
    return dict(row)


async def count_waiting(connection: Connection, selection: Selection) -> list[Waiting]:
    """What a requeue of this selection would find, by reason.

    Reads every selected letter's bytes when the selection is by event time, a few at a time.
    """
    if not selection.by_event_time:
        rows = await connection.fetch(SQL.count_selected, *selection.arguments)
        return [Waiting(**dict(row)) for row in rows]
    found: Counter[tuple[str, bool, bool]] = Counter()
    async with connection.transaction(readonly=True):
        cursor = connection.cursor(
            SQL.read_selected, *selection.arguments, prefetch=REQUEUE_LETTERS_MAX
        )
        async for row in cursor:
            if selection.means(row["payload"]):
                found[row["reason"], row["requeued"], row["truncated"]] += 1
    return [
        Waiting(
            reason,
            waiting=found[reason, False, False] + found[reason, False, True],
            requeued=found[reason, True, False] + found[reason, True, True],
            truncated=found[reason, False, True],
        )
        for reason in sorted({reason for reason, _, _ in found})
    ]


def event_time(payload: bytes) -> datetime | None:
    """The time that the bytes of an event claim, aware; None where there is none to read."""
    try:
        when = datetime.fromisoformat(from_json(payload)["time"])
    except (ValueError, TypeError, KeyError):
        return None
    return when if when.tzinfo is not None else None


async def requeue(
    connection: Connection,
    producer: AIOKafkaProducer,
    settings: Settings,
    selection: Selection,
) -> AsyncIterator[int]:
    """Sends whole letters to usage.events with their own key and bytes; yields counts as it goes.

    Letters that were sent again before are left out, so that running it twice sends nothing
    twice. A crash after the acknowledgement, or one that is late, may send up to 200 again: their
    ids are claimed in the ledger, so none is charged twice. Goes up to the newest letter of its
    start, so that one that dies again is not sent for ever. Raises Failure when the broker does
    not acknowledge within half of `idle_transaction_seconds_max`.
    """
    last_id = await connection.fetchval(SQL.newest_dead_letter)
    after_id = 0
    while True:
        async with connection.transaction():
            claimed = await connection.fetch(
                SQL.claim_for_requeue, *selection.arguments, after_id, last_id, REQUEUE_LETTERS_MAX
            )
            if not claimed:
                return
            meant = [row for row in claimed if selection.means(row["payload"])]
            await _send_again(producer, settings, meant)
            ids = [row["dead_letter_id"] for row in meant]
            await connection.execute(SQL.mark_requeued, ids)
        after_id = claimed[-1]["dead_letter_id"]
        if ids:
            yield len(ids)


async def _send_again(
    producer: AIOKafkaProducer, settings: Settings, claimed: Sequence[Mapping[str, Any]]
) -> None:
    topic = settings.topic_prefix + USAGE_EVENTS.name
    letters = [Outgoing(topic=topic, key=row["key"], value=row["payload"]) for row in claimed]
    try:
        # The transaction that claims them ends by itself when it is idle for longer.
        async with asyncio.timeout(settings.idle_transaction_seconds_max / 2):
            await send_all(producer, letters)
    except (KafkaError, TimeoutError) as error:
        raise Failure(
            f"{topic} did not acknowledge ({type(error).__name__}): what it acknowledged before "
            "is marked, run the same command again for the rest"
        ) from None
