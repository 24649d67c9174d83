"""Workers that are killed again and again, each replaced at once."""

import asyncio
import signal
from collections import Counter
from itertools import cycle
from random import Random

from tests.faults.bench import Bench

RATER_POINTS = ("before_lock", "after_claim", "before_commit", "after_commit")
LIFE_SECONDS_MAX = 8.0


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
            status = await worker.ended(60)
            self.marks["too late"] += 1
        else:
            self.marks[f"{stage} {point}"] += 1
        assert status == -signal.SIGKILL, worker.log.read_text(errors="replace")[-3000:]

    async def _at_random(self, stage: str, name: str) -> None:
        worker = self._bench.fleet.start(stage, group_instance_id=name)
        await asyncio.sleep(self._rng.uniform(0.05, 2.5))
        worker.signal(signal.SIGKILL)
        status = await worker.ended(60)
        assert status == -signal.SIGKILL, worker.log.read_text(errors="replace")[-3000:]
        self.marks[f"{stage} at random"] += 1
