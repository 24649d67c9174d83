"""The usage event: what it holds, that encoding and decoding agree, and what its hash is over."""

import dataclasses
import json
import re
import subprocess
import sys
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta, timezone
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from pydantic import TypeAdapter, ValidationError

from schemas.events import (
    EVENT_TYPE,
    BilledCost,
    PowerLevel,
    Reason,
    Rejected,
    ServiceTier,
    TimeWindow,
    TokenCounts,
    UsageData,
    UsageEvent,
    decode,
    encode,
    payload_hash,
)
from schemas.json_schema import documents
from schemas.names import ACCOUNT_ID_PATTERN, IDENTIFIER_PATTERN

ROOT = Path(__file__).parents[2]
DOCS = (ROOT / "docs" / "events.md").read_text(encoding="utf-8")
NOW = datetime(2026, 11, 21, 9, 0, tzinfo=UTC)
WINDOW = TimeWindow()


def usage_event(**changes: Any) -> UsageEvent:
    fields: dict[str, Any] = {
        "specversion": "1.0",
        "id": "e-1",
        "source": "app/chat",
        "type": EVENT_TYPE,
        "subject": "acct-1",
        "time": NOW,
        "data": UsageData(provider="openai", model="gpt-4o", tokens=TokenCounts(input=1000)),
    }
    return UsageEvent(**fields | changes)


def read(value: bytes, key: bytes = b"acct-1") -> UsageEvent | Rejected:
    return decode(value, key, int(NOW.timestamp() * 1000), WINDOW)


class TestDefaults:
    def test_of_an_event_that_says_nothing(self) -> None:
        envelope = json.loads(encode(usage_event())) | {"data": {}}
        event = read(json.dumps(envelope).encode())
        assert isinstance(event, UsageEvent)
        assert event.data == UsageData(
            action="ai_completion",
            provider="",
            model="",
            tokens=TokenCounts(),
            quantity=1,
            power_level=PowerLevel.BALANCED,
            hold_id=None,
            resource_id="",
            own_key=False,
            attributes={},
            service_tier=ServiceTier.STANDARD,
            unit="",
            billed=None,
        )

    def test_all_that_can_be_said_is_kept(self) -> None:
        tokens = {
            "input": 100,
            "output": 60,
            "cache_read": 10,
            "cache_write": 20,
            "cache_write_1h": 5,
            "reasoning": 30,
            "audio_input": 40,
            "audio_output": 30,
            "image_input": 20,
            "image_output": 0,
            "video_input": 10,
        }
        data = {
            "action": "chat_message",
            "provider": "openai",
            "model": "openrouter/anthropic/claude-sonnet-4.5@eu:free+x~1",
            "tokens": tokens,
            "quantity": 10**12,
            "power_level": "precision",
            "hold_id": "h-1",
            "resource_id": "https://example.com/a?b=c#d",
            "own_key": True,
            "attributes": {"team": "日本語"},
            "service_tier": "batch",
            "unit": "seconds",
            "billed": {"amount": "0.000123456789", "currency": "CNY"},
        }
        envelope = json.loads(encode(usage_event())) | {"data": data}
        event = read(json.dumps(envelope).encode())
        assert isinstance(event, UsageEvent)
        assert dataclasses.asdict(event.data) == data


class TestConstruction:
    """An app that builds an event in Python meets the same limits as the wire."""

    @pytest.mark.parametrize(
        "changes",
        [
            {"id": ""},
            {"id": "\\N"},
            {"id": "\ud800"},
            {"subject": 12},
            {"time": datetime(2026, 11, 21)},  # noqa: DTZ001 - the naive time is the point
            {"time": NOW.isoformat()[:19]},
            {"time": 1_795_251_600},
            {"type": "tollgate.usage.v2"},
            {"data": None},
        ],
    )
    def test_refuses_what_decoding_refuses(self, changes: dict[str, Any]) -> None:
        with pytest.raises(ValidationError):
            usage_event(**changes)

    def test_refuses_parts_over_totals(self) -> None:
        with pytest.raises(ValidationError, match="parts of the input exceed input"):
            TokenCounts(input=10, cache_read=11)

    def test_refuses_a_kind_of_token_that_nobody_knows(self) -> None:
        with pytest.raises(ValidationError, match="text_output"):
            TypeAdapter(TokenCounts).validate_python({"input": 10, "text_output": 1})

    @pytest.mark.parametrize("amount", ["", ".5", "1.", "-1", "1e3", "1,5", "NaN", " 1", 0.5, 1])
    def test_refuses_a_bill_that_is_no_decimal_text(self, amount: Any) -> None:
        with pytest.raises(ValidationError):
            BilledCost(amount)

    def test_time_becomes_utc(self) -> None:
        event = usage_event(time=NOW.astimezone(timezone(timedelta(hours=-8))))
        assert event.time.tzinfo is UTC
        assert event.time == NOW

    def test_is_frozen(self) -> None:
        with pytest.raises(dataclasses.FrozenInstanceError):
            usage_event().data.quantity = 2  # type: ignore[misc]


