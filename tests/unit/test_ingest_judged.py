"""What the API makes of one value of a request's body, whatever it is."""

import time
from datetime import UTC, datetime
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from api.callers import Caller, Role
from api.ingest import BATCH, EITHER, SINGLE, Refused, answer_of, events_in, judge
from api.problems import Problem
from schemas.events import Reason, TimeWindow, UsageEvent, decode, encode, payload_hash
from tests.unit.test_openmeter import JSON

SERVICE = Caller("chat", Role.SERVICE)
USER = Caller("eve", Role.USER, "eve")
WINDOW = TimeWindow()
EVENT: dict[str, Any] = {
    "specversion": "1.0", "id": "e1", "source": "app/chat", "type": "tollgate.usage.v1",
    "subject": "eve", "data": {"model": "gpt-4o", "tokens": {"input": 7}},
}  # fmt: skip


def event(**changes: Any) -> dict[str, Any]:
    return {**EVENT, "time": datetime.now(UTC).isoformat(), **changes}


def test_what_is_published_is_what_was_sent() -> None:
    judged = judge(event(colour="red"), SERVICE, WINDOW)
    assert isinstance(judged, UsageEvent)
    again = decode(encode(judged), b"eve", int(time.time() * 1000), WINDOW)
    assert isinstance(again, UsageEvent)
    assert payload_hash(again) == payload_hash(judged)
    assert (again.id, again.time) == (judged.id, judged.time)


@given(JSON | st.dictionaries(st.sampled_from((*EVENT, "time")), JSON).map(lambda d: event(**d)))
def test_nothing_raises_and_nothing_is_published_that_the_rater_would_refuse(value: Any) -> None:
    for caller in (SERVICE, USER):
        judged = judge(value, caller, WINDOW)
        if isinstance(judged, Refused):
            assert judged.reason in {*Reason, "forbidden"}
        else:
            key = judged.subject.encode()
            assert decode(encode(judged), key, int(time.time() * 1000), WINDOW) == judged


def test_the_id_of_a_user_is_none_of_a_service() -> None:
    for given_id in ("e1", "user:e1", "x" * 123, "x" * 124, "x" * 128):
        judged = judge(event(id=given_id), USER, WINDOW)
        assert isinstance(judged, UsageEvent)
        assert judged.id.startswith("user:")
        kept = judge(event(id=given_id), SERVICE, WINDOW)
        assert isinstance(kept, UsageEvent)
        assert kept.id == given_id


def test_a_deep_value_is_refused_alone() -> None:
    deep: Any = []
    for _ in range(5_000):
        deep = [deep]
    judged = judge(event(data={"attributes": deep}), SERVICE, WINDOW)
    assert isinstance(judged, Refused)
    assert answer_of([judged]).rejected == 1


@pytest.mark.parametrize(
    ("body", "media_type", "status"),
    [
        (b"{}", "text/plain", 415), (b"[{}]", SINGLE, 422), (b"{}", BATCH, 422),
        (b"[]", EITHER, 422), (b"[1,2,3]", BATCH, 413), (b"{", EITHER, 422), (b"", SINGLE, 422),
        (b"\xff", EITHER, 422), (b"[" * 10_000, BATCH, 422),
    ],
)  # fmt: skip
def test_a_body_that_holds_no_events_is_refused_whole(
    body: bytes, media_type: str, status: int
) -> None:
    with pytest.raises(Problem) as refused:
        events_in(body, media_type, 2)
    assert refused.value.status == status


def test_one_or_many() -> None:
    assert events_in(b'{"a":1}', SINGLE, 2) == [{"a": 1}]
    assert events_in(b'{"a":1}', EITHER, 2) == [{"a": 1}]
    assert events_in(b"[1,2]", EITHER, 2) == [1, 2]
    assert events_in(b"[1,2]", BATCH, 2) == [1, 2]
