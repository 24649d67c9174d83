"""Tracking what a provider answered: one event for each line, never an error for the caller."""

from collections.abc import Iterator
from datetime import UTC, datetime
from typing import Any

import pytest

from producers import usage
from producers.client import UsageClient
from producers.stats import Cause, Undelivered
from producers.worker import Options
from schemas.events import BilledCost, PowerLevel, ServiceTier, TimeWindow, UsageEvent, decode

NOWHERE = "127.0.0.1:1"  # nothing listens there
SOON = Options(exit_seconds_max=0.0)
NOW = datetime(2026, 11, 21, 9, 0, tzinfo=UTC)
WITH_SEARCH = {
    "id": "msg_w",
    "model": "claude-sonnet-4-5",
    "usage": {
        "input_tokens": 39,
        "cache_read_input_tokens": 7123,
        "output_tokens": 931,
        "service_tier": "batch",
        "server_tool_use": {"web_search_requests": 2},
    },
}
BILLED = {
    "model": "openai/gpt-4o",
    "usage": {"prompt_tokens": 4, "completion_tokens": 2, "total_tokens": 6, "cost": 0.00095},
}


@pytest.fixture
def told() -> list[Undelivered]:
    return []


@pytest.fixture
def client(told: list[Undelivered]) -> Iterator[UsageClient]:
    made = UsageClient(NOWHERE, "app/test", on_undelivered=told.append, options=SOON)
    yield made
    made.close()


def events(told: list[Undelivered]) -> list[UsageEvent]:
    """What was buffered; nothing listens, so closing hands all of it back."""
    found = []
    for notice in told:
        assert notice.value is not None, notice
        at_ms = int(NOW.timestamp() * 1000)
        event = decode(notice.value, notice.account_id.encode(), at_ms, TimeWindow())
        assert isinstance(event, UsageEvent), event
        found.append(event)
    return found


def test_each_line_is_an_event_under_an_id_of_its_own(
    client: UsageClient, told: list[Undelivered]
) -> None:
    ids = client.track_provider_usage(
        "acct-1",
        WITH_SEARCH,
        provider="anthropic",
        event_id="call-1",
        action="ai_comment_reply",
        power_level="eco",
        hold_id="hold-1",
        resource_id="comment-7",
        own_key=True,
        attributes={"team": "search", "response_id": "ours"},
        occurred_at=NOW,
    )
    assert ids == ("call-1", "call-1.2")
    client.close()
    tokens, searches = events(told)
    assert (tokens.id, tokens.data.action, tokens.data.model) == (
        "call-1",
        "ai_comment_reply",
        "claude-sonnet-4-5",
    )
    assert (tokens.data.tokens.input, tokens.data.tokens.cache_read) == (7162, 7123)
    assert tokens.data.service_tier is ServiceTier.BATCH
    assert tokens.data.hold_id == "hold-1"
    assert tokens.data.attributes == {"team": "search", "response_id": "ours"}
    assert (searches.id, searches.data.action, searches.data.quantity, searches.data.unit) == (
        "call-1.2",
        "web_search.anthropic",
        2,
        "requests",
    )
    assert searches.data.hold_id is None, "one hold is settled once"
    assert searches.data.model == "", "an event without tokens would be free under a model"
    for event in (tokens, searches):
        assert (event.time, event.data.resource_id) == (NOW, "comment-7")
        assert (event.data.power_level, event.data.own_key) == (PowerLevel.ECO, True)


def test_a_bill_travels_with_the_tokens(client: UsageClient, told: list[Undelivered]) -> None:
    assert client.track_provider_usage("acct-1", BILLED, provider="openrouter", occurred_at=NOW)
    client.close()
    [event] = events(told)
    assert event.data.action == "ai_chat_message"
    assert event.data.billed == BilledCost("0.00095", "USD")


def test_usage_that_cannot_be_known_is_refused_with_its_reason(
    client: UsageClient, told: list[Undelivered]
) -> None:
    stream: list[dict[str, Any]] = [{"model": "gpt-4o", "choices": [], "usage": None}]
    assert client.track_provider_usage("acct-1", stream, provider="openai", event_id="c-1") == ()
    assert client.track_provider_usage("acct-1", BILLED) == ()
    assert (client.stats().invalid, client.stats().accepted) == (2, 0)
    client.close()
    assert [(notice.cause, notice.detail, notice.event_id) for notice in told][:1] == [
        (Cause.INVALID, "usage_missing: no event of the stream has usage", "c-1")
    ]
    assert told[1].detail.startswith("unknown_provider: ")


@pytest.mark.parametrize(
    "details",
    [
        {"attributes": "text"},
        {"attributes": [1]},
        {"attributes": {"a": 1}},
        {"event_id": 7},
        {"event_id": "with space"},
        {"power_level": "turbo"},
        {"quantity": 5},
        {"occurred_at": "yesterday"},
    ],
)
def test_no_mistake_in_the_details_reaches_the_caller(
    client: UsageClient, details: dict[str, Any]
) -> None:
    assert client.track_provider_usage("acct-1", BILLED, provider="openrouter", **details) == ()
    assert client.stats().invalid == 1


def test_a_strict_client_raises_for_tests_of_the_app() -> None:
    with (
        UsageClient(NOWHERE, "app/test", strict=True, options=SOON) as strict,
        pytest.raises(ValueError, match="usage_missing"),
    ):
        strict.track_provider_usage("acct-1", {"model": "gpt-4o"}, provider="openai")


def test_found_attributes_leave_room_for_those_of_the_app(
    client: UsageClient, told: list[Undelivered]
) -> None:
    own = {f"k{number}": "v" for number in range(16)}
    assert client.track_provider_usage(
        "acct-1", WITH_SEARCH, provider="anthropic", attributes=own, occurred_at=NOW
    )
    client.close()
    assert [event.data.attributes for event in events(told)] == [own, own]


def test_the_helper_of_the_process_does_the_same(client: UsageClient) -> None:
    usage.configure(client)
    ids = usage.track_provider_usage(
        "acct-1", BILLED["usage"], provider="openrouter", request_model="openai/gpt-4o"
    )
    assert len(ids) == 1
    assert usage.stats().accepted == 1


def test_tiers_units_and_bills_by_hand(client: UsageClient, told: list[Undelivered]) -> None:
    """The other calls take what is new in an event as well."""
    assert client.track_ai_usage(
        "acct-1",
        "google",
        "gemini-2.5-flash-image",
        90,
        60,
        video_input_tokens=30,
        image_output_tokens=50,
        service_tier="flex",
        billed=BilledCost("0.01"),
        occurred_at=NOW,
    )
    assert client.track_compute_usage("acct-1", "transcode", 7, unit="seconds", occurred_at=NOW)
    assert client.track_compute_usage("acct-1", "transcode", service_tier="turbo") is None
    client.close()
    model, action = events([notice for notice in told if notice.value is not None])
    assert (model.data.tokens.video_input, model.data.tokens.image_output) == (30, 50)
    assert model.data.service_tier is ServiceTier.FLEX
    assert model.data.billed == BilledCost("0.01")
    assert (action.data.unit, action.data.quantity) == ("seconds", 7)
