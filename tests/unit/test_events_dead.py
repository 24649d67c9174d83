"""The dead letter as it is published, and the table of topics."""

import base64
import dataclasses
import hashlib
import json
from datetime import UTC, datetime
from typing import Any

import pytest
from pydantic import ValidationError

from schemas import topics
from schemas.dead_letters import DeadLetter, Origin, decode_dead_letter, encode_dead_letter
from schemas.events import Reason
from schemas.json_schema import documents

NOW = datetime(2026, 11, 21, 9, 0, tzinfo=UTC)


def dead_letter(payload: bytes = b"{\xff", **changes: Any) -> DeadLetter:
    fields: dict[str, Any] = {
        "reason": Reason.BAD_JSON,
        "detail": "Invalid JSON",
        "origin": Origin(topic="usage.events", partition=3, offset=77, epoch=1),
        "appended_at": NOW,
        "dead_at": NOW,
        "account_id": "acct-1",
        "event_id": None,
        "key": b"acct-1",
        "payload": payload,
        "payload_bytes": len(payload),
        "payload_sha256": hashlib.sha256(payload).digest(),
    }
    return DeadLetter(**fields | changes)


def published(letter: DeadLetter) -> dict[str, Any]:
    message: dict[str, Any] = json.loads(encode_dead_letter(letter))
    return message


def test_says_why_where_and_what() -> None:
    assert published(dead_letter()) == {
        "reason": "bad_json",
        "detail": "Invalid JSON",
        "origin": {"topic": "usage.events", "partition": 3, "offset": 77, "epoch": 1},
        "appended_at": "2026-11-21T09:00:00Z",
        "dead_at": "2026-11-21T09:00:00Z",
        "account_id": "acct-1",
        "event_id": None,
        "key_base64": "YWNjdC0x",
        "payload_base64": "e/8=",
        "payload_bytes": 2,
        "payload_sha256": hashlib.sha256(b"{\xff").hexdigest(),
    }


def test_the_reason_is_the_first_thing_to_read() -> None:
    assert encode_dead_letter(dead_letter()).startswith(b'{"reason":"bad_json"')


def test_base64_is_of_the_standard_alphabet() -> None:
    assert published(dead_letter(b"\xfb\xff\xfe"))["payload_base64"] == "+//+"


def test_a_record_without_key_and_value() -> None:
    message = published(dead_letter(b"", key=None, account_id=None))
    assert message["key_base64"] is None
    assert message["payload_base64"] == ""


def test_a_long_payload_is_cut_but_told_whole() -> None:
    payload = bytes(range(256)) * 800
    message = published(dead_letter(payload, key=b"k" * 200_000))
    assert base64.b64decode(message["payload_base64"]) == payload[:65_536]
    assert base64.b64decode(message["key_base64"]) == b"k" * 1_024
    assert message["payload_bytes"] == len(payload)
    assert message["payload_sha256"] == hashlib.sha256(payload).hexdigest()


def test_the_largest_dead_letter_fits_into_its_topic() -> None:
    largest = dead_letter(
        bytes(200_000),
        key=bytes(200_000),
        detail="x" * 300,
        account_id="a" * 128,
        event_id="e" * 128,
    )
    assert len(encode_dead_letter(largest)) < topics.USAGE_DEAD.max_message_bytes / 2


@pytest.mark.parametrize(
    "changes",
    [
        {"reason": "no_such_reason"},
        {"payload_sha256": b"short"},
        {"payload_bytes": -1},
        {"dead_at": datetime(2026, 11, 21)},  # noqa: DTZ001 - the naive time is the point
    ],
)
def test_refuses_what_no_consumer_could_read(changes: dict[str, Any]) -> None:
    with pytest.raises(ValidationError):
        dead_letter(**changes)


def test_the_exported_schema_names_every_field_that_is_published() -> None:
    schema = json.loads(documents()["dead_letter.v1.json"])
    assert list(schema["properties"]) == list(published(dead_letter()))
    assert schema["$defs"]["Reason"]["enum"] == [reason.value for reason in Reason]


class TestTopics:
    def test_names_are_unique_and_every_topic_is_in_the_table(self) -> None:
        declared = [value for value in vars(topics).values() if isinstance(value, topics.Topic)]
        assert list(topics.ALL) == declared
        assert len({topic.name for topic in topics.ALL}) == len(topics.ALL)

    def test_usage_events(self) -> None:
        assert dataclasses.asdict(topics.USAGE_EVENTS) == {
            "name": "usage.events",
            "key": "the account",
            "partitions": 8,
            "retention_ms": 14 * 86_400_000,
            "max_message_bytes": 262_144,
        }

    @pytest.mark.parametrize("topic", topics.ALL, ids=lambda topic: topic.name)
    def test_the_broker_stamps_the_time_and_bounds_the_batch(self, topic: topics.Topic) -> None:
        config = topic.broker_config(1)
        assert config["message.timestamp.type"] == "LogAppendTime"
        assert int(config["max.message.bytes"]) == 262_144
        assert config["cleanup.policy"] == "delete"
        assert int(config["retention.ms"]) >= 7 * 86_400_000


@pytest.mark.parametrize("key", [None, b"acct-1", b"\x00\xff"])
def test_what_is_published_can_be_read_again(key: bytes | None) -> None:
    letter = dead_letter(payload=b"\x00\xff{}", key=key)
    assert decode_dead_letter(encode_dead_letter(letter)) == letter
    later = json.loads(encode_dead_letter(letter)) | {"a_later_field": 1}
    assert decode_dead_letter(json.dumps(later).encode()) == letter


@pytest.mark.parametrize(
    "value", [None, b"", b"{", b"[]", b"1", b"{}", b"\xff", b'{"reason": "x"}']
)
def test_what_is_no_letter_is_none(value: bytes | None) -> None:
    assert decode_dead_letter(value) is None


@pytest.mark.parametrize(
    ("field", "wrong"),
    [
        ("reason", "unheard_of"),
        ("origin", None),
        ("payload_base64", 7),
        ("payload_base64", "\u00e4"),
        ("payload_sha256", "00"),
        ("payload_bytes", -1),
        ("appended_at", "yesterday"),
        ("appended_at", "2026-11-21T09:00:00"),
    ],
)
def test_a_letter_with_one_wrong_field_is_none(field: str, wrong: object) -> None:
    document = published(dead_letter()) | {field: wrong}
    assert decode_dead_letter(json.dumps(document).encode()) is None