identifiers = st.from_regex(IDENTIFIER_PATTERN, fullmatch=True)
account_ids = st.from_regex(ACCOUNT_ID_PATTERN, fullmatch=True)
references = st.from_regex(r"[!-\[\]-~]{0,256}", fullmatch=True)
texts = st.text(st.characters(exclude_categories=("Cc", "Cs")), max_size=256)


@st.composite
def token_counts(draw: st.DrawFn) -> TokenCounts:
    parts = [draw(st.integers(0, 10**8)) for _ in range(8)]
    return TokenCounts(
        input=sum(parts[:4]) + parts[6] + draw(st.integers(0, 10**8)),
        output=sum(parts[4:6]) + parts[7] + draw(st.integers(0, 10**8)),
        cache_read=parts[0],
        cache_write=parts[1],
        cache_write_1h=draw(st.integers(0, parts[1])),
        audio_input=parts[2],
        image_input=parts[3],
        reasoning=parts[4],
        audio_output=parts[5],
        video_input=parts[6],
        image_output=parts[7],
    )


bills = st.builds(
    BilledCost,
    amount=st.from_regex(r"[0-9]{1,6}(\.[0-9]{1,12})?", fullmatch=True),
    currency=st.from_regex(r"[A-Z]{3}", fullmatch=True),
)


usage_data = st.builds(
    UsageData,
    action=st.from_regex(r"[a-z0-9_.:-]{1,64}", fullmatch=True),
    provider=st.from_regex(r"[A-Za-z0-9_.:/@+~-]{0,64}", fullmatch=True),
    model=st.from_regex(r"[A-Za-z0-9_.:/@+~-]{0,200}", fullmatch=True),
    tokens=token_counts(),
    quantity=st.integers(0, 10**12),
    power_level=st.sampled_from(PowerLevel),
    hold_id=st.none() | identifiers,
    resource_id=references,
    own_key=st.booleans(),
    attributes=st.dictionaries(
        st.from_regex(r"[A-Za-z0-9_.:-]{1,64}", fullmatch=True), texts, max_size=16
    ),
    service_tier=st.sampled_from(ServiceTier),
    unit=st.from_regex(r"[a-z0-9_]{0,32}", fullmatch=True),
    billed=st.none() | bills,
)
usage_events = st.builds(
    usage_event,
    id=identifiers,
    source=st.from_regex(r"[!-\[\]-~]{1,256}", fullmatch=True),
    subject=account_ids,
    time=st.timedeltas(-timedelta(days=35), timedelta(minutes=5)).map(lambda shift: NOW + shift),
    data=usage_data,
)


@given(usage_events)
@settings(deadline=None)
def test_what_is_encoded_is_decoded_to_the_same(event: UsageEvent) -> None:
    decoded = read(encode(event), event.subject.encode())
    assert decoded == event
    assert payload_hash(decoded) == payload_hash(event)


def test_the_largest_event_is_within_the_size_limit() -> None:
    attributes = {f"{number:064d}": "\U0001f680" * 256 for number in range(16)}
    data = UsageData(
        action="a" * 64,
        provider="a" * 64,
        model="a" * 200,
        tokens=TokenCounts(**dict.fromkeys(("input", "output"), 10**9)),
        quantity=10**12,
        hold_id="a" * 128,
        resource_id="a" * 256,
        attributes=attributes,
        service_tier=ServiceTier.STANDARD,
        unit="a" * 32,
        billed=BilledCost("9" * 6 + "." + "9" * 12),
    )
    largest = usage_event(id="a" * 128, source="a" * 256, subject="a" * 128, data=data)
    assert read(encode(largest), b"a" * 128) == largest


