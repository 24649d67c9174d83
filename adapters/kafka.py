"""How a stage hangs on Kafka: broker, subscription, and what PostgreSQL says about positions.

faststream and aiokafka are told everything explicitly, because their defaults commit before
processing, begin at the end of a topic and create topics by themselves.
"""

import asyncio
import logging
import os
import zlib
from collections.abc import Awaitable, Callable, Mapping, Sequence
from itertools import groupby

import stamina
import structlog
from aiokafka import AIOKafkaConsumer, ConsumerRebalanceListener, ConsumerRecord, TopicPartition
from aiokafka.errors import KafkaError
from faststream.kafka import KafkaBroker
from faststream.kafka.annotations import KafkaMessage as BatchMessage
from faststream.kafka.message import FAKE_CONSUMER, KafkaMessage
from faststream.kafka.subscriber.usecase import BatchSubscriber
from faststream.middlewares import AckPolicy

from adapters import bounded_records
from adapters.failures import Halt, HaltReason
from adapters.ledger import Position
from adapters.postgres import TRANSIENT
from adapters.settings import Settings

log = structlog.get_logger()

FETCH_BYTES_MAX = 16 * 1024 * 1024
PARTITION_FETCH_BYTES_MAX = 512 * 1024
GRACEFUL_SECONDS_MAX = 25.0
RESUME_SECONDS_MAX = 40.0
# aiokafka's five minutes would leave new partitions unread for as long.
METADATA_AGE_MS_MAX = 15_000

ReadPositions = Callable[[Mapping[int, int]], Awaitable[dict[int, Position]]]
CheckLog = Callable[[Mapping[int, Position]], Awaitable[None]]


def open_broker(settings: Settings, stage: str) -> KafkaBroker:
    """A broker connection that consumes only; topics come from `tollgate migrate`."""
    bounded_records.install()
    # Its supervisor would restart a consumer task for ever, in a hot loop; our watchdog ends the
    # process instead.
    os.environ["FASTSTREAM_SUPERVISOR_DISABLED"] = "1"
    quiet = logging.getLogger("tollgate.faststream")
    quiet.setLevel(logging.ERROR)
    return KafkaBroker(
        settings.kafka,
        client_id=f"tollgate-{stage}",
        consumer_only=True,
        allow_auto_create_topics=False,
        metadata_max_age_ms=METADATA_AGE_MS_MAX,
        graceful_timeout=GRACEFUL_SECONDS_MAX,
        logger=quiet,
        log_level=logging.DEBUG,
    )


async def keep_raw(records: tuple[ConsumerRecord, ...]) -> KafkaMessage:
    """A parser that looks at nothing: a bad header of one record would lose the whole batch."""
    return KafkaMessage(
        raw_message=records,
        body=b"",
        headers={},
        batch_headers=[],
        message_id="-",
        correlation_id="-",
        consumer=FAKE_CONSUMER,
    )


async def decode_nothing(message: KafkaMessage) -> bytes:
    """A decoder for faststream, which always calls one; core/batch.py decodes each record."""
    return message.body


