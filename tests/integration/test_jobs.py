"""Runs of jobs: one worker for a key at a time, and figures that survive it."""

import asyncio
from collections.abc import AsyncIterator
from datetime import UTC, datetime

import asyncpg
import pytest

from adapters.allowances import statistics
from adapters.jobs import Busy, OtherRun, add_figures, at_work, end_run, list_runs, supersede
from adapters.postgres import connect
from adapters.purge import Keep, preview, purge
from adapters.settings import Settings
from consumers.jobs import Workshop
from schemas.job_names import JobName
from schemas.jobs import Job, new_job
from tests.gates import CREDIT, account


@pytest.fixture
async def connection(settings: Settings) -> AsyncIterator["asyncpg.Connection[asyncpg.Record]"]:
    made = await connect(settings, application_name="test")
    yield made
    await made.close()


def job(name: JobName = JobName.EXPIRE, key: str = "k", *, dry_run: bool = False) -> Job:
    return new_job(name, key, "test", datetime.now(UTC), dry_run=dry_run)


async def due(connection: asyncpg.Connection) -> None:
    await account(connection, "acme", CREDIT)
    await connection.execute(
        "INSERT INTO allowance (account_id, due_at) VALUES ('acme', now() - interval '1 day')"
    )


async def refreshes(connection: asyncpg.Connection) -> int:
    count: int = await connection.fetchval("SELECT count(*) FROM refresh")
    return count


async def test_a_key_is_worked_on_by_one_and_given_up_by_dying(
    settings: Settings, connection: asyncpg.Connection
) -> None:
    rival = await connect(settings, application_name="rival")
    async with at_work(rival, job()) as run:
        assert run is not None
        await add_figures(rival, run.run_id, {"grants": 2})
        with pytest.raises(Busy):
            async with at_work(connection, job()):
                raise AssertionError("two at work on one key")
        with pytest.raises(Busy):
            await supersede(connection, job())
        rival.terminate()
    async with asyncio.timeout(10):
        while True:
            try:
                async with at_work(connection, job()) as again:
                    assert again is not None
                    assert (again.run_id, again.figures) == (run.run_id, {"grants": 2})
                    await add_figures(connection, again.run_id, {"grants": 1, "accounts": 1})
                    ended = await end_run(connection, again.run_id)
                    break
            except Busy:
                await asyncio.sleep(0.05)
    assert ended.figures == {"grants": 3, "accounts": 1}
    async with at_work(connection, job()) as done:
        assert done is None
    with pytest.raises(ValueError, match="has ended"):
        await end_run(connection, run.run_id)


async def test_in_a_transaction_that_fails_the_error_is_its_own_and_the_key_is_free(
    settings: Settings, connection: asyncpg.Connection
) -> None:
    """The API refreshes inside a transaction; a masked error there was a 500 and no retry."""
    with pytest.raises(asyncpg.DivisionByZeroError):
        async with connection.transaction(), at_work(connection, job()):
            await connection.execute("SELECT 1 / 0")
    rival = await connect(settings, application_name="rival")
    async with rival.transaction(), at_work(rival, job()):
        with pytest.raises(Busy):
            async with at_work(connection, job()):
                raise AssertionError("two at work on one key")
    async with at_work(connection, job()) as run:
        assert run is not None
    await rival.close()


async def test_a_step_that_is_rolled_back_is_not_counted(connection: asyncpg.Connection) -> None:
    async with at_work(connection, job()) as run:
        assert run is not None
        step = connection.transaction()
        await step.start()
        await add_figures(connection, run.run_id, {"grants": 5})
        await step.rollback()
    [row] = await list_runs(connection, None, 5)
    assert (row["figures"], row["state"]) == ({}, "running")


async def test_a_dry_run_with_the_key_of_a_killed_run_changes_nothing(
    settings: Settings, connection: asyncpg.Connection
) -> None:
    """The run's row said `refresh` and `not dry`: the credits were given, and `would do` said."""
    await due(connection)
    async with at_work(connection, job(JobName.REFRESH)):
        pass  # killed: the run is open
    would = await Workshop(settings).run(connection, job(JobName.REFRESH, dry_run=True))
    assert would is not None
    assert would.figures == {"accounts": 1, "amount_micro": 1_000 * CREDIT}
    assert await refreshes(connection) == 0
    did = await Workshop(settings).run(connection, job(JobName.REFRESH))
    assert did is not None
    assert (did.figures["refreshed"], await refreshes(connection)) == (1, 1)


async def test_a_dry_run_does_not_use_the_key_up(
    settings: Settings, connection: asyncpg.Connection
) -> None:
    await due(connection)
    for again in (False, True):
        would = await Workshop(settings).run(connection, job(JobName.REFRESH, dry_run=True))
        assert (would is None) is again
    did = await Workshop(settings).run(connection, job(JobName.REFRESH))
    assert did is not None
    assert did.figures["refreshed"] == 1
    assert {run["dry_run"] for run in await list_runs(connection, None, 5)} == {False, True}