def test_default_fields_stay_off_the_wire_but_the_envelope_does_not() -> None:
    assert encode(usage_event()) == (
        b'{"specversion":"1.0","id":"e-1","source":"app/chat","type":"tollgate.usage.v1",'
        b'"subject":"acct-1","time":"2026-11-21T09:00:00Z",'
        b'"data":{"provider":"openai","model":"gpt-4o","tokens":{"input":1000}}}'
    )


# Pinned: these numbers stand in ledgers. A release that changes one of them turns every retry that
# crosses the upgrade into a conflict.
PLAIN_HASH = -6782632325030450335
FULL_HASH = 2348097446431585449
LATER_HASH = 486256372283732256


class TestPayloadHash:
    def test_of_the_plain_event_is_pinned(self) -> None:
        assert payload_hash(usage_event()) == PLAIN_HASH

    def test_of_the_full_event_is_pinned(self) -> None:
        data = UsageData(
            action="chat_message",
            provider="anthropic",
            model="claude-sonnet-4-5",
            tokens=TokenCounts(100, 60, 10, 20, 5, 30, 40, 30, 30),
            quantity=2,
            power_level=PowerLevel.ECO,
            hold_id="h-1",
            resource_id="r-1",
            own_key=True,
            attributes={"team": "日本語", "env": "prod"},
        )
        assert payload_hash(usage_event(data=data)) == FULL_HASH

    def test_of_an_event_with_the_later_fields_is_pinned(self) -> None:
        data = UsageData(
            provider="openrouter",
            model="google/gemini-3-pro",
            tokens=TokenCounts(input=100, output=60, image_output=30, video_input=20),
            attributes={"team": "search"},
            service_tier=ServiceTier.FLEX,
            unit="images",
            billed=BilledCost("0.00012", "USD"),
        )
        assert payload_hash(usage_event(data=data)) == LATER_HASH

    def test_is_the_same_in_another_process(self) -> None:
        program = (
            "import sys; from schemas.events import *;"
            "value = sys.stdin.buffer.read();"
            "print(payload_hash(decode(value, b'acct-1', int(sys.argv[1]), TimeWindow())))"
        )
        ran = subprocess.run(
            [sys.executable, "-c", program, str(int(NOW.timestamp() * 1000))],
            input=encode(usage_event()),
            capture_output=True,
            check=True,
            cwd=ROOT,
        )
        assert int(ran.stdout) == PLAIN_HASH

    def test_is_not_over_identity_source_and_time(self) -> None:
        other = usage_event(id="e-2", subject="acct-2", source="b", time=NOW + timedelta(seconds=1))
        assert payload_hash(other) == payload_hash(usage_event())

    def test_is_not_over_the_order_and_the_spelling(self) -> None:
        data = UsageData(attributes={"a": "1", "b": "2"})
        turned = UsageData(attributes={"b": "2", "a": "1"})
        assert payload_hash(usage_event(data=data)) == payload_hash(usage_event(data=turned))

    @pytest.mark.parametrize(
        ("name", "other"),
        [
            ("action", "other"),
            ("provider", "other"),
            ("model", "other"),
            ("tokens", TokenCounts(input=1)),
            ("quantity", 2),
            ("power_level", PowerLevel.ECO),
            ("hold_id", "h-1"),
            ("resource_id", "r-1"),
            ("own_key", True),
            ("attributes", {"a": "b"}),
            ("service_tier", ServiceTier.BATCH),
            ("unit", "images"),
            ("billed", BilledCost("1")),
        ],
    )
    def test_is_over_every_field_of_data(self, name: str, other: Any) -> None:
        changed = UsageData(**{name: other})
        assert payload_hash(usage_event(data=changed)) != payload_hash(
            usage_event(data=UsageData())
        )

    def test_the_fields_above_are_all_fields(self) -> None:
        marked = self.test_is_over_every_field_of_data.pytestmark[0].args[1]  # type: ignore[attr-defined]
        assert [name for name, _ in marked] == [f.name for f in dataclasses.fields(UsageData)]

    def test_is_over_every_kind_of_token(self) -> None:
        full = {"input": 50, "output": 50, "cache_write": 9}
        kinds = [kind.name for kind in dataclasses.fields(TokenCounts)]
        variants = [full | {kind: full.get(kind, 0) + 1} for kind in kinds]
        hashes = {
            payload_hash(usage_event(data=UsageData(tokens=TokenCounts(**variant))))
            for variant in [full, *variants]
        }
        assert len(hashes) == len(kinds) + 1

    @given(usage_data, usage_data)
    @settings(deadline=None)
    def test_differs_when_the_payload_differs(self, one: UsageData, other: UsageData) -> None:
        hashes_equal = payload_hash(usage_event(data=one)) == payload_hash(usage_event(data=other))
        assert hashes_equal == (one == other)

    def test_text_cannot_imitate_the_border_between_fields(self) -> None:
        hashes = {
            payload_hash(usage_event(data=UsageData(attributes=attributes)))
            for attributes in (
                {"a": "1", "b": "2"},
                {"a": "1attributes.b=2"},
                {"a": "1b=2"},
                {"a": "", "b": "12"},
                {"a": "12", "b": ""},
            )
        }
        assert len(hashes) == 5

    def test_a_later_field_is_not_mistaken_for_another(self) -> None:
        said = [
            UsageData(unit="batch"),
            UsageData(service_tier=ServiceTier.BATCH),
            UsageData(attributes={"unit": "batch"}),
            UsageData(tokens=TokenCounts(input=9, video_input=1)),
            UsageData(tokens=TokenCounts(input=9, image_input=1)),
            UsageData(tokens=TokenCounts(output=9, image_output=1)),
            UsageData(billed=BilledCost("1", "USD")),
            UsageData(billed=BilledCost("1", "CNY")),
            UsageData(billed=BilledCost("0")),
        ]
        assert len({payload_hash(usage_event(data=data)) for data in said}) == len(said)


