"""The client towards its caller: an identity at once, never an error, every call counted."""

import statistics
import threading
import time
from collections.abc import Iterator
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest

from producers.buffer import Buffer
from producers.client import UsageClient
from producers.connection import partition_of
from producers.stats import Cause, Stats, Undelivered
from producers.tracking import build_event, new_event_id
from producers.worker import Options
from schemas.events import TimeWindow, UsageEvent, decode, encode

NOWHERE = "127.0.0.1:1"  # nothing listens there
SOON = Options(exit_seconds_max=0.0)


@pytest.fixture
def told() -> list[Undelivered]:
    return []


@pytest.fixture
def client(told: list[Undelivered]) -> Iterator[UsageClient]:
    made = UsageClient(NOWHERE, "app/test", on_undelivered=told.append, options=SOON)
    yield made
    made.close()


def adds_up(stats: Stats) -> bool:
    settled = stats.delivered + stats.failed + stats.buffered + stats.spilled
    return stats.accepted + stats.recovered == settled


def test_the_caller_pays_microseconds_and_gets_an_identity(client: UsageClient) -> None:
    costs, ids = [], set()
    for _ in range(3_000):
        began = time.perf_counter_ns()
        event_id = client.track_ai_usage(
            "acct-1", "openai", "gpt-4o", 1_200, 300, cache_read_tokens=100, resource_id="comment-1"
        )
        costs.append(time.perf_counter_ns() - began)
        ids.add(event_id)
    assert len(ids) == 3_000
    assert None not in ids
    # The aim is 50 microseconds, shown by the benchmark; here only that nobody waits for Kafka.
    assert statistics.median(costs) < 500_000


@pytest.mark.parametrize(
    "arguments",
    [
        {"account_id": ""},
        {"account_id": None},
        {"account_id": "a b"},
        {"account_id": "acct\u0000"},
        {"account_id": "acct\ud800"},
        {"input_tokens": -1},
        {"input_tokens": "12"},
        {"input_tokens": True},
        {"input_tokens": 10**10},
        {"output_tokens": 1.5},
        {"cache_read_tokens": 1_000_000},
        {"occurred_at": datetime(2026, 1, 1)},  # noqa: DTZ001 - it is the mistake
        {"occurred_at": "yesterday"},
        {"event_id": "with space"},
        {"event_id": 7},
        {"power_level": "turbo"},
        {"power_level": []},
        {"attributes": {"key": 1}},
        {"attributes": "text"},
        {"attributes": {f"k{n}": "v" for n in range(17)}},
        {"hold_id": ""},
        {"unheard_of": 1},
    ],
    ids=str,
)
def test_a_bad_argument_is_counted_told_and_never_raised(
    client: UsageClient, told: list[Undelivered], arguments: dict[str, Any]
) -> None:
    good: dict[str, Any] = {
        "account_id": "acct-1",
        "provider": "openai",
        "model": "gpt-4o",
        "input_tokens": 10,
        "output_tokens": 10,
    }
    assert client.track_ai_usage(**{**good, **arguments}) is None
    client.close()
    assert client.stats() == Stats(invalid=1)
    assert client.stats().failed_ratio == 1.0
    [notice] = told
    assert notice.cause is Cause.INVALID
    strict = UsageClient(NOWHERE, "app/test", strict=True)
    with pytest.raises(ValueError, match=r"\w"):
        strict.track_ai_usage(**{**good, **arguments})


def test_a_full_buffer_drops_the_new_and_counts_it(told: list[Undelivered]) -> None:
    options = Options(capacity=100, exit_seconds_max=0.0)
    client = UsageClient(NOWHERE, "app/test", on_undelivered=told.append, options=options)
    # Up to one batch leaves the buffer for the connection that never comes.
    answers = [client.track_compute_usage("acct-1", "scheduled_task") for _ in range(5_000)]
    stats = client.stats()
    assert stats.accepted == sum(answer is not None for answer in answers)
    assert stats.dropped == sum(answer is None for answer in answers) > 0
    assert stats.calls == 5_000
    assert adds_up(stats)
    client.close()
    stats = client.stats()
    assert stats.failed == stats.accepted
    assert adds_up(stats)
    assert {notice.cause for notice in told} == {Cause.DROPPED, Cause.FAILED}
    [lost] = [notice for notice in told if notice.event_id == "" or notice.value][:1]
    assert lost.value is not None, "the app can keep what was not delivered"


