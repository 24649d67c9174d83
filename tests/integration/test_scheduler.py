"""The scheduler on the real Kafka: jobs asked for by message, done once, whoever dies."""

import asyncio
import json
import signal
from collections.abc import AsyncIterator, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any

import asyncpg
import pytest

from adapters.jobs import list_runs
from adapters.postgres import connect
from adapters.settings import Settings
from schemas.job_names import JobName
from schemas.jobs import encode_job, new_job
from tests.commands import report, run_tollgate
from tests.gates import CREDIT, account, assert_sound
from tests.workers import Worker, publish

SECONDS_MAX = 180


@dataclass(frozen=True)
class Record:
    key: bytes | None
    value: bytes | None
    headers: Sequence[tuple[str, bytes]] = ()


@pytest.fixture
async def connection(
    settings: Settings, topics: dict[str, str]
) -> AsyncIterator["asyncpg.Connection[asyncpg.Record]"]:
    made = await connect(settings, application_name="test")
    yield made
    await assert_sound(made)
    await made.close()


def message(name: JobName, key: str, source: str = "test", *, dry_run: bool = False) -> Record:
    job = new_job(name, key, source, datetime.now(UTC), dry_run=dry_run)
    return Record(name.encode(), encode_job(job))


async def many_due(connection: asyncpg.Connection, count: int) -> None:
    await connection.execute(
        "INSERT INTO account (account_id, tier)"
        " SELECT 'a' || n, 'free' FROM generate_series(1, $1::integer) AS n",
        count,
    )
    await connection.execute(
        "INSERT INTO allowance (account_id, due_at)"
        " SELECT account_id, now() - interval '1 minute' FROM account"
    )


async def ended(
    connection: asyncpg.Connection, keys: Sequence[str], *workers: Worker
) -> dict[str, dict[str, Any]]:
    """The runs of these keys, once all have ended."""
    async with asyncio.timeout(SECONDS_MAX):
        while True:
            runs = {run["job_key"]: run for run in await list_runs(connection, None, 1_000)}
            if all(key in runs and runs[key]["state"] != "running" for key in keys):
                return {key: runs[key] for key in keys}
            for worker in workers:
                assert worker.process.poll() is None, worker.stop()
            await asyncio.sleep(0.1)


async def test_jobs_come_by_message_and_poison_is_counted(
    settings: Settings,
    topics: dict[str, str],
    environment: dict[str, str],
    connection: asyncpg.Connection,
) -> None:
    await many_due(connection, 30)
    await connection.execute(
        "INSERT INTO credit_hold (hold_id, account_id, amount_micro, touched_at)"
        " VALUES ('left', 'a1', 5, now() - interval '1 hour')"
    )
    await connection.execute("UPDATE account SET held_micro = 5 WHERE account_id = 'a1'")
    keys = [f"{name}:1" for name in JobName]
    records = [
        Record(b"refresh", None),
        Record(b"x", b"not a job"),
        Record(b"refresh", b'{"type":"tollgate.job.v9"}'),
        *(message(name, f"{name}:1") for name in JobName),
        message(JobName.REFRESH, "refresh:1"),
        message(JobName.PURGE, "refresh:1"),
    ]
    await publish(settings, topics["scheduler.jobs"], records)
    with Worker("scheduler", environment) as worker:
        runs = await ended(connection, keys, worker)
        await publish(settings, topics["scheduler.jobs"], [message(JobName.EXPIRE, "expire:2")])
        await ended(connection, ["expire:2"], worker)
        shown = worker.metrics()
        status, log = worker.stop()
    assert status == 0, log
    assert {run["state"] for run in runs.values()} == {"done"}
    assert runs["refresh:1"]["figures"] == {
        "accounts": 30,
        "refreshed": 30,
        "amount_micro": 30_000 * CREDIT,
        "replaced_micro": 0,
        "failed": 0,
    }
    assert runs["reconcile:1"]["figures"]["failed"] == 1
    assert runs["audit:1"]["figures"]["findings"] == 0
    for line in (
        'tollgate_jobs_total{job="",outcome="bad",stage="scheduler"} 3.0',
        'tollgate_jobs_total{job="purge",outcome="bad",stage="scheduler"} 1.0',
        'tollgate_jobs_total{job="refresh",outcome="done",stage="scheduler"} 1.0',
        'tollgate_jobs_total{job="refresh",outcome="repeated",stage="scheduler"} 1.0',
        'tollgate_job_figures_total{figure="refreshed",job="refresh",stage="scheduler"} 30.0',
        'tollgate_job_figures_total{figure="failed",job="reconcile",stage="scheduler"} 1.0',
        'tollgate_job_seconds_count{job="refresh",stage="scheduler"} 1.0',
    ):
        assert line in shown
    done = [json.loads(line) for line in log.splitlines() if '"job done"' in line]
    assert {entry["job"] for entry in done} == set(JobName)
    assert next(entry for entry in done if entry["job"] == "refresh")["refreshed"] == 30
    assert log.count('"not a job"') == 4


