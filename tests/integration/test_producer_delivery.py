"""The client against a real broker: delivery, outages, the end of the program, forks."""

import asyncio
import json
import secrets
import subprocess
import sys
import textwrap
import threading
import time
import uuid
from collections import Counter
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from aiokafka.admin import AIOKafkaAdminClient, NewTopic
from aiokafka.errors import KafkaError

from adapters.settings import Settings
from producers.client import UsageClient
from producers.connection import Link, new_producer
from producers.stats import Cause, Undelivered
from producers.worker import Options
from stack.local import Stack
from tests.conftest import in_a_loop
from tests.topic_records import read_all


def identities(bootstrap_servers: str, topic: str) -> list[str]:
    return [str(json.loads(record.value)["id"]) for record in read_all(bootstrap_servers, topic)]


def eventually(done: Callable[[], bool], wait_seconds: float) -> bool:
    deadline = time.monotonic() + wait_seconds
    while not done():
        if time.monotonic() > deadline:
            return False
        time.sleep(0.05)
    return True


async def administer(servers: str, topic: str, config: dict[str, str] | None = None) -> None:
    admin = AIOKafkaAdminClient(bootstrap_servers=servers)
    await admin.start()
    try:
        await admin.create_topics([NewTopic(topic, 4, 1, topic_configs=config or {})])
    finally:
        await admin.close()


@pytest.fixture
def topic(topics: dict[str, str]) -> str:
    return topics["usage.events"]


