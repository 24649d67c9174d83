"""Usage events by HTTP: on a real server, a real Kafka, and a rater that charges them."""

import asyncio
import json
import time
from collections.abc import AsyncIterator
from datetime import UTC, datetime
from typing import Any

import asyncpg
import httpx2
import pytest

from adapters.event_publisher import EventPublisher, NotTaken, open_publisher
from adapters.publishing import Outgoing
from adapters.settings import Settings
from schemas.topics import USAGE_EVENTS
from tests.apis import client, figures, serve, with_tokens
from tests.workers import Worker, wait_applied

PATH = "/api/v1/events"
ONE = {"Content-Type": "application/cloudevents+json"}
MANY = {"Content-Type": "application/cloudevents-batch+json"}
TOLD = {"Prefer": "return=representation"}
PRICE_MICRO = 3_750
"""1,000 input tokens of gpt-4o, balanced, tier free."""


def event(event_id: str, subject: str = "acct-1", **data: Any) -> dict[str, Any]:
    usage = {"provider": "openai", "model": "gpt-4o", "tokens": {"input": 1000}, **data}
    return {
        "specversion": "1.0", "id": event_id, "source": "app/chat", "type": "tollgate.usage.v1",
        "subject": subject, "time": datetime.now(UTC).isoformat(), "data": usage,
    }  # fmt: skip


def of_litellm(event_id: str, subject: str = "acct-1", **data: Any) -> dict[str, Any]:
    usage = {"model": "gpt-4o", "cost": 0.0025, "prompt_tokens": 1000, "completion_tokens": 0}
    return {
        **event(event_id, subject),
        "type": "litellm_tokens",
        "source": "litellm-proxy",
        "data": {**usage, "total_tokens": 1000, **data},
    }


@pytest.fixture
async def address(settings: Settings, topics: dict[str, str]) -> AsyncIterator[str]:
    async with serve(with_tokens(settings)) as found:
        yield found


@pytest.fixture
async def app(address: str) -> AsyncIterator[httpx2.AsyncClient]:
    async with client(address, "chat", "service") as made:
        yield made


async def charges(settings: Settings) -> list[tuple[Any, ...]]:
    connection = await asyncpg.connect(settings.postgres.get_secret_value())
    try:
        rows = await connection.fetch(
            "SELECT account_id, event_id, amount_micro, model, billed_pico FROM charge ORDER BY 2"
        )
    finally:
        await connection.close()
    return [tuple(row) for row in rows]


async def test_events_by_http_end_as_charges_each_once(
    app: httpx2.AsyncClient, settings: Settings, environment: dict[str, str]
) -> None:
    first = event("e1")
    for _ in range(3):
        answer = await app.post(PATH, json=first, headers=ONE)
        assert (answer.status_code, answer.content) == (204, b"")
    both = [first, event("e2")]
    assert (await app.post(PATH, json=both, headers=MANY)).status_code == 204
    assert (await app.post(PATH, json=both)).status_code == 204
    assert (await app.post(PATH, json=of_litellm("e3"), headers=ONE)).status_code == 204
    assert (await app.post(PATH, json=of_litellm("resp_a=="), headers=ONE)).status_code == 204
    with Worker("rater", environment) as rater:
        await wait_applied(settings, 9, seconds_max=60, worker=rater)
    found = await charges(settings)
    assert found[:3] == [
        ("acct-1", "e1", PRICE_MICRO, "gpt-4o", 0),
        ("acct-1", "e2", PRICE_MICRO, "gpt-4o", 0),
        ("acct-1", "e3", PRICE_MICRO, "gpt-4o", 2_500_000_000),
    ]
    assert [row[1][:7] for row in found[3:]] == ["sha256:"]


