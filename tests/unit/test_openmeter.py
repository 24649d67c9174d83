"""What LiteLLM's `openmeter` callback sends, and the usage event that it means."""

import json
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from schemas.events import (
    TOKENS_MAX,
    BilledCost,
    Rejected,
    TimeWindow,
    TokenCounts,
    UsageEvent,
    decode,
)
from schemas.openmeter import from_litellm

WHEN = datetime(2026, 11, 21, 13, 45, 46, 722882, UTC)
# Word for word what LiteLLM 1.106.2 sent, on a mocked answer of gpt-4o.
SENT: dict[str, Any] = {
    "specversion": "1.0",
    "type": "litellm_tokens",
    "id": "chatcmpl-ee6f82be-1bcc-48ce-af9d-65a1dfb2af8b",
    "time": "2026-11-21T13:45:46.722882+00:00",
    "subject": "acct-1",
    "source": "litellm-proxy",
    "data": {
        "model": "gpt-4o",
        "cost": 0.00022500000000000002,
        "prompt_tokens": 10,
        "completion_tokens": 20,
        "total_tokens": 30,
    },
}
JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(st.characters(codec="utf-8")),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=8), inner),
    max_leaves=8,
)


def read(document: dict[str, Any]) -> UsageEvent | Rejected:
    """As the API reads it."""
    found = from_litellm(document)
    if isinstance(found, Rejected):
        return found
    appended_at_ms = int((WHEN + timedelta(seconds=1)).timestamp() * 1000)
    key = str(document.get("subject")).encode()
    return decode(json.dumps(found).encode(), key, appended_at_ms, TimeWindow())


def with_data(**changes: Any) -> dict[str, Any]:
    return {**SENT, "data": {**SENT["data"], **changes}}


def accepted(document: dict[str, Any]) -> UsageEvent:
    found = read(document)
    assert isinstance(found, UsageEvent), found
    return found


def test_the_callbacks_own_event_becomes_usage() -> None:
    event = accepted(SENT)
    assert (event.id, event.subject, event.time) == (SENT["id"], "acct-1", WHEN)
    assert (event.data.provider, event.data.model) == ("", "gpt-4o")
    assert event.data.tokens == TokenCounts(input=10, output=20)
    assert event.data.billed == BilledCost("0.000225", "USD")


@pytest.mark.parametrize("model", ["anthropic/claude-3.5-sonnet", "meta-llama/Llama-3.1-8B"])
def test_a_model_keeps_what_stands_before_it(model: str) -> None:
    assert accepted(with_data(model=model)).data.model == model


@pytest.mark.parametrize("said", ["resp_bGl0ZWxsbTo=", "x" * 129, "id with spaces", "é"])
def test_an_id_that_does_not_fit_becomes_its_hash_each_time(said: str) -> None:
    first, second = accepted({**SENT, "id": said}), accepted({**SENT, "id": said})
    assert first.id == second.id
    assert first.id.startswith("sha256:")
    assert accepted({**SENT, "id": f"{said}!"}).id != first.id


def test_a_time_without_a_zone_is_utc() -> None:
    assert accepted({**SENT, "time": "2026-11-21T13:45:46.722882"}).time == WHEN


@pytest.mark.parametrize(
    ("cost", "amount"),
    [
        (1.35e-05, "0.0000135"), (0, "0"), (0.0, "0"), (-0.0, "0"), (1e-13, "0"), (100, "100"),
        (999_999.5, "999999.5"), (1.5e-12, "0.000000000002"), (2.5e-12, "0.000000000002"),
    ],
)  # fmt: skip
def test_a_cost_is_the_decimal_that_was_meant(cost: float, amount: str) -> None:
    assert accepted(with_data(cost=cost)).data.billed == BilledCost(amount)


def test_an_unknown_cost_is_no_bill() -> None:
    assert accepted(with_data(cost=None)).data.billed is None


@pytest.mark.parametrize(
    ("document", "reason", "place"),
    [
        ({**SENT, "subject": None}, "invalid", "subject"),
        ({**SENT, "subject": ""}, "invalid", "subject"),
        ({**SENT, "subject": "a b@example.com"}, "invalid", "subject"),
        ({**SENT, "id": None}, "invalid", "id"),
        ({**SENT, "time": None}, "invalid", "time"),
        ({**SENT, "specversion": "0.3"}, "invalid", "specversion"),
        ({**SENT, "data": None}, "invalid", "data"),
        ({**SENT, "data": {"model": "gpt-image-1", "cost": 0.04}}, "invalid", "data.prompt_tokens"),
        (with_data(model=None), "invalid", "data.model"),
        (with_data(model="two words"), "invalid", "data.model"),
        (with_data(prompt_tokens=10.0), "invalid", "data.prompt_tokens"),
        (with_data(prompt_tokens=True), "invalid", "data.prompt_tokens"),
        (with_data(prompt_tokens=TOKENS_MAX + 1), "invalid", "data.prompt_tokens"),
        (with_data(completion_tokens=-1), "negative", "data.completion_tokens"),
        (with_data(total_tokens=31), "inconsistent", "data.total_tokens"),
        (with_data(total_tokens=29), "inconsistent", "data.total_tokens"),
        (with_data(cost=-0.1), "negative", "data.cost"),
        (with_data(cost="0.1"), "invalid", "data.cost"),
        (with_data(cost=True), "invalid", "data.cost"),
        (with_data(cost=1_000_000), "invalid", "data.cost"),
        (with_data(cost=float("nan")), "invalid", "data.cost"),
        (with_data(cost=float("inf")), "invalid", "data.cost"),
    ],
)
def test_what_nobody_could_price_or_charge_is_refused(
    document: dict[str, Any], reason: str, place: str
) -> None:
    found = read(document)
    assert isinstance(found, Rejected)
    assert (found.reason.value, found.detail.partition(":")[0]) == (reason, place)


@given(
    st.sampled_from((*SENT, "data.cost", "data.model", "data.prompt_tokens", "data.total_tokens")),
    JSON,
)
def test_nothing_that_json_can_say_raises(place: str, value: Any) -> None:
    document = json.loads(json.dumps(SENT))
    parts = place.split(".")
    target = document if len(parts) == 1 else document["data"]
    target[parts[-1]] = value
    found = read(document)
    assert isinstance(found, UsageEvent | Rejected)
    assert read(document) == found
