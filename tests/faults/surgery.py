"""What an operator's hand, or an accident, can do to a topic and its consumer group."""

from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager

from aiokafka import AIOKafkaConsumer, TopicPartition
from aiokafka.admin import AIOKafkaAdminClient, NewPartitions
from aiokafka.admin.records_to_delete import RecordsToDelete
from aiokafka.protocol.admin import DeleteGroupsRequest

from adapters.settings import Settings
from adapters.topics import ensure_topics, offsets
from tests.faults.waiting import eventually

SECONDS_MAX = 20


class Surgeon:
    """Works on one topic and the rater's group."""

    def __init__(self, settings: Settings, topic: str) -> None:
        self._settings = settings
        self._topic = topic
        self._group = f"{settings.topic_prefix}rater"

    async def delete_topic(self) -> None:
        """The topic is gone when this returns."""
        async with self._admin() as admin:
            await admin.delete_topics([self._topic])

            async def gone() -> bool:
                return self._topic not in await admin.list_topics()

            await eventually(gone, SECONDS_MAX, "the topic is deleted")

    async def make_topic(self) -> None:
        """The topic is made anew, empty; waits until the broker serves it."""
        await ensure_topics(self._settings)

        async def serves() -> bool:
            found = await offsets(self._settings, self._topic)
            return len(found) == self._settings.partitions

        await eventually(serves, SECONDS_MAX, "the topic is there")

    async def ends(self) -> dict[int, int]:
        """The end offset of every partition."""
        log = await offsets(self._settings, self._topic)
        return {partition: end for partition, (_, end) in log.items()}

    async def delete_records(self, before: Mapping[int, int]) -> None:
        """Records below the given offsets are gone, as by retention."""
        async with self._admin() as admin:
            await admin.delete_records(
                {
                    TopicPartition(self._topic, partition): RecordsToDelete(before_offset=offset)
                    for partition, offset in before.items()
                }
            )

    async def grow(self, partitions: int) -> None:
        """The topic gets more partitions."""
        async with self._admin() as admin:
            await admin.create_partitions({self._topic: NewPartitions(partitions)})

    async def move_group(self, where: Mapping[int, int]) -> None:
        """The group's committed offsets are set by hand; nobody may be in the group."""
        consumer = AIOKafkaConsumer(
            bootstrap_servers=self._settings.kafka, group_id=self._group, enable_auto_commit=False
        )
        await consumer.start()
        try:
            places = {TopicPartition(self._topic, p): offset for p, offset in where.items()}
            consumer.assign(list(places))
            await consumer.commit(places)
        finally:
            await consumer.stop()

    async def delete_group(self) -> None:
        """The group is forgotten; waits until its members are."""
        async with self._admin() as admin:

            async def deleted() -> bool:
                node = await admin.find_coordinator(self._group)
                answer = await admin._send_request(DeleteGroupsRequest([self._group]), node)
                [(_, code)] = answer.results
                return bool(code == 0)

            await eventually(deleted, SECONDS_MAX, "the group is deleted")

    @asynccontextmanager
    async def _admin(self) -> AsyncIterator[AIOKafkaAdminClient]:
        admin = AIOKafkaAdminClient(bootstrap_servers=self._settings.kafka)
        await admin.start()
        try:
            yield admin
        finally:
            await admin.close()
