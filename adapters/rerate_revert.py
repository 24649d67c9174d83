"""Taking an applied run back: each charge is again what it was before the run corrected it."""

import asyncpg
import stamina

from adapters import rerate_runs
from adapters.corrections import post
from adapters.failures import Failure
from adapters.faultpoints import reached
from adapters.postgres import Connection
from adapters.price_store import load_history
from adapters.rerate import ATTEMPTS_MAX, OnProgress
from adapters.rerate_runs import SQL, NewRun, Position, Run, RunKind
from core.recorded import recorded_event
from core.rerating import Tally, counts_by_volume, restored

CORRECTIONS_MAX = 4_000

_AGAIN = (
    asyncpg.exceptions.LockNotAvailableError,
    asyncpg.exceptions.TransactionRollbackError,
)


async def start(connection: Connection, run_id: int, *, actor: str, reason: str) -> Run:
    """Notes a run that takes `run_id` back, or returns the one that is under way.

    A run that is not finished ends where it is: a refused one could not go on. A process that is
    at work on it stops before its next chunk.

    Raises Failure when that run moved no credits, was reverted before, is booking a chunk now, or
    brought to a volume price's counter what later charges gave credits back for.
    """
    taken = await rerate_runs.read(connection, run_id)
    if taken.kind is not RunKind.APPLY:
        raise Failure(f"run {run_id} is a {taken.kind}: only an applied run can be reverted")
    if taken.finished_at is None:
        try:
            await rerate_runs.finish(connection, run_id)
        except asyncpg.LockNotAvailableError:
            raise Failure(f"run {run_id} is at work elsewhere: stop that process first") from None
    if taken.reverted_by is not None:
        revert = await rerate_runs.read(connection, taken.reverted_by)
        if revert.finished_at is None:
            return revert
        raise Failure(f"run {run_id} was reverted by run {revert.run_id} before")
    await _refuse_taken_base(connection, run_id)
    new = NewRun(
        kind=RunKind.REVERT,
        source=taken.source,
        since=taken.since,
        until=taken.until,
        account_ids=taken.account_ids,
        book=taken.book,
        actor=actor,
        reason=reason,
        reverts=run_id,
    )
    return await rerate_runs.add(connection, new, {}, {"account": "", "event": ""})


async def _refuse_taken_base(connection: Connection, run_id: int) -> None:
    rows = await connection.fetch(SQL.counted_since, run_id)
    if not rows:
        return
    history = await load_history(connection)
    for row in rows:
        books = (history.numbered(version) for version in row["versions"])
        if any(counts_by_volume(book, row["counter"]) for book in books if book):
            raise Failure(
                f"{row['counter']!r} of {row['account_id']} has counted more in"
                f" {row['month']:%Y-%m} since run {run_id}, and may have given back what that run"
                " charged. Publish the right prices with another `counter:`, and book those"
            )


async def go_on(connection: Connection, run: Run, on_progress: OnProgress) -> Run:
    """Takes back what is left and returns the run finished; idempotent.

    A charge that was corrected again after the applied run keeps its later correction and is
    counted as superseded. Raises Failure when another process is at work on the run.
    """
    while run.finished_at is None:
        stands = await _next(connection, run, on_progress)
        if stands is None:
            await rerate_runs.finish(connection, run.run_id)
        run = await rerate_runs.read(connection, run.run_id)
    return run


async def _next(connection: Connection, run: Run, on_progress: OnProgress) -> Position | None:
    """Takes back one page of corrections in one transaction; None: nothing is left."""
    position = run.position
    rows = await connection.fetch(
        SQL.corrections_of_run, run.reverts, position["account"], position["event"], CORRECTIONS_MAX
    )
    if not rows:
        return None
    changes = [restored(row, recorded_event(row), row["stands"]) for row in rows]
    stands = {"account": rows[-1]["account_id"], "event": rows[-1]["event_id"]}
    async for attempt in stamina.retry_context(on=_AGAIN, attempts=ATTEMPTS_MAX, timeout=None):
        with attempt:
            async with connection.transaction(isolation="read_committed"):
                await rerate_runs.lock(connection, run.run_id, run.chunks)
                posted = await post(
                    connection, changes, actor=run.actor, reason=run.reason, run_id=run.run_id
                )
                left = {(change.account_id, change.event_id) for change in posted.stale}
                taken = [row for row in rows if (row["account_id"], row["event_id"]) not in left]
                tally = Tally(
                    events=len(rows),
                    changed=posted.corrections,
                    superseded=len(left),
                    old_micro=sum(row["corrected_micro"] for row in taken),
                    new_micro=sum(row["amount_micro"] for row in taken),
                )
                await rerate_runs.move(connection, run.run_id, stands, tally)
                reached("before_rerate_commit")
            reached("after_rerate_commit")
    on_progress(len(rows))
    return stands
