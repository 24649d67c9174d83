"""Runs of re-rating in PostgreSQL: what each reads, how far it is, what it found so far.

The rows are the truth about a run, so that it goes on after any crash: a chunk is found by the
position, and the position moves in the transaction that notes what the chunk came to.
"""

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import date, datetime
from enum import StrEnum
from typing import Any, NamedTuple

import asyncpg

from adapters.failures import Failure
from adapters.postgres import Connection
from adapters.queries import load
from core.rerating import CounterKey, Tally

SQL = load("rerate")

Position = dict[str, Any]


class RunKind(StrEnum):
    """What a run is for. The value is what is stored: it is never renamed."""

    WHAT_IF = "what-if"
    APPLY = "apply"
    REVERT = "revert"


class Source(StrEnum):
    """Where the events of a run come from. The value is what is stored."""

    LEDGER = "ledger"
    TOPIC = "topic"


@dataclass(frozen=True, slots=True)
class BookChoice:
    """Which prices a run uses: what is published, one version of it, or a document in a file.

    Versions after `newest_version` do not count, so that a run that is resumed prices as it began.
    """

    name: str
    newest_version: int
    price_version: int | None = None
    document: str | None = None


@dataclass(frozen=True, slots=True)
class NewRun:
    """A run that is about to begin: its stretch (event times, `until` exclusive), and who asks."""

    kind: RunKind
    source: Source
    since: datetime
    until: datetime
    account_ids: Sequence[str] | None
    book: BookChoice
    actor: str
    reason: str = ""
    reverts: int | None = None


@dataclass(frozen=True, slots=True)
class Run:
    """A run as it stands. `extent` is what it reads, `position` how much of that is done."""

    run_id: int
    kind: RunKind
    source: Source
    reverts: int | None
    reverted_by: int | None
    since: datetime
    until: datetime
    account_ids: Sequence[str] | None
    book: BookChoice
    extent: Mapping[str, Any]
    position: Position
    chunks: int
    tally: Tally
    actor: str
    reason: str
    started_at: datetime
    finished_at: datetime | None


class Group(NamedTuple):
    """What a run found of one account, model (or action) and day (UTC).

    What uncharged events would cost is beside the difference: a re-rate does not book it.
    """

    account_id: str
    priced_as: str
    day: date
    events: int
    changed: int
    unpriced: int
    voided: int
    uncharged: int
    old_micro: int
    new_micro: int
    difference_micro: int
    uncharged_micro: int


class AtWorkElsewhere(Failure):
    """Another process moved the run meanwhile; nothing of this chunk was noted or booked."""


async def add(
    connection: Connection, new: NewRun, extent: Mapping[str, Any], position: Position
) -> Run:
    """Notes a run and returns it.

    Raises Failure when a run that moves credits is not finished, or the run was reverted before.
    """
    book = new.book
    try:
        run_id = await connection.fetchval(
            SQL.add_run,
            new.kind,
            new.source,
            new.reverts,
            new.since,
            new.until,
            None if new.account_ids is None else list(new.account_ids),
            book.name,
            book.price_version,
            book.newest_version,
            book.document,
            json.dumps(extent),
            json.dumps(position),
            new.actor,
            new.reason,
        )
    except asyncpg.UniqueViolationError:
        raise await _taken(connection, new.reverts) from None
    return await read(connection, run_id)


async def _taken(connection: Connection, reverts: int | None) -> Failure:
    busy = await connection.fetchrow(SQL.unfinished_booking)
    if busy is not None:
        run_id = busy["run_id"]
        on = f"`tollgate rerate resume {run_id}` goes on with it"
        if busy["kind"] == RunKind.APPLY:
            on += f", `tollgate rerate revert {run_id}` takes back what it booked"
        return Failure(f"run {run_id} ({busy['kind']}) is not finished: {on}")
    return Failure(f"run {reverts} was reverted before: see `tollgate rerate show {reverts}`")


async def read(connection: Connection, run_id: int) -> Run:
    """One run; raises Failure when there is none of that number."""
    row = await connection.fetchrow(SQL.read_run, run_id)
    if row is None:
        raise Failure(f"there is no run {run_id}: see `tollgate rerate list`")
    return Run(
        run_id=row["run_id"],
        kind=RunKind(row["kind"]),
        source=Source(row["source"]),
        reverts=row["reverts"],
        reverted_by=row["reverted_by"],
        since=row["occurred_from"],
        until=row["occurred_to"],
        account_ids=row["account_ids"],
        book=BookChoice(row["book"], row["newest_version"], row["price_version"], row["document"]),
        extent=json.loads(row["extent"]),
        position=json.loads(row["position"]),
        chunks=row["chunks"],
        tally=Tally(**{name: row[name] for name in Tally.__slots__}),
        actor=row["actor"],
        reason=row["reason"],
        started_at=row["started_at"],
        finished_at=row["finished_at"],
    )


async def newest(connection: Connection, runs_max: int) -> list[dict[str, Any]]:
    """The newest runs, without their documents."""
    return [dict(row) for row in await connection.fetch(SQL.list_runs, runs_max)]


async def booked_groups(connection: Connection, run_id: int, groups_max: int | None) -> list[Group]:
    """What a run booked, per account, model and day, the largest differences first."""
    rows = await connection.fetch(SQL.booked_groups, run_id, groups_max)
    return [Group(*row) for row in rows]


async def lock(connection: Connection, run_id: int, chunks: int) -> None:
    """Fences the run inside a transaction: whoever was faster has moved it.

    Raises AtWorkElsewhere when the run does not stand after `chunks` chunks.
    """
    stands = await connection.fetchval(SQL.lock_run, run_id)
    if stands != chunks:
        raise AtWorkElsewhere(f"run {run_id} is at work elsewhere: this process stops")


async def move(connection: Connection, run_id: int, position: Position, tally: Tally) -> None:
    """Notes a chunk as done, inside the transaction that locked the run."""
    await connection.execute(
        SQL.move_run,
        run_id,
        json.dumps(position),
        tally.events,
        tally.changed,
        tally.unpriced,
        tally.voided,
        tally.uncharged,
        tally.superseded,
        tally.old_micro,
        tally.new_micro,
    )


async def finish(connection: Connection, run_id: int) -> None:
    """Nothing more is read or booked: whoever is still at work on it stops. Idempotent."""
    await connection.execute(SQL.finish_run, run_id)


async def read_counts(
    connection: Connection, run_id: int, keys: Sequence[CounterKey]
) -> dict[CounterKey, int]:
    """What the run has counted so far of these, where it is something."""
    if not keys:
        return {}
    rows = await connection.fetch(
        SQL.read_counters, run_id, *(list(c) for c in zip(*keys, strict=True))
    )
    return {keys[row["n"]]: row["units"] for row in rows}


async def write_counts(
    connection: Connection, run_id: int, counts: Mapping[CounterKey, int]
) -> None:
    """Notes what the run has counted, inside the transaction that moves it."""
    if counts:
        columns = (list(column) for column in zip(*counts, strict=True))
        await connection.execute(SQL.write_counters, run_id, *columns, list(counts.values()))