class Positions(ConsumerRebalanceListener):  # type: ignore[misc]
    """Where PostgreSQL says that each assigned partition stands; Kafka's offsets decide nothing."""

    def __init__(
        self,
        read_positions: ReadPositions,
        check_last_records: CheckLog,
        stop: Callable[[BaseException], None],
    ) -> None:
        self._read_positions = read_positions
        self._check_last_records = check_last_records
        self._stop = stop
        self._sought: set[TopicPartition] = set()
        self.subscriber: BatchSubscriber | None = None
        self.joined = False
        self.epoch = 0
        self.next: dict[TopicPartition, int] = {}
        self._anchors: dict[TopicPartition, Position] = {}
        self.busy = asyncio.Lock()

    @property
    def started(self) -> bool:
        """Whether there is a consumer to ask."""
        return self.subscriber is not None and self.subscriber.consumer is not None

    @property
    def consumer(self) -> AIOKafkaConsumer:
        """The consumer of the started subscriber."""
        assert self.subscriber is not None  # noqa: S101
        assert self.subscriber.consumer is not None  # noqa: S101
        return self.subscriber.consumer

    async def on_partitions_revoked(self, revoked: Sequence[TopicPartition]) -> None:
        """Lets the batch in flight finish, then forgets the partitions."""
        async with self.busy:
            for partition in revoked:
                self.next.pop(partition, None)
                self._anchors.pop(partition, None)

    async def on_partitions_assigned(self, assigned: Sequence[TopicPartition]) -> None:
        """Checks each partition against PostgreSQL and seeks to where that stands.

        aiokafka swallows what is raised here and would go on from the group's offset; so any
        trouble stops the worker.
        """
        for partition in assigned:
            self.next.pop(partition, None)
            self._sought.discard(partition)
        try:
            await self.resume(assigned)
            self.joined = True
            log.info("partitions assigned", partitions=sorted(tp.partition for tp in assigned))
        except Exception as error:  # noqa: BLE001 - handed to stop(), which ends the process
            self._stop(error)

    async def resume(self, partitions: Sequence[TopicPartition]) -> None:
        """Reads the positions and seeks; raises Halt when Kafka's log can not continue them.

        Trouble is waited out for a while before it is raised.
        """
        async for attempt in stamina.retry_context(
            on=(KafkaError, *TRANSIENT), attempts=None, timeout=RESUME_SECONDS_MAX
        ):
            with attempt:
                await self._resume(partitions)

    async def _resume(self, partitions: Sequence[TopicPartition]) -> None:
        if not partitions:
            return
        consumer = self.consumer
        beginnings = await consumer.beginning_offsets(list(partitions))
        ends = await consumer.end_offsets(list(partitions))
        stands = await self._read_positions({tp.partition: beginnings[tp] for tp in partitions})
        for tp in partitions:
            check_log(tp, stands[tp.partition], beginnings[tp], ends[tp])
        await self._check_last_records(stands)
        epochs = {position.epoch for position in stands.values()}
        if len(epochs) != 1:
            found = ", ".join(map(str, sorted(epochs)))
            raise Halt(HaltReason.EPOCH, f"partitions of one topic are in epochs {found}")
        if epochs != {self.epoch}:
            self._anchors.clear()
        self.epoch = epochs.pop()
        for tp in partitions:
            position = stands[tp.partition]
            consumer.seek(tp, position.next_offset)
            self.next[tp] = position.next_offset
            if position.last_digest is not None:
                self._anchors.setdefault(tp, position)

    def applied(self, runs: Mapping[TopicPartition, Sequence[ConsumerRecord]]) -> None:
        """The runs are committed: the next records come after them."""
        for tp, run in runs.items():
            last = run[-1]
            self.next[tp] = last.offset + 1
            if tp not in self._anchors:
                digest = zlib.crc32(last.value or b"")
                self._anchors[tp] = Position(self.epoch, last.offset + 1, 0, digest)

    async def check(self) -> None:
        """Looks whether the topic is still the one that was applied; raises Halt when it is not.

        Needs no lock: what was applied before a position was read stays in the log below it. The
        anchors, older records, tell when a new log was filled beyond our position at once.
        """
        owned = {tp.partition: 0 for tp in self.next}
        if owned:
            anchors = {tp.partition: position for tp, position in self._anchors.items()}
            await self._check_last_records(anchors)
            await self._check_last_records(await self._read_positions(owned))

    async def lag(self) -> dict[TopicPartition, int]:
        """Records of each owned partition that are not applied yet.

        Asks the broker, not the consumer's memory: a consumer that is stuck knows of no new record.
        """
        owned = list(self.next)
        ends = await self.consumer.end_offsets(owned) if owned else {}
        return {tp: max(0, ends[tp] - self.next[tp]) for tp in owned if tp in self.next}

    def admit(
        self, records: Sequence[ConsumerRecord]
    ) -> dict[TopicPartition, list[ConsumerRecord]]:
        """The runs of records that continue exactly where PostgreSQL stands.

        Records fetched before the seek are dropped (the seek reads them again). Raises Halt when
        a run still does not continue after a second seek: records are missing.
        """
        runs: dict[TopicPartition, list[ConsumerRecord]] = {}
        for key, group in groupby(records, key=lambda record: (record.topic, record.partition)):
            tp, run = TopicPartition(*key), list(group)
            expected = self.next.get(tp)
            if expected is None:
                continue
            if run[0].offset == expected and run[-1].offset - expected + 1 == len(run):
                runs[tp] = run
                self._sought.discard(tp)
            elif tp in self._sought and run[0].offset < expected:
                found = f"it goes on at {run[0].offset}"
                raise Halt(HaltReason.EPOCH, epoch_message(tp, found, expected))
            elif tp in self._sought:
                raise Halt(HaltReason.GAP, gap_message(tp, expected, run[0].offset))
            else:
                self.consumer.seek(tp, expected)
                self._sought.add(tp)
        return runs


def check_log(tp: TopicPartition, position: Position, beginning: int, end: int) -> None:
    """Raises Halt when the partition's log can not be the one that was applied so far."""
    if end < position.next_offset:
        raise Halt(HaltReason.EPOCH, epoch_message(tp, f"it ends at {end}", position.next_offset))
    if beginning > position.next_offset:
        raise Halt(HaltReason.GAP, gap_message(tp, position.next_offset, beginning))


