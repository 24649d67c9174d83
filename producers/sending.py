"""Sending a known stream of records as fast as Kafka takes them, or at the times they carry."""

import asyncio
import time
from collections.abc import AsyncIterator, Callable, Iterable
from typing import Final

from aiokafka.errors import KafkaError

from producers.connection import Link, RawRecord, new_producer

CHUNK_RECORDS_MAX: Final = 10_000
RETRY_SECONDS_MAX: Final = 120.0
BACK_OFF_SECONDS: Final = 0.5
PACE_SECONDS: Final = 0.01

Timed = tuple[float, RawRecord]
"""When the record is due, in seconds since the first one's clock began, and the record."""


async def publish_records(
    bootstrap_servers: str,
    topic: str,
    records: Iterable[Timed],
    *,
    paced: bool = False,
    on_sent: Callable[[int], None] = lambda _count: None,
) -> int:
    """Publishes every record, in order per key, and returns how many Kafka acknowledged: all.

    With `paced`, each record waits until it is due. Once the first chunk is there, an outage is
    waited out for two minutes; what was in flight is then sent again, so a record can arrive twice.

    Raises the last error (KafkaError, OSError, TimeoutError) when Kafka is or stays away.
    """
    link = Link(lambda: new_producer(bootstrap_servers, client_id="tollgate-publish"), topic)
    total = 0
    try:
        async for chunk in _chunks(records, paced=paced):
            count = len(chunk)
            await _send_stubbornly(link, chunk, RETRY_SECONDS_MAX if total else 0.0)
            total += count
            on_sent(count)
    finally:
        await link.close(wait_seconds=5.0)
    return total


async def _send_stubbornly(link: Link, chunk: list[RawRecord], retry_seconds: float) -> None:
    deadline = time.monotonic() + retry_seconds
    while chunk:
        try:
            await link.send(chunk)
        except (KafkaError, OSError, TimeoutError):
            if time.monotonic() > deadline:
                raise
            await asyncio.sleep(BACK_OFF_SECONDS)


async def _chunks(records: Iterable[Timed], *, paced: bool) -> AsyncIterator[list[RawRecord]]:
    """Full chunks, or with `paced` whatever is due every ten milliseconds."""
    began = time.monotonic()
    chunk: list[RawRecord] = []
    for due, record in records:
        if paced and due > time.monotonic() - began:
            if chunk:
                yield chunk
                chunk = []
            wait_seconds = due - (time.monotonic() - began)
            if wait_seconds > 0:
                await asyncio.sleep(max(wait_seconds, PACE_SECONDS))
        chunk.append(record)
        if len(chunk) >= CHUNK_RECORDS_MAX:
            yield chunk
            chunk = []
    if chunk:
        yield chunk
