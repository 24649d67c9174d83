"""What the ledger records is read back as the event, and an amendment keeps its limits."""

import json
from datetime import UTC, datetime
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from core.amendment import AMENDABLE, AmendmentError, amended
from core.batch import CHARGE_COLUMNS, Charge, Entry, charge_row
from core.rating import Rated
from core.recorded import USAGE_COLUMNS, facts_of, recorded_event, usage_columns, usage_recorded
from schemas.events import BilledCost, PowerLevel, ServiceTier, TokenCounts, UsageData, UsageEvent
from tests.batches import record
from tests.priced_usage import FREE, usage

COUNT = st.integers(0, 10**6)


@st.composite
def token_counts(draw: st.DrawFn) -> TokenCounts:
    parts = {
        kind: draw(st.sampled_from([0, 0, 1, 7, 10**6]))
        for kind in (
            "cache_read", "cache_write", "audio_input", "image_input", "video_input", "reasoning",
            "audio_output", "image_output",
        )
    }  # fmt: skip
    inside = ("cache_read", "cache_write", "audio_input", "image_input", "video_input")
    total_in = sum(parts[kind] for kind in inside)
    total_out = sum(parts.values()) - total_in
    return TokenCounts(
        input=total_in + draw(COUNT),
        output=total_out + draw(COUNT),
        cache_write_1h=draw(st.integers(0, parts["cache_write"])),
        **parts,
    )


AMOUNT = st.one_of(
    st.sampled_from(["0", "0.5", "12", "999999.999999999999", "0.000000000001"]),
    st.integers(0, 10**6 - 1).map(str),
)
EVENT = st.builds(
    UsageEvent,
    specversion=st.just("1.0"),
    id=st.just("e1"),
    source=st.just("app/chat"),
    type=st.just("tollgate.usage.v1"),
    subject=st.just("acme"),
    time=st.datetimes(datetime(2026, 1, 1), datetime(2027, 1, 1), timezones=st.just(UTC)),  # noqa: DTZ001
    data=st.builds(
        UsageData,
        action=st.sampled_from(["ai_completion", "data_export"]),
        provider=st.sampled_from(["", "openai"]),
        model=st.sampled_from(["", "gpt-4o"]),
        tokens=token_counts(),
        quantity=COUNT,
        power_level=st.sampled_from(PowerLevel),
        hold_id=st.sampled_from([None, "h1"]),
        resource_id=st.sampled_from(["", "doc/1"]),
        own_key=st.booleans(),
        attributes=st.dictionaries(st.sampled_from("ab"), st.text("xyé", max_size=3)),
        service_tier=st.sampled_from(ServiceTier),
        billed=st.none()
        | st.builds(BilledCost, amount=AMOUNT, currency=st.sampled_from(["USD", "CNY"])),
    ),
)


def charged(event: UsageEvent) -> dict[str, Any]:
    """The row that the rater writes for the event, by column."""
    entry = Entry(record({"subject": event.subject}, 0, topic="t"), event, 1)
    row = charge_row(Charge(entry, Rated(7, 1, "r"), FREE, 7, 0), 1)
    return dict(zip(CHARGE_COLUMNS, row, strict=True))


@given(EVENT)
def test_a_recorded_event_is_the_event(event: UsageEvent) -> None:
    row = charged(event)
    again = recorded_event(row)
    # 0.50 and 0.5 are one amount; the recorded form is the shortest.
    assert usage_columns(again) == usage_columns(event) == usage_recorded(row)
    assert (again.data.tokens, again.time, again.id) == (event.data.tokens, event.time, event.id)
    assert charged(again) == row
    assert facts_of(row) == FREE


def test_every_usage_column_is_a_column_of_a_charge() -> None:
    assert set(USAGE_COLUMNS) <= set(CHARGE_COLUMNS)


@given(EVENT, EVENT)
def test_what_an_amendment_names_is_replaced_and_all_else_stays(
    event: UsageEvent, other: UsageEvent
) -> None:
    said = json.loads(_json(other))
    patch = {
        name: value for name, value in said.items() if name in AMENDABLE and name != "billed"
    } | {"billed": said.get("billed")}
    result = amended(event, patch)
    assert usage_columns(result) == usage_columns(other)
    for name in ("id", "source", "subject", "time"):
        assert getattr(result, name) == getattr(event, name)
    for name in ("hold_id", "resource_id", "attributes"):
        assert getattr(result.data, name) == getattr(event.data, name)
    assert amended(event, {}) == event


def _json(event: UsageEvent) -> str:
    from pydantic import TypeAdapter  # noqa: PLC0415

    return TypeAdapter(UsageData).dump_json(event.data).decode()


def test_an_amendment_merges_field_by_field_and_null_is_the_default() -> None:
    event = usage("gpt-4o", provider="openai", input=100, output=20, quantity=3)
    result = amended(event, {"tokens": {"output": 30}, "quantity": None})
    assert result.data.tokens == TokenCounts(input=100, output=30)
    assert (result.data.quantity, result.data.model) == (1, "gpt-4o")
    assert amended(event, {"tokens": None}).data.tokens == TokenCounts()


@pytest.mark.parametrize(
    ("patch", "line"),
    [
        ({"subject": "other"}, "'subject' can not be amended"),
        ({"attributes": {}}, "'attributes' can not be amended"),
        ({"tokens": 7}, r"data\.tokens: "),
        ({"tokens": {"output": "30"}}, r"data\.tokens\.output: "),
        ({"quantity": 10**12 + 1}, r"data\.quantity: "),
        ({"billed": {"amount": "1e3"}}, r"data\.billed\.amount: "),
        ({"service_tier": "slow"}, r"data\.service_tier: "),
    ],
)
def test_an_amendment_outside_the_limits_is_one_line(patch: dict[str, Any], line: str) -> None:
    with pytest.raises(AmendmentError, match=line) as refused:
        amended(usage("gpt-4o", input=1), patch)
    assert "\n" not in str(refused.value)
