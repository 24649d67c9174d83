"""Workers killed again and again while events flow: nothing lost, nothing doubled."""

import asyncio
import os
import time

from tests.faults.bench import Bench
from tests.faults.storm import RATER_POINTS, Storm
from tests.faults.traffic import Traffic

KILLS = int(os.environ.get("TOLLGATE_FAULT_KILLS", "200"))
RATERS = 3
WAREHOUSES = 2
EVENTS_PER_SECOND = 400
WAREHOUSE_POINTS = (
    "before_intent",
    "after_intent",
    "during_insert",
    "after_insert",
    "before_mark",
    "after_mark",
)
HITS_MIN = 3


async def test_two_hundred_kills_lose_nothing_and_double_nothing(bench: Bench) -> None:
    traffic = Traffic(1)
    storm = Storm(bench, KILLS)
    began = time.monotonic()
    async with asyncio.TaskGroup() as tasks:
        tasks.create_task(
            bench.publisher.flow(traffic, per_second=EVENTS_PER_SECOND, until=lambda: storm.over)
        )
        looks = tasks.create_task(bench.verdict.watch_positions(lambda: storm.over))
        for n in range(RATERS):
            tasks.create_task(storm.slot("rater", RATER_POINTS, f"rater-{n}"))
        for n in range(WAREHOUSES):
            tasks.create_task(storm.slot("warehouse", WAREHOUSE_POINTS, f"warehouse-{n}"))
    stormed = time.monotonic() - began
    done_in_the_storm = await bench.verdict.charges()
    for n in range(RATERS):
        bench.fleet.start("rater", group_instance_id=f"rater-{n}")
    bench.fleet.start("warehouse")
    await bench.exact(traffic.expected)
    print(  # noqa: T201 - the figures of the run
        f"\n{storm.marks.total()} kills in {stormed:.0f} s, drained after "
        f"{time.monotonic() - began - stormed:.0f} s; {traffic.published} records, "
        f"{traffic.repeated} repeated, {traffic.repeated_with_another_time} with another time; "
        f"{done_in_the_storm} charged in the storm\n{dict(storm.marks)}"
    )
    points = [f"rater {point}" for point in (*RATER_POINTS, "at random")]
    points += [f"warehouse {point}" for point in (*WAREHOUSE_POINTS, "at random")]
    rare = [point for point in points if storm.marks[point] < min(HITS_MIN, KILLS // 40)]
    assert not rare, f"too few hits: {rare} in {storm.marks}"
    assert looks.result() > KILLS // 4
    assert traffic.repeated_with_another_time > 0