def epoch_message(tp: TopicPartition, found: str, next_offset: int) -> str:
    """The line that names the way on when a topic was made anew or cut off."""
    return (
        f"{tp.topic}/{tp.partition} is not the log that was applied up to offset {next_offset}: "
        f"{found}. If the topic was made anew on purpose, run `tollgate stream accept-epoch`"
    )


def gap_message(tp: TopicPartition, expected: int, found: int) -> str:
    """The line that names the way on when records are missing."""
    return (
        f"{tp.topic}/{tp.partition} should go on at offset {expected} but goes on at {found}: "
        f"records are gone before they were applied. Restore them, or accept the loss with "
        f"`tollgate stream accept-epoch`"
    )


class LastRecords:
    """Re-reads the last applied record of each partition, to see that the topic is still the same.

    aiokafka knows no topic ids, so a topic that was deleted and filled again beyond our position
    would look like a continuation (reliability notes, A4).
    """

    def __init__(self, settings: Settings, topic: str) -> None:
        self._settings = settings
        self._topic = topic

    async def check(self, positions: Mapping[int, Position], seconds_max: float = 10.0) -> None:
        """Raises Halt when a last record differs from what was applied; idempotent.

        A last record that retention deleted can not be compared and passes.
        """
        digests = {
            TopicPartition(self._topic, partition): position
            for partition, position in positions.items()
            if position.last_digest is not None and position.next_offset > position.first_offset
        }
        if not digests:
            return
        consumer = AIOKafkaConsumer(
            bootstrap_servers=self._settings.kafka,
            client_id="tollgate-last-records",
            group_id=None,
            enable_auto_commit=False,
            auto_offset_reset="earliest",
            max_partition_fetch_bytes=1,
        )
        await consumer.start()
        try:
            async with asyncio.timeout(seconds_max):
                await self._compare(consumer, digests)
        finally:
            await consumer.stop()

    async def _compare(
        self, consumer: AIOKafkaConsumer, digests: dict[TopicPartition, Position]
    ) -> None:
        consumer.assign(list(digests))
        beginnings = await consumer.beginning_offsets(list(digests))
        ends = await consumer.end_offsets(list(digests))
        waiting = set()
        for tp, position in digests.items():
            if ends[tp] < position.next_offset:
                found = f"it ends at {ends[tp]}"
                raise Halt(HaltReason.EPOCH, epoch_message(tp, found, position.next_offset))
            if beginnings[tp] < position.next_offset:
                consumer.seek(tp, position.next_offset - 1)
                waiting.add(tp)
        consumer.pause(*(set(digests) - waiting))
        while waiting:
            batches = await consumer.getmany(timeout_ms=1_000)
            for tp in waiting & set(batches):
                position, record = digests[tp], batches[tp][0]
                digest = zlib.crc32(record.value or b"")
                if record.offset != position.next_offset - 1 or digest != position.last_digest:
                    raise Halt(
                        HaltReason.EPOCH,
                        epoch_message(tp, "its last applied record differs", position.next_offset),
                    )
            waiting -= set(batches)


def subscribe(
    broker: KafkaBroker,
    settings: Settings,
    stage: str,
    where: Positions,
    topic: str,
    on_records: Callable[[Sequence[ConsumerRecord]], Awaitable[None]],
) -> None:
    """Registers the one subscription of a stage; `on_records` must never raise.

    faststream logs and forgets an exception that leaves a handler, and goes on with the next
    batch: that would be a silent loss.
    """
    subscriber = broker.subscriber(
        topic,
        batch=True,
        group_id=f"{settings.topic_prefix}{stage}",
        listener=where,
        ack_policy=AckPolicy.MANUAL,
        parser=keep_raw,
        decoder=decode_nothing,
        no_reply=True,
        auto_offset_reset="earliest",
        max_records=settings.batch_records,
        batch_timeout_ms=settings.batch_wait_ms,
        fetch_min_bytes=32 * 1024,
        fetch_max_wait_ms=settings.batch_wait_ms,
        fetch_max_bytes=FETCH_BYTES_MAX,
        max_partition_fetch_bytes=PARTITION_FETCH_BYTES_MAX,
        session_timeout_ms=settings.session_timeout_ms,
        heartbeat_interval_ms=min(3_000, settings.session_timeout_ms // 3),
        rebalance_timeout_ms=60_000,
        max_poll_interval_ms=300_000,
        group_instance_id=settings.group_instance_id or None,
    )
    where.subscriber = subscriber

    @subscriber
    async def on_batch(message: BatchMessage) -> None:
        await on_records(message.raw_message)