async def test_a_bad_event_never_affects_the_others(
    app: httpx2.AsyncClient, settings: Settings, environment: dict[str, str]
) -> None:
    bad_count = event("b1", tokens={"input": "12"})
    nan = json.dumps(event("b5", quantity=7)).replace("7", "NaN")
    others: list[Any] = [
        event("good-1"), bad_count, {**event("b2"), "time": "2020-01-01T00:00:00Z"}, 17,
        {**event("b4"), "type": "request"}, of_litellm("b6", total_tokens=1001),
        {**of_litellm("b7"), "subject": None}, event("good-2"),
    ]  # fmt: skip
    body = f"[{nan},{json.dumps(others)[1:]}"
    answer = await app.post(PATH, content=body, headers=MANY)
    assert answer.status_code == 207
    told = answer.json()
    assert (told["accepted"], told["rejected"]) == (2, 7)
    assert [(one["id"], one["status"], one["reason"], one["field"]) for one in told["events"]] == [
        (None, "rejected", "bad_json", ""),
        ("good-1", "accepted", "", ""),
        ("b1", "rejected", "invalid", "data.tokens.input"),
        ("b2", "rejected", "too_old", "time"),
        (None, "rejected", "bad_json", ""),
        ("b4", "rejected", "unknown_type", "type"),
        ("b6", "rejected", "inconsistent", "data.total_tokens"),
        ("b7", "rejected", "invalid", "subject"),
        ("good-2", "accepted", "", ""),
    ]
    assert [one["index"] for one in told["events"]] == list(range(9))
    counted = figures(str(app.base_url).rstrip("/"))
    assert 'tollgate_ingested_total{outcome="accepted",stage="api"} 2.0' in counted
    assert 'tollgate_ingested_total{outcome="rejected",stage="api"} 7.0' in counted
    assert 'tollgate_ingest_waiting_bytes{stage="api"} 0.0' in counted
    with Worker("rater", environment) as rater:
        await wait_applied(settings, 2, seconds_max=60, worker=rater)
    assert [row[1] for row in await charges(settings)] == ["good-1", "good-2"]


async def test_who_asks_is_told_what_was_accepted(app: httpx2.AsyncClient) -> None:
    answer = await app.post(PATH, json=event("e1"), headers=TOLD)
    assert answer.status_code == 202
    accepted = {"index": 0, "id": "e1", "status": "accepted"}
    assert answer.json() == {
        "accepted": 1,
        "rejected": 0,
        "events": [{**accepted, "reason": "", "field": "", "detail": ""}],
    }


async def test_a_request_without_a_valid_event_is_a_problem(app: httpx2.AsyncClient) -> None:
    answer = await app.post(PATH, json=event("b1", tokens={"input": -1}), headers=ONE)
    assert answer.status_code == 422
    assert answer.headers["content-type"] == "application/problem+json"
    told = answer.json()
    assert (told["code"], told["detail"]) == (
        "negative", "data.tokens.input: Input should be greater than or equal to 0",
    )  # fmt: skip
    assert told["errors"][0]["field"] == "data.tokens.input"


@pytest.mark.parametrize(
    ("body", "headers", "status"),
    [
        (b"{", ONE, 422), (b"", ONE, 422), (b"[]", MANY, 422), (b"[]", ONE, 422),
        (b"{}", MANY, 422), (b"{}", ONE, 422), (b"5", {"Content-Type": "application/json"}, 422),
        (b"{}", {"Content-Type": "text/plain"}, 415), (b"{}", {}, 415),
        (b"{}", {**ONE, "Content-Encoding": "gzip"}, 415),
        (b"[1,1,1,1]", MANY, 413), (b"[" + b" " * 4_000 + b"1]", MANY, 413),
        (b"[" * 100_000, MANY, 413), (b"[" * 3_000, MANY, 422), (b"{}", ONE | {"X": "1"}, 422),
        (json.dumps(event("e1")).encode(), {"Content-Type": "Application/JSON; charset=a"}, 204),
    ],
)  # fmt: skip
async def test_each_body_has_its_status(
    settings: Settings, topics: dict[str, str], body: bytes, headers: dict[str, str], status: int
) -> None:
    limited = with_tokens(settings, api_body_bytes_max=3_500, ingest_events_max=3)
    async with serve(limited) as address, client(address, "chat", "service") as app:
        answer = await app.post(PATH, content=body, headers=headers)
    assert answer.status_code == status


