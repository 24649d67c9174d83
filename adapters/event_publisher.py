"""Usage events of many requests on their way to Kafka: acknowledged by all replicas, or not taken.

The answer to a request waits for its acknowledgements, so that nothing is called accepted that
Kafka does not have. What waits is bounded in bytes, and the wait is bounded in time.
"""

import asyncio
import contextlib
import time
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from enum import StrEnum
from typing import Any

import structlog
from aiokafka import AIOKafkaProducer
from aiokafka.errors import KafkaConnectionError, KafkaError

from adapters.publishing import Outgoing, idempotent_producer
from adapters.settings import Settings

log = structlog.get_logger()

BATCH_BYTES = 128 * 1024
RECORD_OVERHEAD_BYTES = 1_024  # what one record costs in memory beside its bytes, rounded up
_BACK_OFF_SECONDS_MIN = 0.1
_BACK_OFF_SECONDS_MAX = 2.0
_CONNECT_SECONDS_MAX = 5.0
_FIRST_SECONDS_MAX = 2.0
_CLOSE_SECONDS_MAX = 3.0
_TROUBLE = (KafkaError, OSError, TimeoutError)


class NotTaken(StrEnum):
    """Why records were not taken. Some may have arrived: the same ids may be sent again."""

    FULL = "full"
    SLOW = "slow"
    AWAY = "away"


class EventPublisher:
    """One idempotent producer for all requests of a process, made anew after every error.

    It is made anew because an idempotent producer whose sequence went ahead of the broker's
    refuses all further work. While there is none, `publish` answers at once.
    """

    def __init__(self, settings: Settings) -> None:
        self._settings = settings
        self._producer: AIOKafkaProducer | None = None
        self._lost = asyncio.Event()
        self._tried = asyncio.Event()
        self._ending: set[asyncio.Task[None]] = set()
        self._acked_at = 0.0
        self.waiting_bytes = 0

    @property
    def connected(self) -> bool:
        """Whether there is a producer with which nothing went wrong so far."""
        return self._producer is not None

    async def publish(self, records: Sequence[Outgoing]) -> NotTaken | None:
        """Sends the records in order; None once all replicas have acknowledged all of them.

        Takes `ingest_seconds_max` at most. Room in memory is given back when a record is
        acknowledged or given up for good, which may be later than this answer.
        """
        producer = self._producer
        if producer is None:
            return NotTaken.AWAY
        costs_bytes = [_cost_bytes(record) for record in records]
        needed_bytes = sum(costs_bytes)
        if self.waiting_bytes + needed_bytes > self._settings.ingest_waiting_bytes_max:
            return NotTaken.FULL
        self.waiting_bytes += needed_bytes
        began = time.monotonic()
        acks: list[asyncio.Future[Any]] = []
        try:
            async with asyncio.timeout(self._settings.ingest_seconds_max):
                for record, cost_bytes in zip(records, costs_bytes, strict=True):
                    ack = await producer.send(record.topic, value=record.value, key=record.key)
                    ack.add_done_callback(lambda done, cost=cost_bytes: self._ended(done, cost))
                    acks.append(ack)
                await asyncio.wait(acks)  # leaves them alone when the time is up; gather would not
            for ack in acks:
                ack.result()
        except _TROUBLE as error:
            if isinstance(error, TimeoutError) and self._acked_at >= began:
                return NotTaken.SLOW
            self._lose(producer, error)
            return NotTaken.AWAY
        finally:
            self.waiting_bytes -= sum(costs_bytes[len(acks) :])
        return None

    async def keep_connected(self) -> None:
        """Gets a producer, and another one whenever it is lost, until it is cancelled."""
        back_off_seconds = _BACK_OFF_SECONDS_MIN
        while True:
            producer = idempotent_producer(self._settings, "api", BATCH_BYTES)
            try:
                async with asyncio.timeout(_CONNECT_SECONDS_MAX):
                    await producer.start()
            except _TROUBLE as error:
                self._end(producer)
                if not self._tried.is_set():
                    log.warning("Kafka takes no usage events, trying again", error=repr(error))
                self._tried.set()
                await asyncio.sleep(back_off_seconds)
                back_off_seconds = min(2 * back_off_seconds, _BACK_OFF_SECONDS_MAX)
                continue
            except BaseException:
                self._end(producer)
                raise
            if self._tried.is_set():
                log.info("Kafka takes usage events again")
            back_off_seconds = _BACK_OFF_SECONDS_MIN
            self._lost.clear()
            self._producer = producer
            self._tried.set()
            await self._lost.wait()

    async def tried(self) -> None:
        """Returns when the first attempt to connect has ended, or after two seconds."""
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(_FIRST_SECONDS_MAX):
                await self._tried.wait()

    async def close(self) -> None:
        """Lets go of everything; what is not acknowledged by now was never called accepted."""
        producer, self._producer = self._producer, None
        if producer is not None:
            self._end(producer)
        if self._ending:
            await asyncio.wait(self._ending, timeout=2 * _CLOSE_SECONDS_MAX)

    def _ended(self, ack: asyncio.Future[Any], cost_bytes: int) -> None:
        self.waiting_bytes -= cost_bytes
        if not ack.cancelled() and ack.exception() is None:
            self._acked_at = time.monotonic()

    def _lose(self, producer: AIOKafkaProducer, error: Exception) -> None:
        """Requests that fail together lose the producer once."""
        if self._producer is producer:
            log.warning("Kafka takes no usage events, trying again", error=repr(error))
            self._producer = None
            self._lost.set()
            self._end(producer)

    def _end(self, producer: AIOKafkaProducer) -> None:
        task = asyncio.create_task(_end_at_once(producer))
        self._ending.add(task)
        task.add_done_callback(self._ending.discard)


async def _end_at_once(producer: AIOKafkaProducer) -> None:
    """Closes it without waiting for what it holds.

    An idempotent producer never gives a record up: `stop` alone would wait for a broker that does
    not answer for ever, with the records in memory, and deliver them when nobody knows of them.
    """
    producer._message_accumulator.fail_all(KafkaConnectionError("given up"))  # noqa: SLF001
    for closing in (producer.client.close, producer.stop):
        with contextlib.suppress(Exception):
            async with asyncio.timeout(_CLOSE_SECONDS_MAX):
                await closing()


def _cost_bytes(record: Outgoing) -> int:
    return len(record.value) + len(record.key or b"") + RECORD_OVERHEAD_BYTES


@asynccontextmanager
async def open_publisher(settings: Settings) -> AsyncIterator[EventPublisher]:
    """A publisher that connects by itself, also later: whoever opens it lives without Kafka too."""
    publisher = EventPublisher(settings)
    task = asyncio.create_task(publisher.keep_connected())
    try:
        await publisher.tried()
        yield publisher
    finally:
        task.cancel()
        await asyncio.gather(task, return_exceptions=True)
        await publisher.close()
