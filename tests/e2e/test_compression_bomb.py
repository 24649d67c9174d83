"""Batches that grow to hundreds of megabytes: each is a dead letter, the rater stays small."""

import asyncio
import json
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass, field

import asyncpg
import psutil
from aiokafka import AIOKafkaProducer

from adapters.bounded_records import BATCH_BYTES_MAX
from adapters.settings import Settings
from schemas.topics import USAGE_EVENTS
from tests.batches import usage
from tests.workers import Worker, wait_applied

MIB = 1024 * 1024
RATER_BYTES_MAX = 300 * MIB
# As far as 256 KiB of each codec reach: snappy never gets to the bound, and is too large by itself.
BOMBS = {"zstd": 300 * MIB, "gzip": 150 * MIB, "lz4": 50 * MIB, "snappy": 4 * MIB}
BELOW_THE_BOUND = BATCH_BYTES_MAX - MIB


@dataclass
class Sent:
    """What one partition holds: offsets of the bombs, ids of the good events."""

    settings: Settings
    topic: str
    bombs: list[int] = field(default_factory=list)
    good: list[str] = field(default_factory=list)

    @property
    def offsets(self) -> int:
        return len(self.bombs) + len(self.good)

    async def send_good(self, count: int = 20) -> None:
        async with _producer(self.settings, None) as producer:
            for _ in range(count):
                event_id = f"good-{len(self.good)}"
                value = json.dumps(usage(event_id)).encode()
                await producer.send(self.topic, key=b"acct", value=value, partition=0)
                self.good.append(event_id)

    async def send_bombs(self, codec: str, value_bytes: int, count: int = 1) -> None:
        async with _producer(self.settings, codec) as producer:
            for _ in range(count):
                sent = await producer.send_and_wait(
                    self.topic, key=b"acct", value=b"x" * value_bytes, partition=0
                )
                self.bombs.append(sent.offset)


@asynccontextmanager
async def _producer(settings: Settings, codec: str | None) -> AsyncIterator[AIOKafkaProducer]:
    producer = AIOKafkaProducer(
        bootstrap_servers=settings.kafka, compression_type=codec, max_request_size=500 * MIB
    )
    await producer.start()
    try:
        yield producer
    finally:
        await producer.stop()


@asynccontextmanager
async def _measured(worker: Worker) -> AsyncIterator[list[int]]:
    """Samples the worker's resident bytes; the one item of the list is the largest so far."""
    process = psutil.Process(worker.process.pid)
    peak = [0]

    async def sample() -> None:
        while True:
            peak[0] = max(peak[0], process.memory_info().rss)
            await asyncio.sleep(0.01)

    sampling = asyncio.create_task(sample())
    try:
        yield peak
    finally:
        sampling.cancel()


async def _assert_all_accounted_for(sent: Sent) -> set[int]:
    """Returns the sizes that the dead letters say their values had."""
    connection = await asyncpg.connect(sent.settings.postgres.get_secret_value())
    try:
        charged = await connection.fetch("SELECT event_id, amount_micro FROM charge")
        dead = await connection.fetch('SELECT "offset", reason, payload_bytes FROM dead_letter')
    finally:
        await connection.close()
    assert sorted(row["event_id"] for row in charged) == sorted(sent.good)
    assert {row["amount_micro"] for row in charged} == {3_750}
    assert sorted(row["offset"] for row in dead) == sent.bombs
    assert {row["reason"] for row in dead} == {"too_large"}
    return {row["payload_bytes"] for row in dead}


async def test_bombs_of_every_codec_are_dead_letters_and_what_is_around_them_is_charged(
    settings: Settings, topics: dict[str, str], environment: dict[str, str]
) -> None:
    sent = Sent(settings, topics[USAGE_EVENTS.name])
    await sent.send_good()
    for codec, value_bytes in BOMBS.items():
        await sent.send_bombs(codec, value_bytes)
        await sent.send_good()
    await sent.send_bombs("lz4", BOMBS["lz4"])
    with Worker("rater", environment) as rater:
        async with _measured(rater) as peak:
            await wait_applied(settings, sent.offsets, seconds_max=60, worker=rater)
        assert rater.process.poll() is None
    assert await _assert_all_accounted_for(sent) == {0, BOMBS["snappy"]}
    assert peak[0] < RATER_BYTES_MAX, f"{peak[0] / MIB:.0f} MiB"
    # The last applied record is a bomb: the next worker knows the log by it all the same.
    with Worker("rater", environment) as rater:
        await sent.send_good()
        await wait_applied(settings, sent.offsets, seconds_max=60, worker=rater)
    await _assert_all_accounted_for(sent)


async def test_many_batches_just_below_the_bound_do_not_add_up(
    settings: Settings, topics: dict[str, str], environment: dict[str, str]
) -> None:
    sent = Sent(settings, topics[USAGE_EVENTS.name])
    await sent.send_good()
    await sent.send_bombs("zstd", BELOW_THE_BOUND, count=100)
    await sent.send_good()
    with Worker("rater", environment) as rater:
        async with _measured(rater) as peak:
            await wait_applied(settings, sent.offsets, seconds_max=60, worker=rater)
    assert await _assert_all_accounted_for(sent) == {BELOW_THE_BOUND}
    assert peak[0] < RATER_BYTES_MAX, f"{peak[0] / MIB:.0f} MiB"