async def test_a_user_publishes_for_the_own_account_under_ids_of_its_own(
    address: str, settings: Settings, environment: dict[str, str]
) -> None:
    async with client(address, "eve") as eve:
        foreign = await eve.post(PATH, json=event("job-1", "acct-1"), headers=ONE)
        settles = await eve.post(PATH, json=event("job-2", "eve", hold_id="h1"), headers=ONE)
        mixed = [event("job-3", "eve"), event("job-4", "acct-1"), event("j" * 128, "eve")]
        both = await eve.post(PATH, json=mixed, headers=MANY)
    assert foreign.status_code == settles.status_code == 403
    assert foreign.json()["errors"][0]["field"] == "subject"
    assert settles.json()["errors"][0]["field"] == "data.hold_id"
    assert both.status_code == 207
    assert [one["status"] for one in both.json()["events"]] == ["accepted", "rejected", "accepted"]
    async with client(address, "chat", "service") as app:
        assert (await app.post(PATH, json=event("job-3", "eve"), headers=ONE)).status_code == 204
    with Worker("rater", environment) as rater:
        await wait_applied(settings, 3, seconds_max=60, worker=rater)
    found = await charges(settings)
    assert {row[0] for row in found} == {"eve"}
    assert [row[1][:12] for row in found] == ["job-3", "user:job-3", "user:sha256:"]


async def test_nobody_publishes_without_a_token(address: str) -> None:
    async with client(address) as nobody:
        assert (await nobody.post(PATH, json=event("e1"), headers=ONE)).status_code == 401


async def test_without_kafka_the_answer_is_no_at_once_and_the_gate_goes_on(
    settings: Settings,
) -> None:
    away = with_tokens(settings, kafka="127.0.0.1:1")
    async with serve(away) as address, client(address, "chat", "service") as app:
        began = time.monotonic()
        answer = await app.post(PATH, json=event("e1"), headers={**ONE, **TOLD})
        assert time.monotonic() - began < 4  # of the 5 s that Kafka may take
        checked = await app.post("/api/v1/accounts/nobody/check", json={"credits": 1})
    assert answer.status_code == 503
    assert answer.headers["retry-after"] == "2"
    assert answer.json()["title"] == "Kafka takes no events at the moment"
    assert checked.status_code < 500


async def test_too_much_that_waits_is_told_to_come_again(
    settings: Settings, topics: dict[str, str]
) -> None:
    narrow = with_tokens(settings, ingest_waiting_bytes_max=65_536)
    async with serve(narrow) as address, client(address, "chat", "service") as app:
        many = await app.post(PATH, json=[event(f"e{n}") for n in range(60)], headers=MANY)
        few = await app.post(PATH, json=[event(f"e{n}") for n in range(30)], headers=MANY)
    assert many.status_code == 429
    assert many.headers["retry-after"] == "1"
    assert many.json()["type"] == "urn:tollgate:problem:too-many-requests"
    assert few.status_code == 204


def _records(topic: str, count: int) -> list[Outgoing]:
    return [Outgoing(topic, b"acct-%d" % (n % 50), b"x" * 1_000) for n in range(count)]


async def _all_given_back(publisher: EventPublisher) -> None:
    deadline = time.monotonic() + 30
    while publisher.waiting_bytes:
        assert time.monotonic() < deadline, publisher.waiting_bytes
        await asyncio.sleep(0.05)


async def _taken_in_time(publisher: EventPublisher, records: list[Outgoing]) -> None:
    deadline = time.monotonic() + 30
    while await publisher.publish(records) is not None:
        assert time.monotonic() < deadline
        await asyncio.sleep(0.05)


async def test_a_slow_kafka_is_not_called_away_and_memory_comes_back(
    settings: Settings, topics: dict[str, str]
) -> None:
    """On a machine that is busy just then nothing at all is acknowledged within the time, and Kafka
    is away for it: then once more.
    """
    hasty = settings.model_copy(update={"ingest_seconds_max": 0.3})
    one, many = (_records(topics[USAGE_EVENTS.name], count) for count in (1, 15_000))
    async with open_publisher(settings) as publisher:
        for _ in range(10):
            await _taken_in_time(publisher, one)
            publisher._settings = hasty
            taken = await publisher.publish(many)
            publisher._settings = settings
            connected = publisher.connected
            await _all_given_back(publisher)
            if taken is NotTaken.SLOW:
                break
        assert taken is NotTaken.SLOW
        assert connected
        assert await publisher.publish(one) is None


async def test_what_cannot_be_sent_costs_no_memory_and_the_next_may_be(
    settings: Settings, topics: dict[str, str]
) -> None:
    async with open_publisher(settings) as publisher:
        too_large = Outgoing(topics[USAGE_EVENTS.name], b"a", b"x" * 300_000)
        assert await publisher.publish([*_records(too_large.topic, 5), too_large]) is NotTaken.AWAY
        await _all_given_back(publisher)
        await _taken_in_time(publisher, _records(too_large.topic, 1))
