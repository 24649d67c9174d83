"""A described usage in a request: what an event would carry, without an identity of its own."""

import json
from datetime import UTC, datetime
from typing import Annotated, Any

from pydantic import (
    BaseModel,
    BeforeValidator,
    ConfigDict,
    Field,
    TypeAdapter,
    ValidationError,
)

from api.problems import Kind, Problem
from schemas.events import UsageData, UsageEvent

_USAGE = TypeAdapter(UsageData)


def _as_on_the_wire(value: object) -> object:
    """Judged as the JSON of an event is: strictly, with the same limits."""
    if not isinstance(value, dict):
        return value
    try:
        return _USAGE.validate_json(json.dumps(value))
    except ValidationError as error:
        first = error.errors(include_url=False, include_input=False)[0]
        place = ".".join(map(str, first["loc"]))
        raise ValueError(f"{place}: {first['msg']}" if place else first["msg"]) from None


DescribedUsage = Annotated[
    UsageData,
    BeforeValidator(_as_on_the_wire),
    Field(
        description="as `data` of a usage event",
        examples=[{"provider": "openai", "model": "gpt-4o", "tokens": {"input": 1000}}],
    ),
]


class Strict(BaseModel):
    """A request body: a field that is not known is refused, so that nothing is set by accident."""

    model_config = ConfigDict(extra="forbid")


def described_usage(fields: dict[str, Any]) -> UsageData:
    """The usage of these fields, by the limits of an event's; raises Problem 422 beyond them."""
    try:
        return _USAGE.validate_json(json.dumps(fields))
    except ValidationError as error:
        raise _unfit(error) from None


def described_event(
    account_id: str, data: UsageData, event_id: str = "described", when: datetime | None = None
) -> UsageEvent:
    """The event that the usage would be; raises Problem 422 when it can not be one."""
    fields: dict[str, Any] = {
        "specversion": "1.0",
        "id": event_id,
        "source": "api",
        "type": "tollgate.usage.v1",
        "subject": account_id,
        "time": when or datetime.now(UTC),
        "data": data,
    }
    try:
        return UsageEvent(**fields)
    except ValidationError as error:
        raise _unfit(error) from None


def _unfit(error: ValidationError) -> Problem:
    first = error.errors()[0]
    place = ".".join(map(str, first["loc"]))
    return Problem(422, Kind.INVALID, f"{place}: {first['msg']}" if place else first["msg"])
