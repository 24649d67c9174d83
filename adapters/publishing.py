"""Producing from the inside: records that must be in Kafka before PostgreSQL says that they are."""

import asyncio
from collections.abc import AsyncIterator, Iterable
from contextlib import asynccontextmanager
from dataclasses import dataclass

from aiokafka import AIOKafkaProducer
from aiokafka.errors import KafkaError

from adapters.failures import Failure
from adapters.settings import Settings

REQUEST_TIMEOUT_MS = 15_000
BATCH_BYTES = 16 * 1024


@dataclass(frozen=True, slots=True)
class Outgoing:
    """One record to send, as bytes."""

    topic: str
    key: bytes | None
    value: bytes
    headers: tuple[tuple[str, bytes], ...] = ()


@asynccontextmanager
async def open_producer(
    settings: Settings, client_id: str, batch_bytes: int = BATCH_BYTES
) -> AsyncIterator[AIOKafkaProducer]:
    """An idempotent producer with acks from all replicas; never creates a topic by intent.

    Batches grow to `batch_bytes`: larger ones for many records at once. Raises Failure when no
    broker answers.
    """
    producer = idempotent_producer(settings, client_id, batch_bytes)
    try:
        await producer.start()
    except KafkaError as error:
        await producer.stop()
        raise unreachable(settings, error) from None
    try:
        yield producer
    finally:
        await producer.stop()


def idempotent_producer(settings: Settings, client_id: str, batch_bytes: int) -> AIOKafkaProducer:
    """A producer that is not started yet; needs a running loop."""
    return AIOKafkaProducer(
        bootstrap_servers=settings.kafka,
        client_id=f"tollgate-{client_id}",
        enable_idempotence=True,
        acks="all",
        compression_type="lz4",
        request_timeout_ms=REQUEST_TIMEOUT_MS,
        max_batch_size=batch_bytes,
        max_request_size=262_144,
    )


def unreachable(settings: Settings, error: Exception) -> Failure:
    """The line for a broker that does not answer."""
    return Failure(
        f"Kafka at {settings.kafka} does not answer ({type(error).__name__}): "
        "start it with `tollgate up`, or set TOLLGATE_KAFKA"
    )


async def send_all(producer: AIOKafkaProducer, outgoing: Iterable[Outgoing]) -> None:
    """Sends every record and returns once all replicas have acknowledged all of them.

    Raises KafkaError when one is not acknowledged; others may have arrived: at least once.
    """
    acks = [
        await producer.send(
            record.topic, value=record.value, key=record.key, headers=list(record.headers)
        )
        for record in outgoing
    ]
    await asyncio.gather(*acks)
