"""Prices that count the month, while workers that share the accounts are killed."""

import asyncio
import time
from itertools import count

import asyncpg
import pytest

from tests.counted import publish_counted
from tests.faults.bench import Bench
from tests.faults.counted_traffic import CountedTraffic, counted_findings
from tests.faults.storm import RATER_POINTS, Storm
from tests.faults.test_kill_storm import KILLS

PARTITIONS = 8
RATERS = 2
JOIN_SECONDS_MAX = 40


async def _publish_book(bench: Bench) -> None:
    connection = await asyncpg.connect(bench.settings.postgres.get_secret_value())
    try:
        await publish_counted(connection)
    finally:
        await connection.close()


async def _flow(bench: Bench, traffic: CountedTraffic, storm: Storm) -> None:
    """Every account in every partition: both raters count for it at the same time."""
    for n in count():
        if storm.over:
            return
        await bench.publisher.send(traffic.records(30), partition=n % PARTITIONS)
        await asyncio.sleep(0.1)


async def test_a_month_costs_its_definition_whoever_was_killed(bench: Bench) -> None:
    await _publish_book(bench)
    traffic = CountedTraffic(36)
    storm = Storm(bench, max(8, KILLS // 5))
    began = time.monotonic()
    async with asyncio.TaskGroup() as tasks:
        tasks.create_task(_flow(bench, traffic, storm))
        for n in range(RATERS):
            tasks.create_task(storm.slot("rater", RATER_POINTS, f"rater-{n}"))
    for n in range(RATERS):
        bench.fleet.start("rater", group_instance_id=f"rater-{n}")
    await bench.verdict.drained(60)
    findings = await counted_findings(bench.settings, bench.verdict, traffic)
    assert not findings, "\n".join([*findings, bench.fleet.complaints()])
    print(  # noqa: T201 - the figures of the run
        f"\n{storm.marks.total()} kills in {time.monotonic() - began:.0f} s, "
        f"{traffic.published} records, {len(traffic.identities)} events, "
        f"{len(traffic.units)} months; {dict(storm.marks)}"
    )


@pytest.mark.parametrize("without", ["", "counter", "account_lock"])
async def test_a_counter_is_read_under_the_lock_of_its_account(bench: Bench, without: str) -> None:
    """Two raters, the same six accounts in the partitions of both."""
    await _publish_book(bench)
    traffic = CountedTraffic(37, duplicates=0)
    for _ in range(RATERS):
        rater = bench.fleet.start(without=[without] if without else [], batch_records=50)
        await rater.saying("partitions assigned", JOIN_SECONDS_MAX)
    for _ in range(3):
        for partition in range(PARTITIONS):
            await bench.publisher.send(traffic.records(100), partition=partition)
    await bench.verdict.drained(60)
    findings = await counted_findings(bench.settings, bench.verdict, traffic)
    kinds = {finding.partition(":")[0] for finding in findings}
    assert ("months" in kinds) is bool(without), findings
    assert not kinds & {"lost", "doubled", "counters"}
