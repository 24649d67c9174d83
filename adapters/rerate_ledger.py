"""Reading a stretch of the ledger for a run: in the order in which the accounts were charged.

A stretch is of event times, the ledger is ordered by batches. An event is charged at most so long
after its time (and a little before it), so the batches of that time hold the whole stretch, however
large the ledger is; charges of dead letters that waited longer are found by their letters.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from itertools import groupby
from typing import Any, NamedTuple

import asyncpg
import stamina
from pydantic import ValidationError

from adapters.failures import Failure
from adapters.postgres import Connection
from adapters.rerate_runs import SQL, Position, Run
from adapters.settings import Settings
from core.recorded import Row, facts_of, recorded_event
from core.rerating import Item
from schemas.events import TimeWindow
from schemas.topics import USAGE_EVENTS

PIECES_MAX = 4_096
# Clocks of two machines differ, and a batch's time is that of its begin.
SLACK = timedelta(hours=1)
BATCH_ATTEMPTS_MAX = 10  # each waits for lock_timeout; who is frozen in a batch is cut off by then


class Piece(NamedTuple):
    """Offsets of one partition that one batch applied; `to_offset` is exclusive."""

    batch_id: int
    epoch: int
    partition: int
    from_offset: int
    to_offset: int


@dataclass(frozen=True, slots=True)
class Chunk:
    """Events to price again; once they are dealt with, the run stands at `position`.

    `steps` counts for the progress: batches of the ledger, records of a topic.
    """

    items: list[Item]
    position: Position
    steps: int


async def find_extent(
    connection: Connection, settings: Settings, since: datetime, until: datetime
) -> dict[str, Any] | None:
    """The batches that can hold charges of events from `since` to `until`; None: there are none.

    An event's record is appended within the allowed window around its time, and is gone from the
    topic after its retention, so it was charged before that or never. Batches that are in flight
    are waited for: they may have been priced by an older version.

    Raises Failure when one of them does not end for long.
    """
    topic = settings.topic_prefix + USAGE_EVENTS.name
    await _wait_for_batches(connection, topic)
    ahead = timedelta(milliseconds=TimeWindow().ahead_ms_max)
    late = await latest_after(connection, settings)
    late += timedelta(milliseconds=USAGE_EVENTS.retention_ms)
    first = await connection.fetchval(SQL.first_batch, since - ahead - SLACK)
    last = await connection.fetchval(SQL.last_batch, until + late + SLACK)
    if first is None or last is None:
        return None
    rows = await connection.fetch(SQL.late_batches, topic, since, until, last)
    return {"first": min(first, last), "last": last, "late": [row["batch_id"] for row in rows]}


async def latest_after(connection: Connection, settings: Settings) -> timedelta:
    """How long after its time an event was appended at most: the limit may be lower by now."""
    noted: int = await connection.fetchval(SQL.event_age_days_max)
    return timedelta(days=max(noted, settings.event_age_days_max))


async def _wait_for_batches(connection: Connection, topic: str) -> None:
    """One partition after the other, so that no batch has to wait for us."""
    for position in await connection.fetch(SQL.stream_positions, topic):
        try:
            async for attempt in stamina.retry_context(
                on=asyncpg.LockNotAvailableError, attempts=BATCH_ATTEMPTS_MAX, timeout=None
            ):
                with attempt:
                    await connection.execute(SQL.wait_for_batch, topic, position["partition"])
        except asyncpg.LockNotAvailableError:
            raise Failure(
                f"a batch of {topic}/{position['partition']} does not end: see `tollgate lag`, and"
                " try again"
            ) from None


def begin(extent: Mapping[str, Any]) -> Position:
    """Before the first piece of the extent."""
    return {"batch": extent["first"], "epoch": 0, "partition": 0, "offset": 0}


def steps_of(extent: Mapping[str, Any]) -> int:
    """How many steps the whole extent is: numbers of batches, of which some were never used."""
    batches: int = extent["last"] - extent["first"] + 1 + len(extent["late"])
    return batches


async def next_chunk(
    connection: Connection, run: Run, position: Position, offsets_max: int
) -> Chunk | None:
    """The charges after `position`, at most so many offsets of them; None: that was all.

    The same position gives the same charges for ever, each as it stands now.
    """
    after = (position["batch"], position["epoch"], position["partition"], position["offset"])
    extent = run.extent
    rows = await connection.fetch(SQL.pieces, *after, extent["last"], PIECES_MAX)
    if not rows and extent["late"]:
        rows = await connection.fetch(SQL.late_pieces, *after, extent["late"], PIECES_MAX)
    if not rows:
        return None
    pieces = whole_batches([_begun(Piece(*row), after) for row in rows], offsets_max)
    last = pieces[-1]
    charges = await connection.fetch(
        SQL.charges_at,
        [piece.epoch for piece in pieces],
        [piece.partition for piece in pieces],
        [piece.from_offset for piece in pieces],
        [piece.to_offset for piece in pieces],
        run.since,
        run.until,
        run.account_ids,
    )
    stands = {
        "batch": last.batch_id,
        "epoch": last.epoch,
        "partition": last.partition,
        "offset": last.to_offset,
    }
    steps = max(0, min(last.batch_id, extent["last"]) - position["batch"])
    return Chunk([item_of(row) for row in charges], stands, steps)


def item_of(row: Row) -> Item:
    """The recorded event with its charge.

    Raises Failure when a release of narrower limits reads what an earlier one recorded.
    """
    try:
        event = recorded_event(row)
    except ValidationError as error:
        raise Failure(
            f"the charge of event {row['event_id']} of account {row['account_id']} is outside of"
            f" this release's limits: {error.errors()[0]['msg']}"
        ) from None
    return Item(event, facts_of(row), row)


def _begun(piece: Piece, after: tuple[int, int, int, int]) -> Piece:
    """The rest of a piece that was cut before."""
    batch_id, epoch, partition, offset = after
    if piece[:3] == (batch_id, epoch, partition) and piece.from_offset < offset:
        return piece._replace(from_offset=offset)
    return piece


def whole_batches(pieces: Sequence[Piece], offsets_max: int) -> list[Piece]:
    """As many whole batches as fit, at least one; one that is larger by itself is cut.

    Within a batch an account may be charged from two partitions: kept together, they can be put
    into the order in which they were counted.
    """
    taken: list[Piece] = []
    room = offsets_max
    for _, batch in groupby(pieces, key=lambda piece: piece.batch_id):
        group = list(batch)
        size = sum(piece.to_offset - piece.from_offset for piece in group)
        if size <= room:
            taken += group
            room -= size
            continue
        return taken or _cut(group, offsets_max)
    return taken


def _cut(pieces: Sequence[Piece], offsets_max: int) -> list[Piece]:
    taken = []
    room = offsets_max
    for piece in pieces:
        to_offset = min(piece.to_offset, piece.from_offset + room)
        taken.append(piece._replace(to_offset=to_offset))
        room -= to_offset - piece.from_offset
        if room == 0:
            break
    return taken
