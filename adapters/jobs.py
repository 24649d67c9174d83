"""Runs of jobs in PostgreSQL: one for each key, whoever asks how often, and what it did."""

import json
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager
from dataclasses import dataclass
from typing import Any

from adapters.failures import Failure
from adapters.postgres import Connection
from adapters.queries import load
from adapters.settings import Settings
from schemas.job_names import JobName
from schemas.jobs import Job

SQL = load("jobs")
STATEMENT_SECONDS = 45.0  # less than what the watchdog takes for a stall
# A worker that says nothing to its session for so long is frozen: the run is another one's.
SILENT_SECONDS_MAX = 120.0
_ANSWER_SECONDS_MAX = 10.0
_ERROR_CHARS_MAX = 500
_DRY = "dry-run/"  # no key of a job has a slash

Figures = dict[str, int]


@dataclass(frozen=True, slots=True)
class Run:
    """A run that is to be worked on; `figures` is what was done before a crash."""

    run_id: int
    job: JobName
    dry_run: bool
    requested_by: str
    figures: Figures


@dataclass(frozen=True, slots=True)
class Ended:
    """What a run did in all, whatever it was stopped by in between."""

    figures: Figures
    duration_seconds: float
    error: str = ""


@asynccontextmanager
async def at_work(connection: Connection, job: Job) -> AsyncIterator[Run | None]:
    """The run of the job's key for the time of the block, for nobody else; None: it has ended.

    The lock is the session's: when its process dies, or is silent for SILENT_SECONDS_MAX, another
    one can take the run, which then goes on. In an open transaction it is that one's, which may
    have failed when the block ends. Dry runs have keys of their own: one uses up no key of a real
    run. Raises Busy when somebody is at work on the key, and OtherRun when the key is that of
    another job.
    """
    key = _DRY + job.id if job.data.dry_run else job.id
    within = connection.is_in_transaction()
    if within:
        locked = await connection.fetchval(SQL.lock_key_here, key)
    else:
        silent_ms = f"{round(SILENT_SECONDS_MAX * 1000)}ms"
        locked = await connection.fetchval(SQL.lock_key, key, silent_ms)
    if not locked:
        raise Busy(job.id)
    try:
        yield await _open(connection, job, key)
    finally:
        if not within and not connection.is_closed():
            await connection.fetchval(SQL.unlock_key, key, timeout=_ANSWER_SECONDS_MAX)


async def still_held(connection: Connection) -> None:
    """Says on the session of a run that its work goes on elsewhere. Raises what is TRANSIENT when
    the session, and the run with it, is lost.
    """
    await connection.fetchval(SQL.still_here, timeout=_ANSWER_SECONDS_MAX)


class Busy(Exception):  # noqa: N818 - an answer, not an error: another scheduler has the run
    """Somebody else is at work on this run: it ends, or its lock is free when that one dies."""


class OtherRun(Failure):
    """The key is that of a run of something else, which is what would be done under it."""


async def _open(connection: Connection, job: Job, key: str) -> Run | None:
    asked = job.data
    row = await connection.fetchrow(SQL.open_run, asked.job, key, asked.dry_run, job.source)
    assert row is not None  # noqa: S101 - an upsert gives its row
    if (row["job"], row["dry_run"]) != (asked.job, asked.dry_run):
        was = f"a {'dry ' if row['dry_run'] else ''}run of {row['job']}"
        raise OtherRun(f"{job.id} is the key of {was}, not of {asked.job}: give another key")
    if row["state"] != "running":
        return None
    figures = json.loads(row["figures"])
    return Run(row["run_id"], JobName(row["job"]), row["dry_run"], job.source, figures)


def patient(settings: Settings) -> Settings:
    """As a job connects: nobody waits for its statements, and one may walk over half a million
    index entries that a killed run left behind.
    """
    seconds = max(settings.statement_seconds_max, STATEMENT_SECONDS)
    return settings.model_copy(update={"statement_seconds_max": seconds})


async def supersede(connection: Connection, job: Job) -> None:
    """A run that a later one of the same kind makes needless: ended where it is, without more work.
    What it did before it was killed stays done and counted. Raises Busy when somebody is at work
    on it.
    """
    async with at_work(connection, job) as run:
        if run is not None:
            await add_figures(connection, run.run_id, {"superseded": 1})
            await end_run(connection, run.run_id)


async def add_figures(connection: Connection, run_id: int, figures: Mapping[str, int]) -> None:
    """Adds to the run's figures, in the transaction of the work that they count."""
    await connection.execute(SQL.add_figures, run_id, json.dumps(dict(figures)))


async def end_run(connection: Connection, run_id: int, *, error: str = "") -> Ended:
    """The run is done, or failed with the error; a run ends once.

    Raises ValueError when it has ended before.
    """
    state = "failed" if error else "done"
    row = await connection.fetchrow(SQL.end_run, run_id, state, error[:_ERROR_CHARS_MAX])
    if row is None:
        raise ValueError(f"run {run_id} has ended")
    return Ended(json.loads(row["figures"]), row["duration_seconds"], error)


async def list_runs(
    connection: Connection, job: JobName | None, runs_max: int
) -> list[dict[str, Any]]:
    """The newest runs first, with their figures; of one job, or of all."""
    rows = await connection.fetch(SQL.list_runs, job, runs_max)
    return [{**dict(row), "figures": json.loads(row["figures"])} for row in rows]