async def test_killed_in_the_middle_and_two_at_once_refresh_each_account_once(
    settings: Settings,
    topics: dict[str, str],
    environment: dict[str, str],
    connection: asyncpg.Connection,
) -> None:
    """The figures of the run are exact, too: they move with the work."""
    await many_due(connection, 4_000)
    slow = {**environment, "TOLLGATE_REFRESH_BATCH": "1"}
    await publish(settings, topics["scheduler.jobs"], [message(JobName.REFRESH, "refresh:k")])
    with Worker("scheduler", slow) as victim:
        await refreshed_some(connection, 100)
        victim.process.send_signal(signal.SIGKILL)
        victim.process.wait(10)
    done = await connection.fetchval("SELECT count(*) FROM refresh")
    assert 100 <= done < 4_000
    with Worker("scheduler", environment) as first, Worker("scheduler", environment) as second:
        run = (await ended(connection, ["refresh:k"], first, second))["refresh:k"]
    assert run["figures"]["refreshed"] == 4_000
    assert run["figures"]["amount_micro"] == 4_000_000 * CREDIT
    assert await connection.fetchval("SELECT count(*) FROM refresh") == 4_000
    balances = await connection.fetch("SELECT DISTINCT balance_micro FROM account")
    assert [row["balance_micro"] for row in balances] == [1_000 * CREDIT]


async def refreshed_some(connection: asyncpg.Connection, count: int) -> None:
    async with asyncio.timeout(SECONDS_MAX):
        while await connection.fetchval("SELECT count(*) FROM refresh") < count:
            await asyncio.sleep(0.02)


async def test_a_stopped_scheduler_leaves_the_run_to_the_next_one(
    settings: Settings,
    topics: dict[str, str],
    environment: dict[str, str],
    connection: asyncpg.Connection,
) -> None:
    await many_due(connection, 3_000)
    slow = {**environment, "TOLLGATE_REFRESH_BATCH": "1"}
    await publish(settings, topics["scheduler.jobs"], [message(JobName.REFRESH, "refresh:s")])
    with Worker("scheduler", slow) as worker:
        await refreshed_some(connection, 20)
        status, log = worker.stop()
    assert status == 0, log
    assert "stopped in the middle" in log
    [run] = await list_runs(connection, None, 10)
    assert run["state"] == "running"
    with Worker("scheduler", environment) as worker:
        run = (await ended(connection, ["refresh:s"], worker))["refresh:s"]
    assert run["figures"]["refreshed"] == 3_000


async def test_postgres_away_is_waited_out(
    settings: Settings,
    topics: dict[str, str],
    environment: dict[str, str],
    connection: asyncpg.Connection,
) -> None:
    """Its session is killed in the middle of a run: the run goes on, nothing twice."""
    await many_due(connection, 3_000)
    slow = {**environment, "TOLLGATE_REFRESH_BATCH": "10"}
    await publish(settings, topics["scheduler.jobs"], [message(JobName.REFRESH, "refresh:p")])
    with Worker("scheduler", slow) as worker:
        await refreshed_some(connection, 20)
        await connection.execute(
            "SELECT pg_terminate_backend(pid) FROM pg_stat_activity"
            " WHERE application_name = 'tollgate-scheduler' AND datname = current_database()"
        )
        run = (await ended(connection, ["refresh:p"], worker))["refresh:p"]
        assert "tollgate_retries_total" in worker.metrics()
    assert run["figures"]["refreshed"] == 3_000


async def test_a_backlog_of_the_clock_is_done_once(
    settings: Settings,
    topics: dict[str, str],
    environment: dict[str, str],
    connection: asyncpg.Connection,
) -> None:
    """After a night without a scheduler the newest run of a job does the work of all."""
    keys = [f"expire:2026-11-21T{hour:02}:00Z" for hour in range(10)]
    records = [message(JobName.EXPIRE, key, "clock") for key in keys]
    records.append(message(JobName.EXPIRE, "expire:hand"))
    await publish(settings, topics["scheduler.jobs"], records)
    with Worker("scheduler", environment) as worker:
        runs = await ended(connection, [*keys, "expire:hand"], worker)
    superseded = [key for key in keys if runs[key]["figures"] == {"superseded": 1}]
    assert superseded == keys[:-1]
    assert runs["expire:hand"]["figures"] == {}


