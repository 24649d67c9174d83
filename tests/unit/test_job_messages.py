"""Job messages: what is one, what is not, and that every clock makes the same key."""

import json
from datetime import UTC, datetime, timedelta

import pytest
from hypothesis import given
from hypothesis import strategies as st

from schemas.job_names import JobName
from schemas.jobs import BadJob, Job, decode_job, encode_job, new_job, slot_key, slot_start

NOON = datetime(2026, 11, 21, 12, 0, 7, tzinfo=UTC)
MESSAGE = {
    "specversion": "1.0",
    "id": "refresh:2026-11-21T12:00Z",
    "source": "clock",
    "type": "tollgate.job.v1",
    "time": "2026-11-21T12:00:07Z",
    "data": {"job": "refresh"},
}


def decoded(**changes: object) -> Job | BadJob:
    return decode_job(json.dumps({**MESSAGE, **changes}).encode())


@pytest.mark.parametrize("name", JobName)
def test_what_is_encoded_is_decoded(name: JobName) -> None:
    job = new_job(name, "by:hand-1", "cli:ops", NOON, dry_run=True)
    assert decode_job(encode_job(job)) == job


def test_a_message_of_any_language() -> None:
    job = decoded(datacontenttype="application/json")
    assert isinstance(job, Job)
    assert (job.data.job, job.data.dry_run) == (JobName.REFRESH, False)


@pytest.mark.parametrize(
    ("changes", "told"),
    [
        ({"data": {"job": "destroy"}}, "data.job"),
        ({"data": {"job": "refresh", "dryrun": True}}, "data.dryrun"),
        ({"data": {"job": "refresh", "dry_run": "yes"}}, "data.dry_run"),
        ({"id": ""}, "id"),
        ({"id": "a b"}, "id"),
        ({"type": "tollgate.job.v2"}, "type"),
        ({"time": "today"}, "time"),
        ({"source": "\x1b[2J"}, "source"),
    ],
)
def test_what_is_no_job_says_where(changes: dict[str, object], told: str) -> None:
    bad = decoded(**changes)
    assert isinstance(bad, BadJob)
    assert bad.detail.startswith(told)


@given(st.none() | st.binary(max_size=5_000))
def test_no_bytes_are_a_crash(value: bytes | None) -> None:
    bad = decode_job(value)
    assert isinstance(bad, BadJob)
    assert bad.detail.isascii()
    assert bad.detail.isprintable()


def test_keys_as_a_person_reads_them() -> None:
    assert slot_key(JobName.REFRESH, 3_600, NOON) == "refresh:2026-11-21T12:00Z"
    assert slot_key(JobName.RECONCILE, 600, NOON) == "reconcile:2026-11-21T12:00Z"
    assert slot_key(JobName.RECONCILE, 10, NOON) == "reconcile:2026-11-21T12:00Z"
    later = NOON + timedelta(seconds=8)
    assert slot_key(JobName.RECONCILE, 10, later) == "reconcile:2026-11-21T12:00:10Z"


@given(
    st.integers(10, 7 * 86_400),
    st.datetimes(datetime(2020, 1, 1), datetime(2040, 1, 1), timezones=st.just(UTC)),  # noqa: DTZ001
)
def test_one_key_for_an_interval_and_another_for_the_next(seconds: int, now: datetime) -> None:
    start = slot_start(seconds, now)
    assert start <= now < start + timedelta(seconds=seconds)
    key = slot_key(JobName.EXPIRE, seconds, now)
    assert key == slot_key(JobName.EXPIRE, seconds, start)
    assert key != slot_key(JobName.EXPIRE, seconds, start + timedelta(seconds=seconds))
