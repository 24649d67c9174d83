"""The one batch loop: admit, apply with retries, stop rather than skip.

Input: batches of records as they come. Guarantee: a record is applied after every record before
it in its partition, and nothing after a batch that could not be applied is applied by this
process. The position in PostgreSQL is moved by `apply` itself, in its own transaction; Kafka's
committed offsets are for monitoring.
"""

import asyncio
from collections.abc import Callable, Sequence
from typing import Protocol

import stamina
import structlog
from aiokafka import AIOKafkaConsumer, ConsumerRecord, TopicPartition
from aiokafka.errors import KafkaError

from adapters.kafka import Positions
from adapters.ledger import PositionMoved
from adapters.postgres import POISON, TRANSIENT

log = structlog.get_logger()

COMMIT_SECONDS_MAX = 2.0

Runs = dict[TopicPartition, list[ConsumerRecord]]


class Apply(Protocol):
    """Applies runs of records in one transaction; running it twice changes nothing."""

    async def __call__(self, runs: Runs, *, unprocessable: bool = False) -> None:
        """With `unprocessable` the one record in `runs` is booked as a dead letter, unread."""


class BatchLoop:
    """Feeds `apply` and stops the process when it can not go on."""

    def __init__(
        self,
        where: Positions,
        apply: Apply,
        stop: Callable[[BaseException], None],
        retry_seconds_max: float,
        on_retry: Callable[[str], None],
    ) -> None:
        self._where = where
        self._apply = apply
        self._stop = stop
        self._retry_seconds_max = retry_seconds_max
        self._on_retry = on_retry
        self._stopped = False

    def stop(self, error: BaseException) -> None:
        """No batch is applied from now on; the process is told why."""
        self._stopped = True
        self._stop(error)

    async def on_records(self, records: Sequence[ConsumerRecord]) -> None:
        """Handles one poll. Never raises: what can not be handled stops the process."""
        if self._stopped:
            return
        try:
            async with self._where.busy:
                runs = self._where.admit(records)
                if not runs:
                    return
                try:
                    await self._apply_with_retries(runs)
                except PositionMoved as moved:
                    log.warning("another worker moved the stream", position=str(moved))
                    await self._where.resume([tp for tp in runs if tp in self._where.next])
                    return
                self._where.applied(runs)
        except Exception as error:  # noqa: BLE001 - handed to stop(), which ends the process
            self.stop(error)
            return
        await self._commit(runs)

    async def _apply_with_retries(self, runs: Runs) -> None:
        try:
            await self._patiently(runs)
        except POISON as error:
            log.warning("a batch was refused, looking for the record", error=repr(error))
            await self._isolate(runs)

    async def _patiently(self, runs: Runs, *, unprocessable: bool = False) -> None:
        async for attempt in stamina.retry_context(
            on=TRANSIENT,
            attempts=None,
            timeout=self._retry_seconds_max,
            wait_initial=0.1,
            wait_max=5.0,
        ):
            with attempt:
                await self._once(runs, attempt.num, unprocessable=unprocessable)

    async def _once(self, runs: Runs, attempt: int, *, unprocessable: bool) -> None:
        try:
            await self._apply(runs, unprocessable=unprocessable)
        except TRANSIENT as error:
            log.warning("a batch failed and is tried again", attempt=attempt, error=repr(error))
            self._on_retry(type(error).__name__)
            raise

    async def _isolate(self, runs: Runs) -> None:
        """Applies halves until the record that PostgreSQL refuses stands alone: a dead letter."""
        if sum(map(len, runs.values())) == 1:
            await self._patiently(runs, unprocessable=True)
            return
        for half in halves(runs):
            try:
                await self._patiently(half)
            except POISON:
                await self._isolate(half)

    async def _commit(self, runs: Runs) -> None:
        """Tells Kafka how far we are, for `kafka-consumer-groups` and the like; may fail."""
        consumer: AIOKafkaConsumer = self._where.consumer
        try:
            async with asyncio.timeout(COMMIT_SECONDS_MAX):
                await consumer.commit({tp: run[-1].offset + 1 for tp, run in runs.items()})
        except (KafkaError, TimeoutError) as error:
            log.info("offsets not committed: the position in PostgreSQL counts", error=repr(error))


def halves(runs: Runs) -> list[Runs]:
    """Two parts that, applied in order, are the whole; each keeps the order of its partitions."""
    total = sum(map(len, runs.values()))
    first: Runs = {}
    second: Runs = {}
    taken = 0
    for tp, run in runs.items():
        part = min(len(run), max(0, total // 2 - taken))
        taken += part
        if part:
            first[tp] = run[:part]
        if part < len(run):
            second[tp] = run[part:]
    return [first, second]
