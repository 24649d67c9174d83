"""Workers that come and go, in order or not."""

import asyncio
import signal
import sys
from contextlib import suppress

from tests.faults.bench import Bench
from tests.faults.traffic import Traffic

ROUNDS = 6
JOIN_SECONDS_MAX = 10


async def test_a_storm_of_rebalances_neither_stops_the_work_nor_spoils_it(bench: Bench) -> None:
    traffic = Traffic(41)
    steady = [bench.fleet.start(), bench.fleet.start()]
    bench.fleet.start("warehouse")
    over = asyncio.Event()
    flow = asyncio.create_task(bench.publisher.flow(traffic, per_second=300, until=over.is_set))
    await bench.charged(1)
    before = await bench.verdict.charges()
    joined = 0
    for n in range(ROUNDS):
        guest = bench.fleet.start()
        with suppress(TimeoutError):
            await guest.saying("partitions assigned", JOIN_SECONDS_MAX)
            joined += 1
            await asyncio.sleep(0.5)
        guest.signal(signal.SIGKILL if n % 3 == 2 else signal.SIGTERM)
        assert await guest.ended(20) in {0, -signal.SIGKILL, -signal.SIGTERM}
    during = await bench.verdict.charges() - before
    published = traffic.published
    over.set()
    await flow
    await bench.exact(traffic.expected)
    assert [worker.status for worker in steady] == [None, None], bench.fleet.complaints()
    assert joined >= ROUNDS // 2, "no rebalance: the fault had no effect"
    assert during >= 0.3 * published, f"{during} of {published}"
    print(f"\n{joined} of {ROUNDS} guests had partitions; {during} charged meanwhile")  # noqa: T201


async def test_the_command_dies_where_the_variable_says(bench: Bench) -> None:
    """TOLLGATE_FAULT_POINT, with the command itself."""
    traffic = Traffic(42)
    await bench.publish(traffic, 300)
    for point, charged in (("before_commit", False), ("after_commit", True)):
        process = await asyncio.create_subprocess_exec(
            sys.executable,
            "-m",
            "tollgate",
            "run",
            "rater",
            env=bench.environment | {"TOLLGATE_FAULT_POINT": point},
            stderr=asyncio.subprocess.DEVNULL,
        )
        assert await asyncio.wait_for(process.wait(), 60) == 137
        assert (await bench.verdict.charges() > 0) is charged
    bench.fleet.start()
    await bench.ledger_is_exact(traffic.expected)
