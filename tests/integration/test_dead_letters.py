"""Dead letters from PostgreSQL to usage.dead and back to usage.events, on real servers."""

import hashlib
import json
from base64 import b64decode
from collections.abc import AsyncIterator
from datetime import UTC, datetime

import asyncpg
import pytest
from aiokafka import AIOKafkaConsumer, AIOKafkaProducer, ConsumerRecord, TopicPartition

from adapters.dead_letters import Selection, publish_pending, requeue
from adapters.failures import Failure
from adapters.postgres import connect
from adapters.publishing import open_producer
from adapters.settings import Settings
from adapters.topics import offsets
from tests.commands import report, run_tollgate


@pytest.fixture
async def connection(settings: Settings) -> AsyncIterator[asyncpg.Connection]:
    made = await connect(settings, application_name="test", unlimited=True)
    yield made
    await made.close()


async def book(
    connection: asyncpg.Connection,
    offset: int,
    *,
    reason: str = "unpriced",
    account_id: str | None = "acme",
    payload: bytes = b'{"a": "\xc3\xa4"}',
    payload_bytes: int | None = None,
    key: bytes | None = b"acme",
    model: str | None = None,
) -> int:
    dead_letter_id: int = await connection.fetchval(
        'INSERT INTO dead_letter (topic, partition, epoch, "offset", reason, detail, account_id,'
        " event_id, key, payload, payload_bytes, payload_sha256, appended_at, model)"
        " VALUES ('t', 0, 1, $1, $2, 'why', $3, 'e-1', $4, $5, $6, $7, $8, $9)"
        " RETURNING dead_letter_id",
        offset,
        reason,
        account_id,
        key,
        payload,
        len(payload) if payload_bytes is None else payload_bytes,
        hashlib.sha256(payload).digest(),
        datetime(2026, 11, 21, 9, tzinfo=UTC),
        model,
    )
    return dead_letter_id


async def everything_in(settings: Settings, topic: str) -> list[ConsumerRecord]:
    log = await offsets(settings, topic)
    wanted = sum(end - beginning for beginning, end in log.values())
    if wanted == 0:
        return []
    consumer = AIOKafkaConsumer(
        bootstrap_servers=settings.kafka, auto_offset_reset="earliest", enable_auto_commit=False
    )
    await consumer.start()
    try:
        consumer.assign([TopicPartition(topic, partition) for partition in log])
        records: list[ConsumerRecord] = []
        while len(records) < wanted:
            for part in (await consumer.getmany(timeout_ms=5_000)).values():
                records += part
        return records
    finally:
        await consumer.stop()


async def test_every_letter_is_published_whole_and_marked(
    settings: Settings, topics: dict[str, str], connection: asyncpg.Connection
) -> None:
    await book(connection, 1)
    await book(connection, 2, reason="bad_json", account_id=None, payload=b"\x00\xff", key=None)
    async with open_producer(settings, "test") as producer:
        assert await publish_pending(connection, producer, settings) == 2
        assert await publish_pending(connection, producer, settings) == 0
    first, second = await everything_in(settings, topics["usage.dead"])
    letter = json.loads(first.value)
    assert first.key == b"acme"
    assert letter["reason"] == "unpriced"
    assert letter["origin"] == {"topic": "t", "partition": 0, "offset": 1, "epoch": 1}
    assert b64decode(letter["payload_base64"]) == b'{"a": "\xc3\xa4"}'
    assert second.key is None
    assert b64decode(json.loads(second.value)["payload_base64"]) == b"\x00\xff"
    unpublished = "SELECT count(*) FROM dead_letter WHERE published_at IS NULL"
    assert await connection.fetchval(unpublished) == 0


async def test_many_letters_are_published_in_steps(
    settings: Settings, topics: dict[str, str], connection: asyncpg.Connection
) -> None:
    for offset in range(205):
        await book(connection, offset, payload=b"x")
    async with open_producer(settings, "test") as producer:
        done = [await publish_pending(connection, producer, settings) for _ in range(3)]
    assert done == [200, 5, 0]


async def test_one_session_at_a_time_publishes(
    settings: Settings, topics: dict[str, str], connection: asyncpg.Connection
) -> None:
    await book(connection, 1)
    other = await connect(settings, application_name="test")
    try:
        await other.execute("SELECT pg_advisory_lock(7201001)")
        async with open_producer(settings, "test") as producer:
            assert await publish_pending(connection, producer, settings) == 0
            await other.execute("SELECT pg_advisory_unlock(7201001)")
            assert await publish_pending(connection, producer, settings) == 1
    finally:
        await other.close()


async def test_the_largest_letter_fits_the_topic(
    settings: Settings, topics: dict[str, str], connection: asyncpg.Connection
) -> None:
    payload = hashlib.shake_256(b"not compressible").digest(65_536)
    await book(connection, 1, payload=payload, payload_bytes=200_000)
    async with open_producer(settings, "test") as producer:
        assert await publish_pending(connection, producer, settings) == 1
    [record] = await everything_in(settings, topics["usage.dead"])
    assert b64decode(json.loads(record.value)["payload_base64"]) == payload


async def test_requeue_sends_key_and_bytes_once(
    settings: Settings,
    topics: dict[str, str],
    connection: asyncpg.Connection,
    environment: dict[str, str],
) -> None:
    for offset in range(450):
        await book(connection, offset, payload=b"%d" % offset)
    await book(connection, 450, reason="bad_json", payload=b"other")
    planned = await report(
        environment, "dead-letters", "requeue", "--reason", "unpriced", "--dry-run"
    )
    assert planned["sent"] == 0
    assert planned["by_reason"][0]["sendable"] == 450
    assert await everything_in(settings, topics["usage.events"]) == []
    done = await report(environment, "dead-letters", "requeue", "--reason", "unpriced")
    assert done["sent"] == 450
    again = await report(environment, "dead-letters", "requeue", "--reason", "unpriced")
    assert again["sent"] == 0
    assert again["by_reason"][0]["requeued_before"] == 450
    records = await everything_in(settings, topics["usage.events"])
    assert {record.key for record in records} == {b"acme"}
    assert [record.value for record in records] == [b"%d" % offset for offset in range(450)]


