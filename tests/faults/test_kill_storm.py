"""Workers killed again and again while events flow: nothing lost, nothing doubled."""

import asyncio
import os
import signal
import time
from collections import Counter
from itertools import cycle
from random import Random

from tests.faults.bench import Bench
from tests.faults.traffic import Traffic

KILLS = int(os.environ.get("TOLLGATE_FAULT_KILLS", "200"))
RATERS = 3
WAREHOUSES = 2
EVENTS_PER_SECOND = 400
RATER_POINTS = ("before_lock", "after_claim", "before_commit", "after_commit")
WAREHOUSE_POINTS = (
    "before_intent",
    "after_intent",
    "during_insert",
    "after_insert",
    "before_mark",
    "after_mark",
)
LIFE_SECONDS_MAX = 8.0
HITS_MIN = 3


def _every_other(points: tuple[str, ...]) -> list[str | None]:
    """The points, with a death at random after every two."""
    turns: list[str | None] = []
    for n, point in enumerate(points):
        turns += [point, None] if n % 2 else [point]
    return turns


class Storm:
    """Keeps a number of workers alive and kills each of them after a while."""

    def __init__(self, bench: Bench, kills: int) -> None:
        self._bench = bench
        self._kills = kills
        self._rng = Random(20261121)
        self.marks: Counter[str] = Counter()

    @property
    def over(self) -> bool:
        """Whether enough workers were killed."""
        return self.marks.total() >= self._kills

    async def slot(self, stage: str, points: tuple[str, ...], name: str) -> None:
        """One place for a worker: whoever dies is replaced."""
        for point in cycle(_every_other(points)):
            if self.over:
                return
            if point is None:
                await self._at_random(stage, name)
            else:
                await self._at_point(stage, point, name)

    async def _at_point(self, stage: str, point: str, name: str) -> None:
        nth = self._rng.randint(1, 4)
        worker = self._bench.fleet.start(stage, at=(point, nth), group_instance_id=name)
        try:
            status = await worker.ended(LIFE_SECONDS_MAX)
        except TimeoutError:
            worker.signal(signal.SIGKILL)
            status = await worker.ended(5)
            self.marks["too late"] += 1
        else:
            self.marks[f"{stage} {point}"] += 1
        assert status == -signal.SIGKILL, worker.log.read_text(errors="replace")[-3000:]

    async def _at_random(self, stage: str, name: str) -> None:
        worker = self._bench.fleet.start(stage, group_instance_id=name)
        await asyncio.sleep(self._rng.uniform(0.05, 2.5))
        worker.signal(signal.SIGKILL)
        status = await worker.ended(5)
        assert status == -signal.SIGKILL, worker.log.read_text(errors="replace")[-3000:]
        self.marks[f"{stage} at random"] += 1


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
