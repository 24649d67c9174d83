"""Lag and epochs, as the commands tell them, on a real Kafka and PostgreSQL."""

import zlib
from collections.abc import AsyncIterator

import asyncpg
import pytest
from aiokafka import TopicPartition
from aiokafka.admin import AIOKafkaAdminClient, RecordsToDelete

from adapters.postgres import connect
from adapters.publishing import Outgoing, open_producer, send_all
from adapters.settings import Settings
from adapters.topics import ensure_topics, offsets
from tests.batches import desk, usage
from tests.commands import report, run_tollgate


@pytest.fixture
async def connection(settings: Settings) -> AsyncIterator[asyncpg.Connection]:
    made = await connect(settings, application_name="test")
    yield made
    await made.close()


async def publish(settings: Settings, topic: str, values: list[bytes]) -> dict[int, int]:
    """Publishes with one key and returns the end offset of each partition that has records."""
    async with open_producer(settings, "test") as producer:
        await send_all(producer, [Outgoing(topic, b"acme", value) for value in values])
    return {part: end for part, (_, end) in (await offsets(settings, topic)).items() if end}


async def stand(
    connection: asyncpg.Connection, topic: str, partition: int, next_offset: int, last: bytes
) -> None:
    await connection.execute(
        "INSERT INTO stream_position (topic, partition, epoch, next_offset, last_digest)"
        " VALUES ($1, $2, 1, $3, $4)",
        topic,
        partition,
        next_offset,
        zlib.crc32(last),
    )


async def remake(settings: Settings, topic: str) -> None:
    admin = AIOKafkaAdminClient(bootstrap_servers=settings.kafka)
    await admin.start()
    try:
        await admin.delete_topics([topic])
        while topic in await admin.list_topics():
            pass
    finally:
        await admin.close()
    await ensure_topics(settings)


async def test_lag_is_kafka_s_end_less_postgresql_s_position(
    settings: Settings,
    topics: dict[str, str],
    connection: asyncpg.Connection,
    environment: dict[str, str],
) -> None:
    topic = topics["usage.events"]
    [(partition, end)] = (await publish(settings, topic, [b"1", b"2", b"3"])).items()
    found = await report(environment, "lag")
    assert found["records"] == 3
    assert len(found["partitions"]) == 8
    await stand(connection, topic, partition, 2, b"2")
    found = await report(environment, "lag")
    mine = found["partitions"][partition]
    assert (mine["end_offset"], mine["position"], mine["lag"], mine["epoch"]) == (end, 2, 1, 1)
    assert found["records"] == 1


async def test_lag_counts_what_clickhouse_lacks(
    settings: Settings,
    topics: dict[str, str],
    connection: asyncpg.Connection,
    environment: dict[str, str],
) -> None:
    await report(environment, "account", "create", "acme")
    found = await report(environment, "lag")
    assert found["charges"] == {"waiting": 0, "behind_seconds": 0.0}
    assert found["credit_transactions"]["waiting"] == 1
    assert found["credit_transactions"]["behind_seconds"] > 0
    assert found["corrections"] == {"waiting": 0, "behind_seconds": 0.0}
    assert (found["dead_letters_unpublished"], found["parked"]) == (0, 0)
    shown = await run_tollgate(environment, "lag")
    assert "1 credit transactions wait, the oldest for" in shown.stdout


async def test_lag_without_topics_says_what_to_do(environment: dict[str, str]) -> None:
    done = await run_tollgate(environment, "lag")
    assert done.returncode == 1
    assert "tollgate migrate" in done.stderr


async def test_a_stream_that_continues_needs_no_new_epoch(
    settings: Settings,
    topics: dict[str, str],
    connection: asyncpg.Connection,
    environment: dict[str, str],
) -> None:
    topic = topics["usage.events"]
    [partition] = await publish(settings, topic, [b"1", b"2"])
    await stand(connection, topic, partition, 2, b"2")
    done = await run_tollgate(environment, "stream", "accept-epoch", "--yes")
    assert done.returncode == 1
    assert "nothing to accept" in done.stderr
    assert await connection.fetchval("SELECT epoch FROM stream_position") == 1


async def test_a_topic_made_anew_is_read_from_its_beginning_in_a_new_epoch(
    settings: Settings,
    topics: dict[str, str],
    connection: asyncpg.Connection,
    environment: dict[str, str],
) -> None:
    topic = topics["usage.events"]
    [partition] = await publish(settings, topic, [b"1", b"2"])
    await stand(connection, topic, partition, 2, b"2")
    await stand(connection, topic, (partition + 1) % 8, 0, b"")
    await remake(settings, topic)
    await publish(settings, topic, [b"new 1", b"new 2", b"new 3"])  # beyond the old position
    dry = await report(environment, "stream", "accept-epoch", "--dry-run")
    assert dry["accepted"] is False
    refused = await run_tollgate(environment, "stream", "accept-epoch", typed="n\n")
    assert refused.returncode == 1
    assert "not confirmed" in refused.stderr
    assert await connection.fetchval("SELECT max(epoch) FROM stream_position") == 1
    done = await report(environment, "stream", "accept-epoch", "--yes")
    assert done["epoch"] == 2
    assert {start["finding"] for start in done["starts"]} == {"epoch"}
    rows = await connection.fetch(
        "SELECT epoch, next_offset, first_offset, last_digest FROM stream_position"
    )
    assert {tuple(row) for row in rows} == {(2, 0, 0, None)}
    assert (await report(environment, "lag"))["records"] == 3


async def test_lost_records_move_only_their_partition(
    settings: Settings,
    topics: dict[str, str],
    connection: asyncpg.Connection,
    environment: dict[str, str],
) -> None:
    topic = topics["usage.events"]
    [partition] = await publish(settings, topic, [b"1", b"2", b"3", b"4"])
    other = (partition + 1) % 8
    await stand(connection, topic, partition, 1, b"1")
    await stand(connection, topic, other, 0, b"")
    admin = AIOKafkaAdminClient(bootstrap_servers=settings.kafka)
    await admin.start()
    try:
        place = TopicPartition(topic, partition)
        await admin.delete_records({place: RecordsToDelete(before_offset=3)})
    finally:
        await admin.close()
    done = await report(environment, "stream", "accept-epoch", "--yes")
    starts = {start["partition"]: start for start in done["starts"]}
    assert starts[partition]["finding"] == "gap"
    assert starts[partition]["next_offset"] == 3
    assert starts[partition]["records_lost"] == 2
    assert starts[other]["finding"] == "continues"
    assert await connection.fetchval("SELECT count(DISTINCT epoch) FROM stream_position") == 1


async def test_lag_counts_corrections_and_events_without_a_price(
    settings: Settings, topics: dict[str, str], environment: dict[str, str]
) -> None:
    async with desk(settings) as rater:
        await rater.open()
        await rater.apply(usage("e1"), usage("e2", model="nobody-knows"))
    await report(environment, "charge", "void", "acct", "e1", "--reason", "test")
    found = await report(environment, "lag")
    assert found["corrections"]["waiting"] == 1
    assert found["parked"] == 1
    shown = await run_tollgate(environment, "lag")
    assert "1 corrections wait, the oldest for" in shown.stdout
    assert "1 events wait for one" in shown.stdout