class TestExportedSchemas:
    def test_the_committed_files_are_the_generated_ones(self) -> None:
        folder = ROOT / "schemas" / "json"
        committed = {path.name: path.read_text(encoding="utf-8") for path in folder.iterdir()}
        assert committed == documents(), "run: tollgate schemas export"

    def test_every_limit_of_a_field_is_in_the_document(self) -> None:
        schema = json.loads(documents()["usage_event.v1.json"])
        for path, field in leaves(schema, schema):
            bounds = {"const", "enum", "format", "maxLength", "maximum", "maxProperties", "anyOf"}
            bounded = bounds & field.keys() or field["type"] == "boolean"
            assert bounded or not re.search(r"[*+]|,\}", field["pattern"]), path


def leaves(schema: dict[str, Any], node: dict[str, Any]) -> Iterator[tuple[str, dict[str, Any]]]:
    """Every field with its dotted name and its schema, references followed."""
    for name, field in node["properties"].items():
        target = field
        referring = field if "$ref" in field else field.get("anyOf", [{}])[0]
        if "$ref" in referring:
            target = schema["$defs"][referring["$ref"].rsplit("/", 1)[1]]
        target = target | {"needed": name in node.get("required", ())}
        if "properties" in target:
            yield name, target | {"const": None}
            yield from ((f"{name}.{inner}", leaf) for inner, leaf in leaves(schema, target))
        else:
            yield name, target


class TestDocument:
    """docs/events.md says what the code does."""

    @pytest.mark.parametrize("example", re.findall(r"```json\n(.*?)```", DOCS, re.DOTALL))
    def test_its_examples_are_accepted(self, example: str) -> None:
        assert isinstance(read(example.encode(), b"acct-000123"), UsageEvent)

    def test_its_reasons_are_the_reasons(self) -> None:
        rows = re.findall(r"^\| `(\w+)` \| ([^|]+) \|$", DOCS, re.MULTILINE)
        assert rows == [(reason.value, reason.meaning) for reason in Reason]

    def test_its_limits_are_the_limits(self) -> None:
        rows = re.findall(r"^\| `([\w.]+)` \| [\w ]+ \|([^|]*)\|([^|]*)\|$", DOCS, re.MULTILINE)
        told = {name: (default.strip(" `"), limits) for name, default, limits in rows}
        schema = json.loads(documents()["usage_event.v1.json"])
        fields = dict(leaves(schema, schema))
        objects = {"data.tokens", "data.billed"}
        assert list(told) == [name for name in fields if name not in objects]
        for name, (default, limits) in told.items():
            limit = fields[name] | fields[name].get("anyOf", [{}])[0]
            for key in ("const", "maxLength", "maximum", "maxProperties"):
                assert str(limit.get(key) or "") in limits, name
            assert all(word in limits for word in limit.get("enum", ()))
            assert bool(default) is not limit["needed"], name


class TestReasons:
    def test_each_has_its_own_meaning(self) -> None:
        assert len({reason.meaning for reason in Reason}) == len(Reason)