def test_a_closed_client_refuses_and_counts(client: UsageClient) -> None:
    client.track_compute_usage("acct-1", "scheduled_task")
    client.close()
    client.close()
    assert client.track_compute_usage("acct-1", "scheduled_task") is None
    assert client.stats().dropped == 1


def test_a_callback_that_fails_stops_nothing(caplog: pytest.LogCaptureFixture) -> None:
    def fail(_: Undelivered) -> None:
        raise RuntimeError("the app's own mistake")

    client = UsageClient(NOWHERE, "app/test", on_undelivered=fail, options=SOON)
    for _ in range(3):
        client.track_ai_usage("", "openai", "gpt-4o", 1, 1)
    client.close()
    assert client.stats() == Stats(invalid=3)
    lines = [record for record in caplog.records if "usage not delivered" in record.message]
    assert len(lines) == 1, "one line a minute, whatever the rate"


def test_counts_add_up_from_many_threads(client: UsageClient) -> None:
    def track() -> None:
        for number in range(500):
            client.track_compute_usage("acct-1", "bulk_operation", 1 if number % 5 else -1)

    threads = [threading.Thread(target=track) for _ in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    stats = client.stats()
    assert (stats.accepted, stats.invalid) == (3_200, 800)
    assert stats.tracked_ratio == 0.8
    assert adds_up(stats)


def test_flush_gives_up_at_its_time(client: UsageClient) -> None:
    assert client.flush(0.01)
    client.track_compute_usage("acct-1", "scheduled_task")
    began = time.monotonic()
    assert not client.flush(0.2)
    assert time.monotonic() - began < 30


def test_what_is_undelivered_at_the_end_waits_on_disk(tmp_path: Path) -> None:
    first = UsageClient(NOWHERE, "app/test", spill_directory=tmp_path, options=SOON)
    ids = [first.track_compute_usage("acct-1", "scheduled_task") for _ in range(10)]
    first.close()
    assert first.stats() == Stats(accepted=10, spilled=10)
    second = UsageClient(NOWHERE, "app/test", spill_directory=tmp_path, options=SOON)
    second.start()
    second.close()
    assert second.stats() == Stats(recovered=10, spilled=10)
    lines = [line for file in tmp_path.glob("*/*.jsonl") for line in file.read_text().splitlines()]
    assert [line.split('"id":"')[1].split('"')[0] for line in lines] == ids


def test_a_spill_that_cannot_be_made_leaves_the_client_working(tmp_path: Path) -> None:
    blocked = tmp_path / "file"
    blocked.write_text("")
    client = UsageClient(NOWHERE, "app/test", spill_directory=blocked, options=SOON)
    assert client.track_compute_usage("acct-1", "scheduled_task")
    client.close()
    assert client.stats().failed == 1


def test_events_are_what_the_rater_takes() -> None:
    moment = datetime(2026, 11, 21, 9, 0, 0, 123456, tzinfo=UTC)
    details = {
        "occurred_at": moment,
        "provider": "openai",
        "model": "gpt-4o",
        "power_level": "eco",
        "hold_id": "hold-1",
        "attributes": {"team": "support"},
    }
    event = build_event("app/chat", "acct-1", "event-1", "ai_chat_message", details)
    appended = int(moment.timestamp() * 1000)
    decoded = decode(encode(event), b"acct-1", appended, TimeWindow())
    assert decoded == event
    assert isinstance(decoded, UsageEvent)
    assert decoded.data.hold_id == "hold-1"


def test_identities_are_unique_and_sort_by_time() -> None:
    ids = [new_event_id() for _ in range(1_000)]
    time.sleep(0.002)
    assert new_event_id() > max(ids)
    assert len(set(ids)) == 1_000
    assert {len(event_id) for event_id in ids} == {32}


def test_an_account_has_the_partition_that_kafka_gives_it() -> None:
    # From Kafka's own UtilsTest.testMurmur2.
    known = {b"21": -973932308, b"foobar": -790332482, b"a-little-bit-long-string": -985981536}
    for key, murmur2 in known.items():
        assert partition_of(key, range(8), []) == (murmur2 & 0x7FFFFFFF) % 8
    assert partition_of(None, [3, 4], []) == 3


def test_the_buffer_gives_back_in_order() -> None:
    buffer = Buffer(4)
    for value in (b"1", b"2"):
        assert buffer.put((b"k", value))
    assert not buffer.half_full
    taken = buffer.take(5)
    assert buffer.put((b"k", b"3"))
    buffer.put_back(taken)
    assert buffer.half_full
    assert [value for _, value in buffer.take(5)] == [b"1", b"2", b"3"]
