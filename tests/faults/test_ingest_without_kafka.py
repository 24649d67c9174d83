"""Events by HTTP while Kafka is frozen or dead: a clear no, nothing claimed, nothing lost."""

import asyncio
import os
import signal
import time
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager, contextmanager

import httpx2
import pytest

from adapters.event_publisher import EventPublisher, NotTaken, open_publisher
from adapters.publishing import Outgoing
from adapters.settings import Settings
from schemas.topics import USAGE_EVENTS
from stack.local import Stack
from tests.apis import client, serve, with_tokens
from tests.integration.test_api_ingest import MANY, ONE, PATH, charges, event
from tests.workers import Worker

SECONDS_MAX = 1.5
SLACK_SECONDS = 6.0
"""What a busy machine may add to a time."""


@contextmanager
def frozen_kafka(stack: Stack) -> Iterator[None]:
    running = stack.running("kafka")
    assert running is not None
    os.kill(running.pid, signal.SIGSTOP)
    try:
        yield
    finally:
        os.kill(running.pid, signal.SIGCONT)


@asynccontextmanager
async def app_on(settings: Settings) -> AsyncIterator[httpx2.AsyncClient]:
    impatient = with_tokens(settings, ingest_seconds_max=SECONDS_MAX)
    async with serve(impatient) as address, client(address, "chat", "service") as made:
        yield made


async def until_taken(app: httpx2.AsyncClient, *ids: str) -> None:
    """Sends the same events again, as a client is told to."""
    deadline = time.monotonic() + 60
    while (await app.post(PATH, json=[event(one) for one in ids], headers=MANY)).status_code != 204:
        assert time.monotonic() < deadline
        await asyncio.sleep(0.2)


async def test_a_frozen_kafka_is_a_503_in_time_and_the_retry_is_charged_once(
    settings: Settings, topics: dict[str, str], environment: dict[str, str], stack: Stack
) -> None:
    async with app_on(settings) as app:
        await until_taken(app, "e0")
        with frozen_kafka(stack):
            began = time.monotonic()
            answers = await asyncio.gather(
                *(app.post(PATH, json=event(f"e{n}"), headers=ONE) for n in range(1, 6))
            )
            assert time.monotonic() - began < SECONDS_MAX + SLACK_SECONDS
            assert {answer.status_code for answer in answers} == {503}
            assert {answer.headers["retry-after"] for answer in answers} == {"2"}
            took = []
            for _ in range(5):
                began = time.monotonic()
                assert (await app.post(PATH, json=event("e1"), headers=ONE)).status_code == 503
                took.append(time.monotonic() - began)
            assert min(took) < SECONDS_MAX / 2, "it is known to be away"
            checked = await app.post("/api/v1/accounts/nobody/check", json={"credits": 1})
            assert checked.status_code < 500
        await until_taken(app, *(f"e{n}" for n in range(6)))
    with Worker("rater", environment):
        await _charged(settings, 6)
    assert [row[1] for row in await charges(settings)] == [f"e{n}" for n in range(6)]


async def test_a_kafka_that_died_and_came_back_takes_events_again(
    settings: Settings, topics: dict[str, str], environment: dict[str, str], stack: Stack
) -> None:
    async with app_on(settings) as app:
        await until_taken(app, "e0")
        await asyncio.to_thread(stack.kill, "kafka")
        assert (await app.post(PATH, json=event("e1"), headers=ONE)).status_code == 503
        await asyncio.to_thread(stack.start, "kafka")
        await until_taken(app, "e0", "e1")
    with Worker("rater", environment):
        await _charged(settings, 2)


async def test_what_waits_for_a_kafka_that_is_given_up_is_let_go(
    settings: Settings, topics: dict[str, str], stack: Stack
) -> None:
    impatient = settings.model_copy(update={"ingest_seconds_max": SECONDS_MAX})
    records = [
        Outgoing(topics[USAGE_EVENTS.name], b"acct-%d" % n, b"x" * 1_000) for n in range(500)
    ]
    async with open_publisher(impatient) as publisher:
        await _taken(publisher, records)
        with frozen_kafka(stack):
            assert await publisher.publish(records) is NotTaken.AWAY
            await _let_go(publisher)
        await _taken(publisher, records)


async def _taken(publisher: EventPublisher, records: list[Outgoing]) -> None:
    began = time.monotonic()
    while await publisher.publish(records) is not None:
        assert time.monotonic() - began < 30
        await asyncio.sleep(0.1)


async def _let_go(publisher: EventPublisher) -> None:
    began = time.monotonic()
    while publisher.waiting_bytes:
        if time.monotonic() - began > SLACK_SECONDS:
            pytest.fail(f"{publisher.waiting_bytes} bytes wait for nobody")
        await asyncio.sleep(0.05)


async def _charged(settings: Settings, count: int) -> None:
    deadline = time.monotonic() + 60
    while len(found := await charges(settings)) < count:
        assert time.monotonic() < deadline, found
        await asyncio.sleep(0.1)
    assert len(found) == count
