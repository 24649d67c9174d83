"""What an API caller may publish: usage events out of a request's body, each judged by itself."""

import time
from collections.abc import Iterable
from dataclasses import dataclass, replace
from hashlib import sha256
from typing import Any, Literal

from pydantic import BaseModel, Field
from pydantic_core import from_json, to_json

from api.callers import Caller
from api.problems import Kind, Problem
from schemas.events import Reason, Rejected, TimeWindow, UsageEvent, decode
from schemas.names import USER_EVENT_PREFIX
from schemas.openmeter import LITELLM_TYPE, from_litellm

SINGLE = "application/cloudevents+json"
BATCH = "application/cloudevents-batch+json"
EITHER = "application/json"
MEDIA_TYPES = (SINGLE, BATCH, EITHER)

FORBIDDEN = "forbidden"
_ID_CHARS_MAX = 128
_OF_A_FIELD = {Reason.INVALID, Reason.NEGATIVE, Reason.INCONSISTENT}
_FIELD_OF = {
    Reason.FUTURE_SCHEMA: "type",
    Reason.UNKNOWN_TYPE: "type",
    Reason.TOO_OLD: "time",
    Reason.FUTURE_TIME: "time",
}


class EventOutcome(BaseModel):
    """What became of one event; `id` is the one that it is charged by."""

    index: int = Field(examples=[0], description="its place in the request, from 0")
    id: str | None = Field(None, examples=["01JD3X7Q9V8M2K4T6W5Z0Y1N3B"])
    status: Literal["accepted", "rejected"]
    reason: str = Field("", examples=["invalid"], description="as of a dead letter, or `forbidden`")
    field: str = Field("", examples=["data.tokens.input"])
    detail: str = Field("", examples=["data.tokens.input: Input should be a valid integer"])


class IngestAnswer(BaseModel):
    """What became of each event of a request."""

    accepted: int = Field(examples=[1])
    rejected: int = Field(examples=[0])
    events: list[EventOutcome]


@dataclass(frozen=True, slots=True)
class Refused:
    """An event that is not published, and why."""

    reason: str
    field: str
    detail: str
    event_id: str | None


def events_in(body: bytes, media_type: str, events_max: int) -> list[Any]:
    """The JSON values that are to be events. Raises Problem when the body as a whole is wrong."""
    if media_type not in MEDIA_TYPES:
        raise Problem(415, Kind.REFUSED, f"The content type is one of {', '.join(MEDIA_TYPES)}")
    try:
        # NaN is no JSON, but one event's NaN is that event's fault: it is refused alone, later.
        document = from_json(body, allow_inf_nan=True)
    except ValueError as error:
        raise Problem(422, Kind.INVALID, "The body is not JSON", str(error)) from None
    many = isinstance(document, list)
    if many and media_type == SINGLE:
        raise Problem(422, Kind.INVALID, f"An array is sent as {BATCH}")
    if not many and media_type == BATCH:
        raise Problem(422, Kind.INVALID, "A batch is an array of events")
    found: list[Any] = document if many else [document]
    if not found:
        raise Problem(422, Kind.INVALID, "There is no event in the body")
    if len(found) > events_max:
        raise Problem(413, Kind.TOO_LARGE, f"A request has at most {events_max} events")
    return found


def judge(value: Any, caller: Caller, window: TimeWindow) -> UsageEvent | Refused:
    """The event to publish, or why it is none. Never raises for what stands in the value.

    A user publishes for the own account only, closes no hold, and gets ids of a kind of its own.
    """
    event = _read(value, window)
    if isinstance(event, Rejected):
        return _refused(event)
    if caller.account_id is None:
        return event
    if event.subject != caller.account_id:
        return Refused(FORBIDDEN, "subject", "not the account of the caller", event.id)
    if event.data.hold_id is not None:
        return Refused(FORBIDDEN, "data.hold_id", "a user settles no hold", event.id)
    return replace(event, id=_of_user(event.id))


def _read(value: Any, window: TimeWindow) -> UsageEvent | Rejected:
    if isinstance(value, dict) and value.get("type") == LITELLM_TYPE:
        value = from_litellm(value)
        if isinstance(value, Rejected):
            return value
    subject = value.get("subject") if isinstance(value, dict) else None
    key = subject.encode() if isinstance(subject, str) else None
    try:
        text = to_json(value)
    except ValueError:
        return Rejected(Reason.BAD_JSON, "the event is nested too deep")
    return decode(text, key, int(time.time() * 1000), window)


def _of_user(event_id: str) -> str:
    """A user that guessed a service's next id could publish it first, with a smaller usage."""
    own = f"{USER_EVENT_PREFIX}{event_id}"
    if len(own) <= _ID_CHARS_MAX:
        return own
    return f"{USER_EVENT_PREFIX}sha256:{sha256(event_id.encode()).hexdigest()}"


def _refused(rejected: Rejected) -> Refused:
    field = _FIELD_OF.get(rejected.reason, "")
    if rejected.reason in _OF_A_FIELD:
        place, found, _ = rejected.detail.partition(": ")
        field = place if found else ""
    return Refused(rejected.reason.value, field, rejected.detail, rejected.event_id)


def answer_of(judged: Iterable[UsageEvent | Refused]) -> IngestAnswer:
    """One outcome for each event, in the order of the request."""
    events = [
        EventOutcome(index=index, id=one.id, status="accepted")
        if isinstance(one, UsageEvent)
        else EventOutcome(
            index=index,
            id=one.event_id,
            status="rejected",
            reason=one.reason,
            field=one.field,
            detail=one.detail,
        )
        for index, one in enumerate(judged)
    ]
    accepted = sum(event.status == "accepted" for event in events)
    return IngestAnswer(accepted=accepted, rejected=len(events) - accepted, events=events)
