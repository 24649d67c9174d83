"""Usage events by HTTP: CloudEvents, one or many, on the path that clients of OpenMeter use."""

import asyncio
from collections.abc import Sequence
from typing import Annotated, Any, assert_never

from fastapi import APIRouter, Header, Request, Response
from starlette.responses import JSONResponse

from adapters.event_publisher import EventPublisher, NotTaken
from adapters.metrics import Metrics
from adapters.publishing import Outgoing
from adapters.settings import Settings
from api.callers import AnyCaller, Caller
from api.ingest import FORBIDDEN, IngestAnswer, Refused, answer_of, events_in, judge
from api.ingest_document import REQUEST_BODY
from api.problems import Kind, Problem, ProblemDocument
from schemas.events import TimeWindow, UsageEvent, encode
from schemas.topics import USAGE_EVENTS

router = APIRouter(prefix="/api/v1", tags=["usage"])

_SLICE_EVENTS = 100  # judged in one go, about 2 ms in which nobody else is answered
_DAY_MS = 86_400_000

_Prefer = Annotated[
    str,
    Header(
        description="`return=representation`: also a request that was accepted whole gets a body",
        examples=["return=representation"],
    ),
]
_RESPONSES: dict[int | str, dict[str, Any]] = {
    202: {"model": IngestAnswer, "description": "Kafka has all events; with `Prefer`"},
    204: {"description": "Kafka has all events"},
    207: {"model": IngestAnswer, "description": "Kafka has some events, others were rejected"},
    415: {"model": ProblemDocument, "description": "None of the content types"},
}


@router.post(
    "/events",
    status_code=204,
    response_class=Response,
    operation_id="ingestEvents",
    responses=_RESPONSES,
    openapi_extra={"requestBody": REQUEST_BODY},
)
async def ingest(request: Request, caller: AnyCaller, prefer: _Prefer = "") -> Response:
    """Publishes usage events, of which each is judged by itself and charged once.

    The answer comes when all replicas of Kafka have the accepted events. After 429 and 503 nothing
    is certain: send the same events again, under the same ids.
    """
    settings: Settings = request.app.state.settings
    metrics: Metrics = request.app.state.metrics
    publisher: EventPublisher = request.app.state.publisher
    media_type = request.headers.get("content-type", "").partition(";")[0].strip().lower()
    values = events_in(await request.body(), media_type, settings.ingest_events_max)
    judged = await _judged(values, caller, settings)
    accepted = [one for one in judged if isinstance(one, UsageEvent)]
    metrics.ingested("rejected", len(judged) - len(accepted), publisher.waiting_bytes)
    if accepted:
        not_taken = await _publish(publisher, accepted, settings)
        metrics.ingested(not_taken or "accepted", len(accepted), publisher.waiting_bytes)
        if not_taken is not None:
            raise _come_again(not_taken)
    return _answer(judged, whole=len(accepted) == len(judged), told="representation" in prefer)


async def _judged(
    values: Sequence[Any], caller: Caller, settings: Settings
) -> list[UsageEvent | Refused]:
    window = TimeWindow(settings.event_age_days_max * _DAY_MS)
    judged: list[UsageEvent | Refused] = []
    for start in range(0, len(values), _SLICE_EVENTS):
        judged += [judge(value, caller, window) for value in values[start : start + _SLICE_EVENTS]]
        await asyncio.sleep(0)
    return judged


async def _publish(
    publisher: EventPublisher, events: Sequence[UsageEvent], settings: Settings
) -> NotTaken | None:
    topic = settings.topic_prefix + USAGE_EVENTS.name
    return await publisher.publish(
        [Outgoing(topic, event.subject.encode(), encode(event)) for event in events]
    )


def _come_again(not_taken: NotTaken) -> Problem:
    match not_taken:
        case NotTaken.FULL:
            return _later(429, Kind.TOO_MANY, "Too many events wait for Kafka", 1)
        case NotTaken.SLOW:
            return _later(
                429, Kind.TOO_MANY, "Kafka is slow and has not taken all events in time", 2
            )
        case NotTaken.AWAY:
            return _later(503, Kind.UNAVAILABLE, "Kafka takes no events at the moment", 2)
        case _:
            assert_never(not_taken)


def _later(status: int, kind: Kind, title: str, seconds: int) -> Problem:
    detail = "No event of this request counts as accepted: send them again under the same ids"
    return Problem(status, kind, title, detail, headers={"Retry-After": str(seconds)})


def _answer(judged: Sequence[UsageEvent | Refused], *, whole: bool, told: bool) -> Response:
    if whole and not told:
        return Response(status_code=204)
    answer = answer_of(judged)
    if answer.accepted:
        return JSONResponse(answer.model_dump(), 202 if whole else 207)
    forbidden = all(event.reason == FORBIDDEN for event in answer.events)
    first = answer.events[0]
    title = "Not yours to publish" if forbidden else "No event of the request is valid"
    raise Problem(
        403 if forbidden else 422,
        Kind.FORBIDDEN if forbidden else Kind.INVALID,
        title,
        first.detail,
        code=first.reason,
        errors=[event.model_dump() for event in answer.events],
    )
