"""Each guard of the rater is needed: the same fault with it passes, without it does harm.

Where a second guard would catch the harm too, it is taken away in both runs.
"""

import asyncio
import json
import signal
from datetime import UTC, datetime

import pytest

from adapters.postgres import connect
from adapters.price_store import publish
from tests.faults.bench import Bench
from tests.faults.traffic import Sent, Traffic
from tests.faults.waiting import eventually

AWAKE_SECONDS = 4


async def _found(bench: Bench, traffic: Traffic) -> set[str]:
    """The kinds of harm in the ledger once everything is applied."""
    await bench.verdict.drained(60)
    findings = await bench.verdict.ledger_findings(traffic.expected)
    return {finding.partition(":")[0] for finding in findings}


@pytest.mark.parametrize("guard", [True, False])
async def test_the_fence_refuses_a_worker_that_was_replaced_in_its_sleep(
    bench: Bench, *, guard: bool
) -> None:
    await bench.verdict.fetch("ALTER TABLE batch_outcome DROP CONSTRAINT batch_outcome_pkey")
    traffic = Traffic(21)
    sleeper = bench.fleet.start(
        at=("before_lock", 3), do="SIGSTOP", without=[] if guard else ["fence"], batch_records=50
    )
    await bench.publish(traffic, 1_000)
    await sleeper.frozen(30)
    bench.fleet.start()
    await bench.verdict.drained(60)
    assert sleeper.status is None
    sleeper.signal(signal.SIGCONT)
    if guard:
        await asyncio.sleep(AWAKE_SECONDS)
        await bench.publish(traffic, 200)
        assert await _found(bench, traffic) == set()
        assert sleeper.status is None
    else:
        await eventually(lambda: _twice(bench), AWAKE_SECONDS + 20, "it books its batch again")


async def _twice(bench: Bench) -> bool:
    rows = await bench.verdict.fetch(
        "SELECT 1 FROM batch_outcome GROUP BY partition, from_offset HAVING count(*) > 1"
    )
    return bool(rows)


@pytest.mark.parametrize(("guard", "harm"), [(True, set()), (False, {"doubled", "drift"})])
async def test_the_claim_keeps_a_repeated_event_from_being_charged_again(
    bench: Bench, *, guard: bool, harm: set[str]
) -> None:
    await bench.verdict.fetch("ALTER TABLE charge DROP CONSTRAINT charge_pkey")
    traffic = Traffic(22, duplicates=0.3)
    bench.fleet.start(without=[] if guard else ["claim"], batch_records=50)
    await bench.publish(traffic, 1_000)
    assert traffic.repeated > 100
    assert await _found(bench, traffic) == harm


@pytest.mark.parametrize("guard", [True, False])
async def test_a_replay_under_another_price_book_keeps_the_stored_amounts(
    bench: Bench, *, guard: bool
) -> None:
    await bench.verdict.fetch("ALTER TABLE charge DROP CONSTRAINT charge_pkey")
    traffic = Traffic(23, duplicates=0)
    records: list[Sent] = traffic.records(300)
    bench.fleet.start(without=[] if guard else ["claim"])
    await bench.publisher.send(records)
    await bench.verdict.drained(60)
    await _double_prices(bench)
    await bench.publisher.send(records)
    harm = await _found(bench, traffic)
    assert harm == set() if guard else {"doubled", "wrong amount", "drift"} == harm


async def _double_prices(bench: Bench) -> None:
    connection = await connect(bench.settings, application_name="tests")
    try:
        document = json.loads(await connection.fetchval("SELECT document FROM price_version"))
        document["currencies"] = {"USD": [{"credits": "2"}]}
        start = datetime(2026, 1, 1, tzinfo=UTC)
        await publish(connection, document, start, "tests", correction=True)
    finally:
        await connection.close()


@pytest.mark.parametrize("guard", [True, False])
async def test_accounts_are_locked_in_order(bench: Bench, *, guard: bool) -> None:
    """Two raters, the same twenty accounts in the partitions of both."""
    traffic = Traffic(24, accounts=20)
    without = [] if guard else ["lock_order"]
    for _ in range(2):
        bench.fleet.start(without=without, batch_records=100)
    rounds = 0
    while rounds < 8 and not (rounds > 2 and await _deadlocks(bench)):
        for partition in range(8):
            records = traffic.records(100)
            await bench.publisher.send(records, partition=partition)
        await bench.verdict.drained(90)
        rounds += 1
    await asyncio.sleep(1)  # PostgreSQL counts with a delay of a second
    assert (await _deadlocks(bench) == 0) is guard
    assert await _found(bench, traffic) == set(), "a deadlock is retried"


async def _deadlocks(bench: Bench) -> int:
    [row] = await bench.verdict.fetch(
        "SELECT deadlocks FROM pg_stat_database WHERE datname = current_database()"
    )
    return int(row["deadlocks"])


async def test_without_time_limits_a_frozen_transaction_keeps_its_locks(bench: Bench) -> None:
    """With them: test_frozen_workers."""
    traffic = Traffic(25)
    frozen = bench.fleet.start(
        at=("before_commit", 2), do="SIGSTOP", without=["timeouts"], idle_transaction_seconds_max=2
    )
    await bench.publish(traffic, 2_000)
    await frozen.frozen(30)
    bench.fleet.start()
    with pytest.raises(TimeoutError):
        await bench.verdict.drained(15)
    frozen.signal(signal.SIGKILL)
    await bench.ledger_is_exact(traffic.expected)


async def test_without_a_look_at_copies_a_frozen_one_keeps_its_locks(bench: Bench) -> None:
    """With it: test_frozen_workers. Every time limit is there."""
    traffic = Traffic(26)
    frozen = bench.fleet.start(
        at=("in_copy", 2), do="SIGSTOP", statement_seconds_max=2, idle_transaction_seconds_max=2
    )
    await bench.publish(traffic, 2_000)
    await frozen.frozen(30)
    bench.fleet.start(without=["copies"], statement_seconds_max=2)
    with pytest.raises(TimeoutError):
        await bench.verdict.drained(15)
    frozen.signal(signal.SIGKILL)
    await bench.ledger_is_exact(traffic.expected)


@pytest.mark.parametrize("guard", [True, False])
async def test_the_cap_stops_a_rater_that_would_empty_the_topic_into_the_dead_letters(
    bench: Bench, *, guard: bool
) -> None:
    rater = bench.fleet.start(
        without=[] if guard else ["dead_letter_cap"], dead_letter_window=200, batch_records=50
    )
    await bench.publisher.send([(b"acct", b"{}")] * 1_000)
    if guard:
        assert await rater.ended(30) == 1
        assert rater.said("halted (dead-letters)")
        assert await _dead(bench) < 400
    else:
        await bench.verdict.drained(60)
        assert await _dead(bench) == 1_000


async def _dead(bench: Bench) -> int:
    [row] = await bench.verdict.fetch("SELECT count(*) AS n FROM dead_letter")
    return int(row["n"])
