"""For the tests of replays: records are published, and applied in this process."""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any

from aiokafka import AIOKafkaConsumer, AIOKafkaProducer, ConsumerRecord, TopicPartition

from adapters.settings import Settings
from adapters.topics import offsets
from tests.batches import Desk


@dataclass(frozen=True)
class Sent:
    """A record as a test wants it in the topic."""

    value: bytes | None
    key: bytes | None = b"acct"
    headers: tuple[tuple[str, bytes | None], ...] = ()


async def send(
    settings: Settings, topic: str, records: Iterable[Sent], *, partition: int = 0, **options: Any
) -> list[int]:
    """Sends to one partition, in order; returns the offsets."""
    producer = AIOKafkaProducer(bootstrap_servers=settings.kafka, **options)
    await producer.start()
    try:
        if "transactional_id" in options:
            async with producer.transaction():
                return [await _send(producer, topic, record, partition) for record in records]
        return [await _send(producer, topic, record, partition) for record in records]
    finally:
        await producer.stop()


async def _send(producer: AIOKafkaProducer, topic: str, record: Sent, partition: int) -> int:
    acked = await producer.send_and_wait(
        topic, record.value, record.key, partition=partition, headers=list(record.headers)
    )
    offset: int = acked.offset
    return offset


async def read(settings: Settings, topic: str) -> dict[TopicPartition, list[ConsumerRecord]]:
    """All records of the topic, by partition."""
    log = {
        TopicPartition(topic, part): ends for part, ends in (await offsets(settings, topic)).items()
    }
    consumer = AIOKafkaConsumer(
        bootstrap_servers=settings.kafka, auto_offset_reset="earliest", enable_auto_commit=False
    )
    await consumer.start()
    try:
        consumer.assign(list(log))
        found: dict[TopicPartition, list[ConsumerRecord]] = {place: [] for place in log}
        while any([await consumer.position(place) < end for place, (_, end) in log.items()]):
            for place, records in (await consumer.getmany(timeout_ms=200)).items():
                found[place] += records
        return found
    finally:
        await consumer.stop()


async def apply_all(desk: Desk, *, unprocessable: bool = False) -> None:
    """What a rater would do with the topic from where it stands, in one batch."""
    log = await read(desk.settings, desk.topic)
    stands = await desk.ledger.positions({place.partition: 0 for place in log})
    runs = {
        place: [
            record for record in records if record.offset >= stands[place.partition].next_offset
        ]
        for place, records in log.items()
    }
    wanted = {place: run for place, run in runs.items() if run}
    if wanted:
        await desk.rater.apply(wanted, epoch=1, unprocessable=unprocessable)


def standings(report: Mapping[str, Any]) -> dict[str, int]:
    """The counts of a report, in the order of their names."""
    return dict(sorted(report["standings"].items()))
