"""Wires the rater: Kafka, PostgreSQL, probes, and the small tasks beside the batch loop."""

import asyncio
import time
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager

import structlog
from aiokafka.errors import KafkaError
from faststream import FastStream

from adapters.kafka import LastRecords, Positions, open_broker, subscribe
from adapters.ledger import Ledger
from adapters.metrics import BatchFigures, Metrics
from adapters.postgres import TRANSIENT, Pool, open_pool
from adapters.settings import Settings
from consumers.batch import BatchLoop, Runs
from consumers.letters import Letters
from consumers.prices import Prices
from consumers.probes import serve_probes
from consumers.progress import Progress
from consumers.rater import Rater
from schemas.topics import USAGE_EVENTS

log = structlog.get_logger()

STAGE = "rater"
LOG_CHECK_SECONDS = 10.0
LAG_SECONDS = 1.0
COPIES_SECONDS = 2.0
LOOP_TICK_SECONDS = 0.02


class RaterApp:
    """One rater process, from its connections to its end."""

    def __init__(self, settings: Settings, pool: Pool) -> None:
        topic = settings.topic_prefix + USAGE_EVENTS.name
        self._ended: BaseException | None = None
        self.metrics = Metrics(STAGE)
        self.progress = Progress(settings)
        self._statement_seconds_max = settings.statement_seconds_max
        self._ledger = ledger = Ledger(pool, topic, settings.event_age_days_max)
        prices = Prices()
        self._rater = Rater(settings, ledger, prices)
        self._letters = Letters(settings, pool, prices, self.metrics)
        self._where = Positions(
            ledger.positions,
            LastRecords(settings, topic).check,
            lambda error: self._loop.stop(error),
        )
        self._loop = BatchLoop(
            self._where, self._apply, self._stop, settings.retry_seconds_max, self.metrics.retried
        )
        broker = open_broker(settings, STAGE)
        subscribe(broker, settings, STAGE, self._where, topic, self._loop.on_records)
        self._app = FastStream(broker, logger=None)

    async def run(self) -> None:
        """Runs until a signal; raises what stopped it otherwise."""
        async with (
            self._beside(self._watch_lag),
            self._beside(self._watch_log),
            self._beside(self._watch_copies),
            self._beside(lambda: self._letters.run(STAGE)),
            self._beside(self._watch_loop),
        ):
            await self._app.run()
        if self._ended is not None:
            raise self._ended

    def _stop(self, error: BaseException) -> None:
        if self._ended is None:
            self._ended = error
            log.error("stopping, nothing after the last commit is applied", error=str(error))
        self._app.exit()

    async def _apply(self, runs: Runs, *, unprocessable: bool = False) -> None:
        figures: BatchFigures = await self._rater.apply(
            runs, epoch=self._where.epoch, unprocessable=unprocessable
        )
        self.metrics.batch_done(figures)
        self.progress.batch_done(sum(map(len, runs.values())))

    @asynccontextmanager
    async def _beside(self, work: Callable[[], Awaitable[None]]) -> AsyncIterator[None]:
        """Runs `work` while the block runs; what it raises stops the stage."""

        async def guarded() -> None:
            try:
                await work()
            except Exception as error:  # noqa: BLE001 - handed to stop(), which ends the process
                self._loop.stop(error)

        task = asyncio.create_task(guarded())
        try:
            yield
        finally:
            task.cancel()
            await asyncio.gather(task, return_exceptions=True)

    async def _watch_lag(self) -> None:
        known: set[int] = set()
        while True:
            await asyncio.sleep(LAG_SECONDS)
            self.progress.ready = self._where.joined
            if not self._where.started:
                continue
            try:
                lags = await self._where.lag()
            except (KafkaError, TimeoutError) as error:
                log.info("lag is not known", error=repr(error))
                continue
            self.progress.lag = sum(lags.values())
            for tp, lag in lags.items():
                self.metrics.at_position(tp.partition, next_offset=self._where.next[tp], lag=lag)
            owned = {tp.partition for tp in lags}
            for partition in known - owned:
                self.metrics.forget_partition(partition)
            known = owned

    async def _watch_log(self) -> None:
        while True:
            await asyncio.sleep(LOG_CHECK_SECONDS)
            try:
                await self._where.check()
            except (KafkaError, *TRANSIENT) as error:
                log.info("the log was not checked this time", error=repr(error))

    async def _watch_copies(self) -> None:
        """Others of us may be frozen with locks that no time limit of PostgreSQL takes away."""
        while True:
            await asyncio.sleep(COPIES_SECONDS)
            try:
                ended = await self._ledger.end_overdue_copies(self._statement_seconds_max)
            except TRANSIENT as error:
                log.info("copies were not looked at this time", error=repr(error))
                continue
            if ended:
                log.warning("sessions frozen in the middle of a COPY were ended", sessions=ended)

    async def _watch_loop(self) -> None:
        """Measures how late the event loop wakes: a long stall would cost us our partitions.

        Only what this thread computed meanwhile counts: waiting for a processor is not our doing.
        """
        while True:
            began, computed = time.monotonic(), time.thread_time()
            await asyncio.sleep(LOOP_TICK_SECONDS)
            late_seconds = time.monotonic() - began - LOOP_TICK_SECONDS
            self.metrics.loop_stalled(min(late_seconds, time.thread_time() - computed))


async def run(settings: Settings) -> None:
    """A rater until SIGTERM or SIGINT; raises Halt or the trouble that stopped it."""
    async with open_pool(settings, application_name=STAGE, size=3) as pool:
        app = RaterApp(settings, pool)
        async with serve_probes(settings, STAGE, app.progress, app.metrics):
            await app.run()
