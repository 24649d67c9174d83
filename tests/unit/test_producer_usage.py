"""The helpers of the process: one client, from the environment or as configured; its metrics."""

import subprocess
import sys
from collections.abc import Iterator

import pytest
from prometheus_client.parser import text_string_to_metric_families

from producers import usage
from producers.client import UsageClient
from producers.metrics import exposition
from producers.worker import Options

NOWHERE = "127.0.0.1:1"


@pytest.fixture
def client() -> Iterator[UsageClient]:
    made = UsageClient(NOWHERE, "app/test", options=Options(exit_seconds_max=0.0))
    usage.configure(made)
    yield made
    made.close()


def test_the_helpers_use_the_configured_client(client: UsageClient) -> None:
    assert usage.track_ai_usage("acct-1", "openai", "gpt-4o", 10, 5, event_id="call-1") == "call-1"
    assert usage.track_compute_usage("acct-1", "scheduled_task", resource_id="post-7")
    assert usage.track_compute_usage("acct-1", "no such action") is None
    assert (client.stats().accepted, client.stats().invalid) == (2, 1)
    assert usage.stats() == client.stats()


def test_another_client_takes_over_and_the_first_is_closed(client: UsageClient) -> None:
    second = UsageClient(NOWHERE, "app/second", options=Options(exit_seconds_max=0.0))
    usage.configure(second)
    assert usage.track_compute_usage("acct-1", "scheduled_task")
    assert client.track_compute_usage("acct-1", "scheduled_task") is None
    assert second.stats().accepted == 1
    second.close()


def test_an_app_that_only_tracks_imports_little() -> None:
    program = "import producers.usage, sys; print(*sys.modules)"
    done = subprocess.run(
        [sys.executable, "-c", program], capture_output=True, text=True, timeout=30, check=True
    )
    loaded = {name.partition(".")[0] for name in done.stdout.split()}
    heavy = {"asyncpg", "clickhouse_connect", "faststream", "prometheus_client", "genai_prices"}
    assert not loaded & (heavy | {"adapters", "core", "consumers", "pydantic_settings"})


def test_the_default_client_is_configured_by_the_environment() -> None:
    program = """
from producers import usage
usage.track_compute_usage("acct-1", "scheduled_task")
client = usage.default_client()
print(client._servers, client._source, client._options.topic, client._spill_directory)
client.close(0)
"""
    done = subprocess.run(
        [sys.executable, "-c", program],
        env={
            "TOLLGATE_KAFKA": NOWHERE,
            "TOLLGATE_TOPIC_PREFIX": "blue.",
            "TOLLGATE_SOURCE": "app/blue",
        },
        capture_output=True,
        text=True,
        timeout=30,
        check=True,
    )
    assert done.stdout.split() == [NOWHERE, "app/blue", "blue.usage.events", "None"]


def test_counts_reach_prometheus(client: UsageClient) -> None:
    client.track_compute_usage("acct-1", "scheduled_task")
    client.track_compute_usage("", "scheduled_task")
    families = {
        family.name: {tuple(s.labels.values()): s.value for s in family.samples}
        for family in text_string_to_metric_families(exposition(client.stats()))
    }
    events = families["tollgate_client_events"]
    assert {outcome: value for (outcome,), value in events.items() if value} == {
        "accepted": 1,
        "invalid": 1,
    }
    assert families["tollgate_client_waiting"] == {("buffered",): 1, ("spilled",): 0}
