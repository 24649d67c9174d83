"""Workers that stop for a while, hang, or are asked to go."""

import asyncio
import signal
import time

import pytest

from tests.faults.bench import Bench
from tests.faults.traffic import Traffic
from tests.faults.waiting import eventually

SESSION_SECONDS = 6
SLACK_SECONDS = 20
"""What a machine with every core busy may add to a time."""


async def test_a_rater_frozen_beyond_its_session_changes_nothing_when_it_wakes(
    bench: Bench,
) -> None:
    traffic = Traffic(2)
    frozen, other = bench.fleet.start(), bench.fleet.start()
    bench.fleet.start("warehouse")
    await bench.publish(traffic, 1_000)
    await bench.charged(500)
    frozen.signal(signal.SIGSTOP)
    before = await bench.verdict.applied()
    for _ in range(SESSION_SECONDS + 3):
        await bench.publish(traffic, 200)
        await asyncio.sleep(1)
    await bench.verdict.drained(60)
    assert await bench.verdict.applied() > before, "nobody went on: the fault had no effect"
    frozen.signal(signal.SIGCONT)
    awake = time.monotonic() + 4
    watching = asyncio.create_task(bench.verdict.watch_positions(lambda: time.monotonic() > awake))
    await bench.publish(traffic, 1_000)
    await watching
    await bench.exact(traffic.expected)
    assert other.status is None
    assert frozen.status is None, "it was not the worker's fault"


async def test_a_rater_frozen_in_its_transaction_gives_its_locks_back(bench: Bench) -> None:
    traffic = Traffic(3)
    frozen = bench.fleet.start(
        at=("before_commit", 2), do="SIGSTOP", idle_transaction_seconds_max=2
    )
    await bench.publish(traffic, 2_000)
    await frozen.frozen(30)
    bench.fleet.start("warehouse")
    bench.fleet.start()
    began = time.monotonic()
    await bench.publish(traffic, 1_000)
    await bench.verdict.drained(60)
    taken_over = time.monotonic() - began
    assert taken_over <= SESSION_SECONDS + 1 + SLACK_SECONDS
    assert bench.fleet.marks()["before_commit"] == 1
    frozen.signal(signal.SIGCONT)
    await bench.publish(traffic, 1_000)
    await bench.exact(traffic.expected)
    assert frozen.status is None
    print(f"\nfrozen in a transaction: others done after {taken_over:.1f} s")  # noqa: T201


async def test_a_rater_frozen_in_its_copy_gives_its_locks_back(bench: Bench) -> None:
    """PostgreSQL waits for its rows, and looks at no time limit meanwhile."""
    traffic = Traffic(3)
    frozen = bench.fleet.start(at=("in_copy", 2), do="SIGSTOP", statement_seconds_max=2)
    await bench.publish(traffic, 2_000)
    await frozen.frozen(30)
    bench.fleet.start("warehouse")
    other = bench.fleet.start(statement_seconds_max=2)
    await bench.publish(traffic, 1_000)
    await bench.verdict.drained(60)
    assert other.said("frozen in the middle of a COPY")
    frozen.signal(signal.SIGCONT)
    await bench.publish(traffic, 1_000)
    await bench.exact(traffic.expected)
    assert [frozen.status, other.status] == [None, None], bench.fleet.complaints()


@pytest.mark.parametrize("fault", ["stuck", "blocked"])
async def test_a_worker_that_hangs_is_ended_by_its_watchdog(bench: Bench, fault: str) -> None:
    traffic = Traffic(4)
    hanging = bench.fleet.start(without=[fault], stalled_seconds_max=3)
    await bench.publish(traffic, 300)
    assert await hanging.ended(30) == 70
    bench.fleet.start()
    bench.fleet.start("warehouse")
    await bench.exact(traffic.expected)


async def test_without_the_watchdog_it_hangs_for_ever(bench: Bench) -> None:
    hanging = bench.fleet.start(without=["watchdog", "stuck"], stalled_seconds_max=3)
    await bench.publish(Traffic(4), 300)
    with pytest.raises(TimeoutError):
        await hanging.ended(12)
    assert await bench.verdict.charges() == 0


async def test_sigterm_drains_and_exits_with_0(bench: Bench) -> None:
    traffic = Traffic(5)
    for _ in range(3):
        workers = [bench.fleet.start(), bench.fleet.start(), bench.fleet.start("warehouse")]
        started = await bench.verdict.applied()
        await bench.publish(traffic, 2_000)

        async def goes_on(start: int = started) -> bool:
            return await bench.verdict.applied() > start

        await eventually(goes_on, 30, "a batch is applied")
        for worker, ready in zip(
            workers, ("partitions assigned",) * 2 + ("shipping",), strict=True
        ):
            await worker.saying(ready, 30)
        asked = time.monotonic()
        for worker in workers:
            worker.signal(signal.SIGTERM)
        statuses = [await worker.ended(60) for worker in workers]
        seconds = time.monotonic() - asked
        assert statuses == [0, 0, 0], bench.fleet.complaints()
        assert seconds <= 5 + SLACK_SECONDS, f"{seconds:.1f} s"
    bench.fleet.start()
    bench.fleet.start("warehouse")
    await bench.exact(traffic.expected)