@pytest.mark.parametrize("finished", [False, True])
async def test_the_key_of_one_job_is_no_way_to_another(
    settings: Settings, connection: asyncpg.Connection, *, finished: bool
) -> None:
    await due(connection)
    async with at_work(connection, job(JobName.REFRESH)) as run:
        assert run is not None
        if finished:
            await end_run(connection, run.run_id)
    with pytest.raises(OtherRun, match=r"^k is the key of a run of refresh, not of expire"):
        await Workshop(settings).run(connection, job(JobName.EXPIRE))
    assert await refreshes(connection) == 0
    async with at_work(connection, job(JobName.REFRESH)) as same:  # and its lock is free
        assert (same is None) is finished


async def test_what_a_superseded_run_did_before_it_was_killed_counts(
    settings: Settings, connection: asyncpg.Connection
) -> None:
    async with at_work(connection, job(JobName.REFRESH, "killed")) as run:
        assert run is not None
        did = {"accounts": 4, "refreshed": 3, "failed": 1}
        await add_figures(connection, run.run_id, did)
    for key in ("killed", "untouched"):
        await supersede(connection, job(JobName.REFRESH, key))
    runs = {run["job_key"]: run for run in await list_runs(connection, None, 5)}
    assert runs["killed"]["figures"] == {**did, "superseded": 1}
    found = await statistics(connection)
    assert (found["runs"], found["success_percent"]) == (1, 75.0)


async def test_refresh_can_be_switched_off_and_made_dry(
    settings: Settings, connection: asyncpg.Connection
) -> None:
    await due(connection)
    off = Workshop(settings.model_copy(update={"refresh_enabled": False}))
    ended = await off.run(connection, job(JobName.REFRESH, "off"))
    assert ended is not None
    assert ended.figures == {}
    dry = Workshop(settings.model_copy(update={"refresh_dry_run": True}))
    ended = await dry.run(connection, job(JobName.REFRESH, "dry"))
    assert ended is not None
    assert ended.figures == {"accounts": 1, "amount_micro": 1_000 * CREDIT}
    assert await connection.fetchval("SELECT count(*) FROM refresh") == 0


async def test_several_connections_share_a_run(
    settings: Settings, connection: asyncpg.Connection
) -> None:
    await connection.execute(
        "INSERT INTO account (account_id, tier)"
        " SELECT 'a' || n, 'free' FROM generate_series(1, 500) AS n"
    )
    await connection.execute(
        "INSERT INTO allowance (account_id, due_at) SELECT account_id, now() FROM account"
    )
    steps: list[int] = []
    several = settings.model_copy(update={"refresh_connections": 4, "refresh_batch": 20})
    ended = await Workshop(several).run(
        connection,
        job(JobName.REFRESH),
        lambda figures: steps.append(figures.get("refreshed", 0)),
    )
    assert ended is not None
    assert ended.figures["refreshed"] == sum(steps) == 500
    assert await connection.fetchval("SELECT count(*) FROM refresh") == 500


async def test_the_purge_keeps_what_a_promise_needs(connection: asyncpg.Connection) -> None:
    await connection.execute(
        "INSERT INTO idempotency_key (caller, key, operation, body_hash, response, created_at)"
        " SELECT 'c', n::text, 'hold', '', '', now() - n * interval '1 hour'"
        " FROM generate_series(1, 12000) AS n"
    )
    await connection.execute(
        "INSERT INTO job_run (job, job_key, dry_run, requested_by, state, finished_at)"
        " VALUES ('expire', 'old', false, 't', 'done', now() - interval '91 days'),"
        " ('expire', 'new', false, 't', 'done', now() - interval '89 days'),"
        " ('expire', 'open', false, 't', 'running', NULL)"
    )
    keep = Keep(key_days=30, run_days=90)
    wanted = {"keys": 12_000 - 719, "runs": 1}
    assert await preview(connection, keep) == wanted
    removed = [figures async for figures in purge(connection, 1, keep)]
    assert sum(figures.get("keys", 0) for figures in removed) == wanted["keys"]
    assert sum(figures.get("runs", 0) for figures in removed) == 1
    oldest = await connection.fetchval("SELECT max(now() - created_at) FROM idempotency_key")
    assert oldest.days == 29
    assert await connection.fetchval("SELECT count(*) FROM job_run") == 2


async def test_the_claims_can_not_be_purged(connection: asyncpg.Connection) -> None:
    for statement in ("DELETE FROM charge", "DELETE FROM batch_outcome"):
        with pytest.raises(asyncpg.RaiseError, match="append-only"):
            await connection.execute(statement)
