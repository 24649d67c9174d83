"""Where records of a topic stand in the ledger, found set-based for a chunk at a time."""

import hashlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta

from aiokafka import ConsumerRecord

from adapters.bounded_records import Oversized, Undecompressed
from adapters.ledger import Position
from adapters.postgres import Connection
from adapters.queries import load
from core.batch import Entry, read
from core.replaying import Letter, Standing, standing_of
from schemas.dead_letters import KEY_BYTES_MAX, decode_dead_letter
from schemas.events import Reason, TimeWindow

SQL = load("replay")
LEDGER_SQL = load("ledger")
# What one request may hold, less what a batch adds to it.
HEADERS_BYTES_MAX = 128 * 1024
_ANY_AGE = TimeWindow(age_ms_max=10**15)


@dataclass(frozen=True, slots=True)
class Original:
    """A record as it was first published: its place, its append time in ms, and its own bytes."""

    partition: int
    offset: int
    timestamp: int
    key: bytes | None
    value: bytes | None
    headers: tuple[tuple[str, bytes], ...] = ()


@dataclass(frozen=True, slots=True)
class Standpoint:
    """One record with its standing.

    `reason` says what is wrong with one that can not be read. `too_late` is set where the rater
    would find the event too old if Kafka appended it now, and no dead letter says otherwise.
    """

    original: Original
    standing: Standing
    reason: Reason | None = None
    letter_id: int | None = None
    identity: tuple[str, str] | None = None
    too_late: bool = False


def original_of(record: ConsumerRecord) -> Original | None:
    """The record of usage.events as it can be sent again; None when its bytes are not whole."""
    if isinstance(record, Oversized | Undecompressed):
        return None
    headers = tuple(record.headers)
    if sum(len(name) + len(content or b"") for name, content in headers) > HEADERS_BYTES_MAX:
        return None
    return Original(
        record.partition, record.offset, record.timestamp, record.key, record.value, headers
    )


def original_in_letter(record: ConsumerRecord) -> Original | None:
    """The record that a letter of usage.dead was made of; None when its bytes were cut."""
    letter = None
    if not isinstance(record, Oversized | Undecompressed):
        letter = decode_dead_letter(record.value)
    if letter is None or len(letter.payload) < letter.payload_bytes:
        return None
    if letter.key is not None and len(letter.key) >= KEY_BYTES_MAX:
        return None
    at_ms = round(letter.appended_at.timestamp() * 1000)
    place = letter.origin
    return Original(place.partition, place.offset, at_ms, letter.key, letter.payload)


class Surveyor:
    """Compares records with the ledger as it stands; `positions` are those of the raters."""

    def __init__(
        self,
        connection: Connection,
        topic: str,
        window: TimeWindow,
        positions: Mapping[int, Position],
    ) -> None:
        self._connection = connection
        self._topic = topic
        self._age_max = timedelta(milliseconds=window.age_ms_max)
        self._positions = positions
        latest = max((position.epoch for position in positions.values()), default=1)
        self._epochs = list(range(1, latest + 1))

    async def survey(self, originals: Sequence[Original]) -> list[Standpoint]:
        """The standing of each, in their order within each kind. Two round trips at most."""
        entries, dead = read(originals, _ANY_AGE)
        found = [
            Standpoint(_of(item.record), Standing.UNREADABLE, item.rejected.reason) for item in dead
        ]
        claims = await self._claims(entries)
        unclaimed = [n for n in range(len(entries)) if n not in claims]
        letters = await self._letters([entries[n] for n in unclaimed])
        letter_of = {unclaimed[n]: letter for n, letter in letters.items()}
        now = datetime.now(UTC)
        for n, entry in enumerate(entries):
            if n in claims:
                found.append(
                    _standpoint(
                        entry, standing_of(entry.payload_hash, claims[n], None, waiting=False)
                    )
                )
            else:
                found.append(self._unclaimed(entry, letter_of.get(n), now))
        return found

    def _unclaimed(self, entry: Entry, letter: Letter | None, now: datetime) -> Standpoint:
        """As the rater judges: by the first append of these bytes, where a letter tells of it."""
        oldest = entry.event.time + self._age_max
        appended_at = datetime.fromtimestamp(entry.record.timestamp / 1000, UTC)
        first_at = None if letter is None else letter.first_at
        if min(appended_at, first_at or appended_at) > oldest:
            return Standpoint(_of(entry.record), Standing.UNREADABLE, Reason.TOO_OLD)
        waiting = self._waits(_of(entry.record))
        standing = standing_of(entry.payload_hash, None, letter, waiting=waiting)
        return _standpoint(entry, standing, letter, too_late=(first_at or now) > oldest)

    def _waits(self, original: Original) -> bool:
        position = self._positions.get(original.partition)
        return position is None or original.offset >= position.next_offset

    async def _claims(self, entries: Sequence[Entry]) -> dict[int, int]:
        if not entries:
            return {}
        rows = await self._connection.fetch(
            LEDGER_SQL.find_claims,
            [entry.event.subject for entry in entries],
            [entry.event.id for entry in entries],
        )
        return {n: payload_hash for n, payload_hash in rows}  # noqa: C416 - Records, not tuples

    async def _letters(self, entries: Sequence[Entry]) -> dict[int, Letter]:
        if not entries:
            return {}
        rows = await self._connection.fetch(
            SQL.newest_letters,
            self._topic,
            self._epochs,
            [entry.record.partition for entry in entries],
            [entry.record.offset for entry in entries],
            [entry.event.subject for entry in entries],
            [entry.event.id for entry in entries],
            [hashlib.sha256(entry.record.value or b"").digest() for entry in entries],
        )
        return {
            row["n"]: Letter(
                row["dead_letter_id"], Reason(row["reason"]), row["requeued"], row["first_at"]
            )
            for row in rows
        }


def _standpoint(
    entry: Entry, standing: Standing, letter: Letter | None = None, *, too_late: bool = False
) -> Standpoint:
    return Standpoint(
        _of(entry.record),
        standing,
        letter_id=None if letter is None else letter.dead_letter_id,
        identity=(entry.event.subject, entry.event.id),
        too_late=too_late,
    )


def _of(record: object) -> Original:
    assert isinstance(record, Original)  # noqa: S101 - core hands back what it was given
    return record
