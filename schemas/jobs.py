"""The contract of scheduler.jobs: one CloudEvents message asks for one run of one job.

The id is the run's key: whoever sends the same id asks for the same run, and it is done once.
"""

import re
from datetime import UTC, datetime, timedelta
from typing import Annotated, Final, Literal

from pydantic import AwareDatetime, ConfigDict, Field, TypeAdapter, ValidationError
from pydantic.dataclasses import dataclass

from schemas.job_names import JobName

JOB_TYPE: Final = "tollgate.job.v1"
VALUE_BYTES_MAX: Final = 4_096
_EPOCH: Final = datetime(1970, 1, 1, tzinfo=UTC)
_DETAIL_MAX = 300
_CONFIG = ConfigDict(strict=True, extra="ignore")
# A job that knows less than the message asks for would do something else than was asked.
_CLOSED = ConfigDict(strict=True, extra="forbid")

JobKey = Annotated[str, Field(min_length=1, max_length=200, pattern=r"^[A-Za-z0-9_.:-]+$")]


@dataclass(frozen=True, slots=True, config=_CLOSED)
class JobOrder:
    """What is to be run; with `dry_run` it only reports what it would do."""

    job: JobName
    dry_run: bool = False


@dataclass(frozen=True, slots=True, config=_CONFIG)
class Job:
    """One message. `source` says who asks: clock, a CronJob, a person."""

    specversion: Literal["1.0"]
    id: JobKey
    source: Annotated[str, Field(min_length=1, max_length=200, pattern=r"^[!-~]+$")]
    type: Literal["tollgate.job.v1"]
    time: AwareDatetime
    data: JobOrder


@dataclass(frozen=True, slots=True)
class BadJob:
    """A record that asks for nothing that a scheduler knows, and why."""

    detail: str


_ADAPTER = TypeAdapter(Job)


def new_job(name: JobName, key: str, source: str, now: datetime, *, dry_run: bool = False) -> Job:
    """A message with that key. Raises pydantic.ValidationError when a field is not allowed."""
    return Job(
        specversion="1.0",
        id=key,
        source=source,
        type="tollgate.job.v1",
        time=now,
        data=JobOrder(name, dry_run),
    )


def encode_job(job: Job) -> bytes:
    """The bytes to publish: compact UTF-8 JSON. `decode_job` gives an equal job."""
    return _ADAPTER.dump_json(job)


def decode_job(value: bytes | None) -> Job | BadJob:
    """The job in a record, or the first thing that is wrong with it. Never raises."""
    if value is None or len(value) > VALUE_BYTES_MAX:
        return BadJob("the value is null" if value is None else f"{len(value)} bytes are too many")
    try:
        return _ADAPTER.validate_json(value)
    except ValidationError as error:
        first = error.errors(include_url=False, include_input=False, include_context=False)[0]
        place = ".".join(str(part) for part in first["loc"])
        text = f"{place}: {first['msg']}" if place else first["msg"]
        return BadJob(re.sub(r"[^ -~]", "?", text)[:_DETAIL_MAX])


def slot_key(name: JobName, interval_seconds: int, now: datetime) -> str:
    """The key of the interval in which `now` is: the same for every clock, as
    `refresh:2026-11-21T09:00Z`. Intervals are counted from 1970, in UTC.
    """
    slot = slot_start(interval_seconds, now)
    return f"{name}:{slot:%Y-%m-%dT%H:%M}{f':{slot:%S}' if slot.second else ''}Z"


def slot_start(interval_seconds: int, now: datetime) -> datetime:
    """When the interval began in which `now` is."""
    interval = timedelta(seconds=interval_seconds)
    return now - (now - _EPOCH) % interval
