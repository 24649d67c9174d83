"""Reading a stretch of a topic again: without a group, in bounded memory, up to a fixed end.

The end is the topic's end when the stretch is planned, so a replay never reads what it sends.
"""

import asyncio
import time
from collections.abc import AsyncIterator, Mapping, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from datetime import datetime

from aiokafka import AIOKafkaConsumer, ConsumerRecord, TopicPartition
from aiokafka.errors import KafkaError

from adapters import bounded_records
from adapters.failures import Failure
from adapters.publishing import unreachable
from adapters.settings import Settings
from adapters.topics import offsets

CHUNK_RECORDS = 4_000
PARTITION_FETCH_BYTES_MAX = 1024 * 1024
FETCH_BYTES_MAX = 16 * 1024 * 1024
SILENT_SECONDS_MAX = 60.0


@dataclass(frozen=True, slots=True)
class Bounds:
    """What part of a topic is meant; None is no limit. Ends are exclusive.

    Times are when Kafka appended the records, aware.
    """

    partitions: Sequence[int] | None = None
    from_offset: int | None = None
    to_offset: int | None = None
    since: datetime | None = None
    until: datetime | None = None


@dataclass(slots=True)
class Stretch:
    """Offsets of one partition, and how far they were dealt with: `next_offset` comes next."""

    partition: int
    from_offset: int
    to_offset: int
    next_offset: int

    @property
    def left(self) -> int:
        """Offsets that are still to come."""
        return max(0, self.to_offset - self.next_offset)


@dataclass(frozen=True, slots=True)
class Gap:
    """Offsets without a record: deleted by retention, compacted away, or markers of Kafka's."""

    partition: int
    from_offset: int
    to_offset: int


@dataclass(frozen=True, slots=True)
class Chunk:
    """Records of one poll; once they are dealt with, each partition stands at its next offset."""

    records: list[ConsumerRecord]
    next_offsets: dict[int, int]
    gaps: list[Gap] = field(default_factory=list)


@asynccontextmanager
async def open_log(settings: Settings, value_bytes_max: int) -> AsyncIterator[AIOKafkaConsumer]:
    """A consumer without a group that commits nothing; longer values and bombs are cut.

    Raises Failure when Kafka does not answer, also from within the block.
    """
    with bounded_records.installed(value_bytes_max):
        async with _consumer(settings) as consumer:
            yield consumer


@asynccontextmanager
async def _consumer(settings: Settings) -> AsyncIterator[AIOKafkaConsumer]:
    consumer = AIOKafkaConsumer(
        bootstrap_servers=settings.kafka,
        client_id="tollgate-replay",
        group_id=None,
        enable_auto_commit=False,
        auto_offset_reset="earliest",
        fetch_max_bytes=FETCH_BYTES_MAX,
        max_partition_fetch_bytes=PARTITION_FETCH_BYTES_MAX,
    )
    try:
        await consumer.start()
        # A task of start() that never ran would cancel stop(): nothing may be left to read.
        await asyncio.sleep(0)
        yield consumer
    except KafkaError as error:
        raise unreachable(settings, error) from None
    finally:
        await consumer.stop()


async def plan(
    settings: Settings, consumer: AIOKafkaConsumer, topic: str, bounds: Bounds
) -> list[Stretch]:
    """The stretches that `bounds` means now, by partition; empty ones are left out.

    Raises Failure when the topic or a partition is missing, or a stretch begins beyond its end.
    """
    log = await offsets(settings, topic)
    if not log:
        raise Failure(f"topic {topic} does not exist: run `tollgate migrate`")
    wanted = sorted(log if bounds.partitions is None else set(bounds.partitions))
    unknown = [partition for partition in wanted if partition not in log]
    if unknown:
        raise Failure(f"{topic} has no partition {unknown[0]}: it has 0 to {max(log)}")
    ends = {partition: log[partition][1] for partition in wanted}
    starts = await _at_time(consumer, topic, ends, bounds.since)
    stops = await _at_time(consumer, topic, ends, bounds.until)
    stretches = []
    for partition in wanted:
        begin = log[partition][0] if starts is None else starts[partition]
        begin = begin if bounds.from_offset is None else bounds.from_offset
        end = ends[partition] if stops is None else stops[partition]
        end = end if bounds.to_offset is None else min(end, bounds.to_offset)
        if bounds.from_offset is not None and begin > end:
            raise Failure(f"{topic}/{partition} ends at offset {end}: nothing from {begin} on")
        if begin < end:
            stretches.append(Stretch(partition, begin, end, begin))
    return stretches


async def _at_time(
    consumer: AIOKafkaConsumer, topic: str, ends: Mapping[int, int], when: datetime | None
) -> dict[int, int] | None:
    """The first offsets appended at `when` or later; the end where there are none."""
    if when is None:
        return None
    at_ms = round(when.timestamp() * 1000)
    places = {TopicPartition(topic, partition): at_ms for partition in ends}
    found = await consumer.offsets_for_times(places)
    return {
        place.partition: ends[place.partition] if at is None else at.offset
        for place, at in found.items()
    }


async def read_stretches(
    consumer: AIOKafkaConsumer,
    topic: str,
    stretches: Sequence[Stretch],
    records_max: int = CHUNK_RECORDS,
) -> AsyncIterator[Chunk]:
    """Every record of the stretches from their next offsets on, in order within a partition.

    At most `records_max` in a chunk. Changes no stretch: the caller moves it when the chunk is
    dealt with. Raises Failure when Kafka hands out nothing for a minute.
    """
    ends = {TopicPartition(topic, s.partition): s.to_offset for s in stretches if s.left}
    expected = {TopicPartition(topic, s.partition): s.next_offset for s in stretches if s.left}
    consumer.assign(list(ends))
    for place, offset in expected.items():
        consumer.seek(place, offset)
    moved_at = time.monotonic()
    while ends:
        polled = await consumer.getmany(timeout_ms=1_000, max_records=records_max)
        chunk = _chunk(polled, ends, expected)
        for place in list(ends):
            # A marker or a compacted end moves the position without a record.
            stands = min(await consumer.position(place), ends[place])
            _jump(chunk, expected, place, stands)
            if stands == ends[place]:
                del ends[place]
                consumer.pause(place)
        if chunk.records or chunk.next_offsets:
            moved_at = time.monotonic()
            yield chunk
            # What the caller did meanwhile is no silence of Kafka's.
            moved_at = time.monotonic()
        elif time.monotonic() - moved_at > SILENT_SECONDS_MAX:
            raise Failure(f"Kafka hands out nothing of {topic} for {SILENT_SECONDS_MAX:.0f} s")


def _chunk(
    polled: Mapping[TopicPartition, Sequence[ConsumerRecord]],
    ends: Mapping[TopicPartition, int],
    expected: dict[TopicPartition, int],
) -> Chunk:
    chunk = Chunk([], {})
    for place, records in polled.items():
        if place not in ends:
            continue
        for record in records:
            if record.offset >= ends[place]:
                break
            _jump(chunk, expected, place, record.offset)
            chunk.records.append(record)
            expected[place] = chunk.next_offsets[place.partition] = record.offset + 1
    return chunk


def _jump(
    chunk: Chunk, expected: dict[TopicPartition, int], place: TopicPartition, to_offset: int
) -> None:
    """Notes the offsets up to `to_offset` that hold no record."""
    if to_offset > expected[place]:
        chunk.gaps.append(Gap(place.partition, expected[place], to_offset))
        expected[place] = chunk.next_offsets[place.partition] = to_offset