async def test_two_requeues_at_once_send_nothing_twice(
    settings: Settings, topics: dict[str, str], connection: asyncpg.Connection
) -> None:
    for offset in range(300):
        await book(connection, offset)
    other = await connect(settings, application_name="test", unlimited=True)
    try:
        async with open_producer(settings, "test") as producer:
            one = requeue(connection, producer, settings, Selection())
            two = requeue(other, producer, settings, Selection())
            sent = [await anext(one), await anext(two)]
            sent += [letters async for letters in one]
            sent += [letters async for letters in two]
    finally:
        await other.close()
    assert sum(sent) == 300
    assert len(await everything_in(settings, topics["usage.events"])) == 300


async def test_a_requeue_ends_before_its_transaction_does_when_kafka_is_slow(
    settings: Settings, topics: dict[str, str], connection: asyncpg.Connection
) -> None:
    await book(connection, 1)
    hasty = settings.model_copy(update={"idle_transaction_seconds_max": 0.5})
    other = await connect(hasty, application_name="test", unlimited=True)
    slow = AIOKafkaProducer(bootstrap_servers=settings.kafka, linger_ms=1_000)
    await slow.start()
    try:
        with pytest.raises(Failure, match="did not acknowledge"):
            await anext(requeue(other, slow, hasty, Selection()))
        assert not await other.fetchval("SELECT count(requeued_at) FROM dead_letter")
        async with open_producer(settings, "test") as producer:
            assert await anext(requeue(other, producer, settings, Selection())) == 1
    finally:
        await slow.stop()
        await other.close()


async def test_a_letter_that_was_cut_is_named_and_left(
    settings: Settings,
    topics: dict[str, str],
    connection: asyncpg.Connection,
    environment: dict[str, str],
) -> None:
    cut = await book(connection, 1, reason="too_large", payload=b"x" * 65_536, payload_bytes=70_000)
    whole = await book(connection, 2)
    done = await run_tollgate(environment, "dead-letters", "requeue", str(cut), str(whole))
    assert done.returncode == 1
    assert "only the first 64 KiB" in done.stderr
    [record] = await everything_in(settings, topics["usage.events"])
    assert record.key == b"acme"
    unknown = await run_tollgate(environment, "dead-letters", "requeue", "999")
    assert unknown.returncode == 1
    assert "no dead letters" in unknown.stderr


async def test_list_and_show(connection: asyncpg.Connection, environment: dict[str, str]) -> None:
    ids = [await book(connection, offset) for offset in range(3)]
    odd = await book(
        connection, 3, reason="bad_json", account_id=None, payload=b"\x1b[2J\xff\r\n", key=None
    )
    listed = await report(environment, "dead-letters", "list", "--reason", "unpriced")
    assert [letter["dead_letter_id"] for letter in listed["letters"]] == ids[::-1]
    assert {row["reason"]: row["letters"] for row in listed["by_reason"]} == {
        "unpriced": 3,
        "bad_json": 1,
    }
    page = await report(environment, "dead-letters", "list", "--below", str(ids[2]), "--limit", "1")
    assert [letter["dead_letter_id"] for letter in page["letters"]] == [ids[1]]
    none = await report(environment, "dead-letters", "list", "--until", "2020-01-01")
    assert none["letters"] == []
    shown = await run_tollgate(environment, "dead-letters", "show", str(odd))
    assert shown.returncode == 0
    assert "\x1b" not in shown.stdout
    assert "not one JSON object" in shown.stdout
    document = await report(environment, "dead-letters", "show", str(odd))
    assert document["payload"] == "\x1b[2J\\xff\r\n"
    missing = await run_tollgate(environment, "dead-letters", "show", "999")
    assert missing.returncode == 1
    assert "no dead letter has the id 999" in missing.stderr


async def test_requeue_by_model_and_by_the_time_of_the_event(
    settings: Settings,
    topics: dict[str, str],
    connection: asyncpg.Connection,
    environment: dict[str, str],
) -> None:
    for day in range(1, 21):
        payload = b'{"time": "2026-11-%02dT09:00:00+01:00"}' % day
        await book(connection, day, payload=payload, model="openai/gpt-9" if day % 2 else "chat")
    for offset, payload in enumerate((b"[]", b"{", b'{"time": 7}', b'{"time": "2026-11-05"}')):
        await book(connection, 30 + offset, payload=payload, model="openai/gpt-9")
    times = ("--event-since", "2026-11-04T08:00:00Z", "--event-until", "2026-11-08T08:00:00Z")
    planned = await report(environment, "dead-letters", "requeue", *times, "--dry-run")
    assert [(row["reason"], row["sendable"]) for row in planned["by_reason"]] == [("unpriced", 4)]
    done = await report(environment, "dead-letters", "requeue", "--model", "chat", *times)
    assert done["sent"] == 2
    sent = {record.value[18:20] for record in await everything_in(settings, topics["usage.events"])}
    assert sent == {b"04", b"06"}
    rest = await report(environment, "dead-letters", "requeue", *times)
    assert rest["sent"] == 2
    assert rest["by_reason"][0]["requeued_before"] == 2
    by_model = await report(environment, "dead-letters", "list", "--model", "openai/gpt-9")
    assert {letter["model"] for letter in by_model["letters"]} == {"openai/gpt-9"}
    assert len(by_model["letters"]) == 14