async def test_two_clocks_ask_for_the_same_runs(
    settings: Settings,
    topics: dict[str, str],
    environment: dict[str, str],
    connection: asyncpg.Connection,
) -> None:
    quick = {
        **environment,
        "TOLLGATE_REFRESH_INTERVAL_SECONDS": "86400",
        "TOLLGATE_RECONCILE_INTERVAL_SECONDS": "86400",
        "TOLLGATE_EXPIRE_INTERVAL_SECONDS": "86400",
        "TOLLGATE_AUDIT_INTERVAL_SECONDS": "86400",
    }
    with (
        Worker("clock", quick) as first,
        Worker("clock", quick) as second,
        Worker("scheduler", quick) as scheduler,
    ):
        await asked(first)
        await asked(second)
        async with asyncio.timeout(SECONDS_MAX):
            while seen(scheduler, "repeated") < len(JobName):
                assert scheduler.process.poll() is None, scheduler.stop()
                await asyncio.sleep(0.2)
        runs = await list_runs(connection, None, 100)
        assert first.stop()[0] == second.stop()[0] == 0
    assert sorted(run["job"] for run in runs) == sorted(JobName)
    assert {run["requested_by"] for run in runs} == {"clock"}
    assert all(run["job_key"].startswith(f"{run['job']}:20") for run in runs)


def seen(worker: Worker, outcome: str) -> int:
    """How many jobs had this outcome."""
    try:
        lines = worker.metrics().splitlines()
    except OSError:  # it does not listen yet
        return 0
    return sum(
        line.startswith("tollgate_jobs_total") and f'outcome="{outcome}"' in line for line in lines
    )


async def asked(clock: Worker) -> None:
    async with asyncio.timeout(SECONDS_MAX):
        while True:
            assert clock.process.poll() is None, clock.stop()
            if seen(clock, "asked") == len(JobName):
                return
            await asyncio.sleep(0.1)


async def test_by_hand(
    settings: Settings,
    topics: dict[str, str],
    environment: dict[str, str],
    connection: asyncpg.Connection,
) -> None:
    await many_due(connection, 3)
    dry = await report(environment, "job", "refresh", "--dry-run")
    assert (dry["state"], dry["figures"]["accounts"]) == ("done", 3)
    assert await connection.fetchval("SELECT count(*) FROM refresh") == 0
    done = await report(environment, "job", "refresh", "--now", "--key", "one")
    assert done["figures"]["refreshed"] == 3
    again = await run_tollgate(environment, "job", "refresh", "--now", "--key", "one")
    assert again.stdout == "one was done before: nothing is done again\n"
    for name in JobName:
        assert (await report(environment, "job", name, "--dry-run"))["state"] == "done"
        assert (await report(environment, "job", name, "--now"))["state"] == "done"
    told = await run_tollgate(environment, "job", "expire", "--key", "hand")
    assert told.stdout == "expire is asked for as hand\n"
    with Worker("scheduler", environment) as worker:
        await ended(connection, ["hand"], worker)
    table = await run_tollgate(environment, "jobs", "--limit", "30")
    assert "refreshed 3" in table.stdout
    assert "hand" in table.stdout
    wrong = await run_tollgate(environment, "job", "expire", "--key", "a b")
    assert wrong.returncode == 2
    other = await run_tollgate(environment, "job", "purge", "--now", "--key", "one")
    assert (other.returncode, "one is the key of a run of refresh" in other.stderr) == (1, True)


async def test_a_job_that_fails_is_told_and_the_next_one_is_done(
    settings: Settings,
    topics: dict[str, str],
    environment: dict[str, str],
    connection: asyncpg.Connection,
) -> None:
    await account(connection, "acme", CREDIT)
    away = {**environment, "TOLLGATE_CLICKHOUSE": "http://127.0.0.1:9"}
    records = [message(JobName.AUDIT, "audit:f"), message(JobName.EXPIRE, "expire:f")]
    await publish(settings, topics["scheduler.jobs"], records)
    with Worker("scheduler", away) as worker:
        runs = await ended(connection, ["audit:f", "expire:f"], worker)
        assert worker.process.poll() is None
    assert runs["audit:f"]["state"] == "failed"
    assert "ClickHouse does not answer" in runs["audit:f"]["error"]
    assert runs["expire:f"]["state"] == "done"
    failed = await run_tollgate(away, "job", "audit", "--now")
    assert failed.returncode == 1
    assert "ClickHouse does not answer" in failed.stderr