def test_threads_share_a_client(settings: Settings, topic: str) -> None:
    accepted: list[str | None] = []
    with UsageClient(settings.kafka, "app/test", options=Options(topic=topic)) as client:

        def track(account: int) -> None:
            who = f"acct-{account}"
            accepted.extend(
                client.track_ai_usage(who, "openai", "gpt-4o", 10, 5) for _ in range(500)
            )

        threads = [threading.Thread(target=track, args=(n,)) for n in range(4)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        assert client.flush(20)
        stats = client.stats()
    assert (stats.delivered, stats.buffered, stats.failed_ratio) == (2_000, 0, 0.0)
    records = read_all(settings.kafka, topic)
    assert sorted(str(json.loads(record.value)["id"]) for record in records) == sorted(accepted)
    assert all(record.key == json.loads(record.value)["subject"].encode() for record in records)
    assert len({record.partition for record in records if record.key == b"acct-1"}) == 1


async def test_a_coroutine_tracks_without_waiting(settings: Settings, topic: str) -> None:
    async with UsageClient(settings.kafka, "app/test", options=Options(topic=topic)) as client:
        began = time.monotonic()
        ids = [client.track_compute_usage("acct-1", "bulk_operation", 2) for _ in range(100)]
        assert time.monotonic() - began < 1
        assert await client.flush_async(20)
    assert await asyncio.to_thread(identities, settings.kafka, topic) == ids, "order is kept"


def test_a_short_program_delivers_at_its_end(settings: Settings, topic: str) -> None:
    program = f"""
        from producers.client import UsageClient
        from producers.worker import Options

        client = UsageClient(
            {settings.kafka.replace("127.0.0.1", "localhost")!r},
            "app/script",
            options=Options(topic={topic!r}, exit_seconds_max=20),
        )
        for number in range(50):
            client.track_compute_usage("acct-1", "data_export", event_id=f"export-{{number}}")
    """
    done = subprocess.run(
        [sys.executable, "-c", textwrap.dedent(program)],
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    assert (done.returncode, done.stderr) == (0, "")
    assert identities(settings.kafka, topic) == [f"export-{number}" for number in range(50)]


def test_a_forked_child_has_its_own_delivery(settings: Settings, topic: str) -> None:
    program = f"""
        import os
        from producers.client import UsageClient
        from producers.worker import Options

        client = UsageClient({settings.kafka!r}, "app/fork", options=Options(topic={topic!r}))
        client.track_compute_usage("acct-1", "data_export", event_id="parent-before")
        assert client.flush(20)
        child = os.fork()
        name = "parent" if child else "child"
        client.track_compute_usage("acct-1", "data_export", event_id=f"{{name}}-after")
        assert client.flush(20), name
        assert client.stats().delivered == (2 if child else 1), name
        if child:
            assert os.waitpid(child, 0)[1] == 0
    """
    done = subprocess.run(
        [sys.executable, "-W", "ignore::DeprecationWarning", "-c", textwrap.dedent(program)],
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    assert (done.returncode, done.stderr) == (0, "")
    found = Counter(identities(settings.kafka, topic))
    assert found == {"parent-before": 1, "parent-after": 1, "child-after": 1}


def test_a_record_that_kafka_refuses_does_not_hold_up_the_others(stack: Stack) -> None:
    servers, topic = stack.address("kafka"), f"small.{uuid.uuid4().hex[:8]}"
    in_a_loop(lambda: administer(servers, topic, {"max.message.bytes": "700"}))
    told: list[Undelivered] = []
    options = Options(topic=topic)
    with UsageClient(servers, "app/test", on_undelivered=told.append, options=options) as client:
        for number in range(7):
            size = 250 if number == 3 else 2
            attributes = {f"k{n}": secrets.token_hex(size // 2) for n in range(16)}
            client.track_compute_usage(
                "acct-1", "data_export", event_id=f"export-{number}", attributes=attributes
            )
        assert client.flush(60)
        stats = client.stats()
    assert (stats.delivered, stats.failed) == (6, 1)
    assert [notice.cause for notice in told] == [Cause.FAILED]
    delivered = set(identities(servers, topic))
    assert delivered == {f"export-{number}" for number in range(7)} - {"export-3"}


@pytest.fixture
def own_topic(own_stack: Stack) -> Iterator[tuple[str, str]]:
    servers, topic = own_stack.address("kafka"), f"outage.{uuid.uuid4().hex[:8]}"
    in_a_loop(lambda: administer(servers, topic))
    yield servers, topic
    own_stack.start("kafka")


def test_an_outage_loses_nothing_with_a_spill(
    own_stack: Stack, own_topic: tuple[str, str], tmp_path: Path
) -> None:
    servers, topic = own_topic
    # A buffer smaller than what arrives meanwhile: only the disk can hold it.
    options = Options(topic=topic, capacity=400)
    ids: list[str | None] = []

    def track(client: UsageClient, count: int) -> None:
        for _ in range(count):
            ids.append(client.track_ai_usage("acct-1", "openai", "gpt-4o", 10, 5))
            time.sleep(0.002)

    with UsageClient(servers, "app/test", spill_directory=tmp_path, options=options) as client:
        track(client, 200)
        own_stack.kill("kafka")
        track(client, 1_500)
        assert eventually(lambda: client.stats().spilled > 0, 20), "the fault was not felt"
        track(client, 500)
        assert client.stats().dropped == 0
        own_stack.start("kafka")
        track(client, 200)
        assert eventually(lambda: client.stats().delivered == len(ids), 60), client.stats()
        stats = client.stats()
    assert (stats.failed, stats.dropped, stats.spilled, stats.buffered) == (0, 0, 0, 0)
    assert None not in ids
    found = identities(servers, topic)
    assert set(found) == set(ids)
    firsts = list(dict.fromkeys(found))
    assert firsts == ids, "each event's first arrival keeps the order"
    assert list(tmp_path.iterdir()) == []


def test_what_a_killed_program_spilled_is_delivered_by_the_next(
    own_stack: Stack, own_topic: tuple[str, str], tmp_path: Path
) -> None:
    servers, topic = own_topic
    own_stack.kill("kafka")
    program = f"""
        import os, signal, time
        from producers.client import UsageClient
        from producers.worker import Options

        client = UsageClient(
            {servers!r}, "app/killed", spill_directory={str(tmp_path)!r},
            options=Options(topic={topic!r}),
        )
        for number in range(500):
            client.track_compute_usage("acct-1", "data_export", event_id=f"export-{{number}}")
        while client.stats().spilled < 500:
            time.sleep(0.05)
        os.kill(os.getpid(), signal.SIGKILL)
    """
    killed = subprocess.run(
        [sys.executable, "-c", textwrap.dedent(program)],
        capture_output=True,
        timeout=60,
        check=False,
    )
    assert killed.returncode == -9
    own_stack.start("kafka")
    options = Options(topic=topic)
    with UsageClient(servers, "app/next", spill_directory=tmp_path, options=options) as client:
        assert eventually(lambda: client.stats().delivered == 500, 30), client.stats()
        assert client.stats().recovered == 500
    assert identities(servers, topic) == [f"export-{number}" for number in range(500)]
    assert list(tmp_path.iterdir()) == []


def test_memory_alone_carries_a_short_outage(own_stack: Stack, own_topic: tuple[str, str]) -> None:
    servers, topic = own_topic
    with UsageClient(servers, "app/test", options=Options(topic=topic)) as client:
        before = client.track_compute_usage("acct-1", "data_export")
        assert client.flush(20)
        own_stack.kill("kafka")
        during = client.track_compute_usage("acct-1", "data_export")
        assert not client.flush(1), "the fault was not felt"
        own_stack.start("kafka")
        assert client.flush(60), client.stats()
    assert set(identities(servers, topic)) == {before, during}


async def test_a_link_sends_what_it_is_given_and_keeps_what_nobody_took(
    settings: Settings, topic: str
) -> None:
    link = Link(lambda: new_producer(settings.kafka, client_id="test"), topic)
    records = [(b"acct-1", b"1"), (None, b"2"), (b"acct-1", None)]
    await link.send(records)
    assert records == []
    await link.close(wait_seconds=5)
    found = await asyncio.to_thread(read_all, settings.kafka, topic)
    assert {(record.key, record.value) for record in found} == {
        (b"acct-1", b"1"),
        (None, b"2"),
        (b"acct-1", None),
    }
    nowhere = Link(lambda: new_producer("127.0.0.1:1", client_id="test"), topic)
    left = [(b"acct-1", b"3")]
    with pytest.raises((KafkaError, OSError, TimeoutError)):
        await nowhere.send(left)
    assert left == [(b"acct-1", b"3")]
    await nowhere.close(wait_seconds=5)
