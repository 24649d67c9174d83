"""How every producer of ours talks to Kafka: idempotent, acknowledged by all replicas, keyed."""

import asyncio
import contextlib
from collections.abc import Callable, Mapping, Sequence
from functools import lru_cache
from itertools import zip_longest
from typing import Any, Final, TypeVar

from aiokafka import AIOKafkaProducer
from aiokafka.partitioner import murmur2

# The broker takes batches of 256 KiB; half of it leaves room for what does not compress.
BATCH_BYTES_MAX: Final = 128 * 1024
REQUEST_TIMEOUT_MS: Final = 10_000
ACK_SECONDS_MAX: Final = 12.0

RawRecord = tuple[bytes | None, bytes | None]
"""Key and value of one record, as they are sent; only poison lacks one."""


@lru_cache(maxsize=65_536)
def _hash(key: bytes) -> int:
    return int(murmur2(key)) & 0x7FFFFFFF


def partition_of(key: bytes | None, partitions: Sequence[int], _available: Sequence[int]) -> int:
    """The partition that Kafka's own clients choose for the key (murmur2), remembered per key.

    The same account lands in the same partition whichever client publishes it. A record without
    a key is nobody's: it goes to the first partition.
    """
    if key is None:
        return partitions[0]
    return partitions[_hash(key) % len(partitions)]


def new_producer(
    bootstrap_servers: str, *, client_id: str, options: Mapping[str, Any] | None = None
) -> AIOKafkaProducer:
    """A producer that is not started yet; `options` are aiokafka's (security and the like).

    After any error it must be closed and made anew: an idempotent producer whose sequence went
    ahead of the broker's refuses all further work.
    """
    return AIOKafkaProducer(
        bootstrap_servers=bootstrap_servers,
        client_id=client_id,
        enable_idempotence=True,
        acks="all",
        compression_type="lz4",
        linger_ms=5,
        max_batch_size=BATCH_BYTES_MAX,
        request_timeout_ms=REQUEST_TIMEOUT_MS,
        partitioner=partition_of,
        **(options or {}),
    )


Sent = TypeVar("Sent", bound=RawRecord)


class Link:
    """A producer that is made anew after every error; used by one task at a time."""

    def __init__(self, new_producer: Callable[[], AIOKafkaProducer], topic: str) -> None:
        self._new_producer = new_producer
        self._topic = topic
        self._producer: AIOKafkaProducer | None = None
        self._retiring: set[asyncio.Task[None]] = set()

    async def send(self, records: list[Sent]) -> None:
        """Sends the records in order and removes those from the list that Kafka acknowledged.

        Returns when all are. Raises whatever went wrong; what is left may be sent again, though
        some of it may have arrived.
        """
        sent: list[asyncio.Future[Any]] = []
        try:
            async with asyncio.timeout(ACK_SECONDS_MAX):
                producer = await self._connected()
                for key, value in records:
                    sent.append(await producer.send(self._topic, value, key=key))
                if sent:
                    await asyncio.wait(sent)
            for future in sent:
                future.result()
        except Exception:
            self.retire()
            raise
        finally:
            for future in sent:
                future.add_done_callback(_retrieve)
            records[:] = [record for record, ack in zip_longest(records, sent) if not _acked(ack)]

    async def close(self, wait_seconds: float) -> None:
        """Ends the connection, or leaves it to the end of the loop when that takes longer."""
        self.retire()
        if self._retiring:
            await asyncio.wait(self._retiring, timeout=wait_seconds)

    def retire(self) -> None:
        """Closes the producer in the background: closing waits for requests that may never end."""
        producer, self._producer = self._producer, None
        if producer is not None:
            task = asyncio.create_task(_close(producer))
            self._retiring.add(task)
            task.add_done_callback(self._retiring.discard)

    async def _connected(self) -> AIOKafkaProducer:
        if self._producer is None:
            self._producer = self._new_producer()
            await self._producer.start()
        return self._producer


def _acked(future: asyncio.Future[Any] | None) -> bool:
    return (
        future is not None
        and future.done()
        and not future.cancelled()
        and future.exception() is None
    )


def _retrieve(future: asyncio.Future[Any]) -> None:
    """Looks at the outcome, so that asyncio does not complain that nobody did."""
    if not future.cancelled():
        future.exception()


async def _close(producer: AIOKafkaProducer) -> None:
    with contextlib.suppress(Exception):
        async with asyncio.timeout(2 * ACK_SECONDS_MAX):
            await producer.stop()
