"""The warehouse: the ledger's rows into ClickHouse, each once.

Input: charges up to the committed positions; credit transactions and corrections of finished
transactions. Output: ClickHouse's tables `charge`, `credit_transaction` and `charge_correction`,
and their roll-ups. Guarantee: what is marked as shipped is readable once, whatever crashed in
between; ClickHouse being away delays the copy and touches nothing else.
"""

import asyncio
import signal
import time
from contextlib import suppress
from datetime import UTC, datetime

import structlog

from adapters.clickhouse import Unreachable
from adapters.copy import Copy, WrongGeneration
from adapters.metrics import Metrics
from adapters.postgres import TRANSIENT, open_pool
from adapters.ranges import Ranges
from adapters.settings import Settings
from consumers.drift import watch_drift
from consumers.probes import serve_probes
from consumers.progress import Progress
from core.ranges import Stream
from schemas.topics import USAGE_EVENTS

log = structlog.get_logger()

STAGE = "warehouse"
POOL_SIZE = 2
BACK_OFF_SECONDS_MIN = 0.2
BACK_OFF_SECONDS_MAX = 10.0
TROUBLE: tuple[type[Exception], ...] = (Unreachable, WrongGeneration, *TRANSIENT)


class Warehouse:
    """Ships every stream in turn until told to stop. Any number may run at once; one does the work.

    Trouble of the world is waited out for ever, with a growing pause. What would go wrong again for
    ever is a Halt, and leaves this class.
    """

    def __init__(
        self, settings: Settings, ranges: Ranges, metrics: Metrics, progress: Progress
    ) -> None:
        self._ranges = ranges
        self._copy = Copy(settings, ranges)
        self._metrics = metrics
        self._progress = progress
        self._idle_seconds = settings.ship_wait_ms / 1000
        self._gather_rows = settings.ship_rows_max // 2
        self._stopping = asyncio.Event()

    def stop(self) -> None:
        """Ends the loop after the range that is under way."""
        self._stopping.set()

    async def run(self) -> None:
        """Ships until `stop`; raises Halt when going on would be wrong."""
        failures = 0
        agreed = False
        while not self._stopping.is_set():
            try:
                if not agreed:
                    generation = await self._copy.agree()
                    log.info("shipping", generation=generation)
                    self._progress.ready = agreed = True
                await self.ship_once()
                failures = 0
            except TROUBLE as trouble:
                failures += 1
                agreed = self._progress.ready = False
                await self._wait_out(trouble, failures)
                continue
            # Small inserts cost ClickHouse more than they bring: let rows gather, unless many wait.
            if self._progress.lag < self._gather_rows:
                await self._pause(self._idle_seconds)

    async def ship_once(self) -> None:
        """Ships at most one range of each stream."""
        for stream in Stream:
            started = time.monotonic()
            done = await self._copy.ship_next(stream)
            if done is None:
                continue
            seconds = time.monotonic() - started
            self._metrics.shipped(stream, rows=done.row_count, seconds=seconds)
            self._progress.batch_done(done.row_count)
            log.debug("shipped", stream=stream, range_id=done.range_id, rows=done.row_count)
        await self._measure_lag()

    async def _measure_lag(self) -> None:
        waiting = await self._ranges.waiting()
        self._progress.lag = sum(extent.offsets for extent in waiting)
        oldest = await self._ranges.oldest_waiting(waiting)
        behind = 0.0 if oldest is None else (datetime.now(UTC) - oldest).total_seconds()
        self._metrics.behind(Stream.CHARGE, max(0.0, behind))

    async def _wait_out(self, trouble: Exception, failures: int) -> None:
        pause = min(BACK_OFF_SECONDS_MAX, BACK_OFF_SECONDS_MIN * 2 ** min(failures - 1, 10))
        self._metrics.retried(type(trouble).__name__)
        with suppress(*TRANSIENT):
            await self._measure_lag()
        # Waiting for ClickHouse is what this stage is for: a restart would not bring it back.
        self._progress.resumed()
        log.warning(
            "waiting", cause=type(trouble).__name__, detail=str(trouble), pause_seconds=pause
        )
        await self._pause(pause)

    async def _pause(self, seconds: float) -> None:
        try:
            await asyncio.wait_for(self._stopping.wait(), seconds)
        except TimeoutError:
            return


async def run(settings: Settings) -> None:
    """A warehouse until SIGTERM or SIGINT; raises Halt with the reason when it must not go on."""
    metrics, progress = Metrics(STAGE), Progress(settings)
    async with (
        open_pool(settings, application_name=STAGE, size=POOL_SIZE) as pool,
        serve_probes(settings, STAGE, progress, metrics),
    ):
        topic = settings.topic_prefix + USAGE_EVENTS.name
        ranges = Ranges(pool, topic=topic, rows_max=settings.ship_rows_max)
        warehouse = Warehouse(settings, ranges, metrics, progress)
        loop = asyncio.get_running_loop()
        for number in (signal.SIGTERM, signal.SIGINT):
            loop.add_signal_handler(number, warehouse.stop)
        auditing = asyncio.create_task(watch_drift(settings, metrics))
        try:
            await warehouse.run()
        finally:
            auditing.cancel()
            await asyncio.gather(auditing, return_exceptions=True)
