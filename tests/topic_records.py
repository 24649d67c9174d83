"""What a Kafka topic holds, read to its end."""

import asyncio

from aiokafka import AIOKafkaConsumer, ConsumerRecord


def read_all(bootstrap_servers: str, topic: str) -> list[ConsumerRecord]:
    """Every record of the topic, partition by partition."""
    return asyncio.run(_read_all(bootstrap_servers, topic))


async def _read_all(bootstrap_servers: str, topic: str) -> list[ConsumerRecord]:
    consumer = AIOKafkaConsumer(
        topic,
        bootstrap_servers=bootstrap_servers,
        group_id=None,
        enable_auto_commit=False,
        auto_offset_reset="earliest",
    )
    await consumer.start()
    try:
        ends = await consumer.end_offsets(consumer.assignment())
        found: list[ConsumerRecord] = []
        while sum(ends.values()) > len(found):
            for records in (await consumer.getmany(timeout_ms=500)).values():
                found += records
        return found
    finally:
        await consumer.stop()
