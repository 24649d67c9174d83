"""What the demo reads from the stores: progress, totals, latencies."""

import asyncio
import time
import uuid
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

from adapters import clickhouse
from adapters.postgres import Connection
from adapters.queries import load
from adapters.settings import Settings
from adapters.topics import offsets
from producers.client import UsageClient
from producers.worker import Options
from schemas.topics import USAGE_EVENTS

SQL = load("demo")
ANALYTICS = load("demo", "clickhouse")
CANARY_ACCOUNT = "canary"
CANARY_PAUSE_SECONDS = 0.2
BALANCE_POLL_SECONDS = 0.005
COPY_POLL_SECONDS = 0.05


@dataclass(frozen=True, slots=True)
class Progress:
    """Offsets of the topic: published, applied to balances, and readable in ClickHouse."""

    published: int
    applied: int
    copied: int

    def since(self, before: "Progress") -> "Progress":
        """What has happened after an earlier moment."""
        return Progress(
            self.published - before.published,
            self.applied - before.applied,
            self.copied - before.copied,
        )


async def read_progress(connection: Connection, settings: Settings) -> Progress:
    """Asks Kafka and PostgreSQL."""
    topic = settings.topic_prefix + USAGE_EVENTS.name
    log = await offsets(settings, topic)
    row = await connection.fetchrow(SQL.progress, topic)
    assert row is not None  # noqa: S101 - SELECT without FROM gives one row
    published = sum(end - beginning for beginning, end in log.values())
    return Progress(published, row["applied"], row["copied"])


async def read_totals(connection: Connection, settings: Settings) -> dict[str, int]:
    """Everything booked so far."""
    row = await connection.fetchrow(SQL.totals, settings.topic_prefix + USAGE_EVENTS.name)
    assert row is not None  # noqa: S101 - an aggregate gives one row
    return dict(row)


def read_analytics(settings: Settings) -> dict[str, list[Sequence[Any]]]:
    """The top accounts and models, from ClickHouse."""
    with clickhouse.connect(settings) as client:
        return {
            "accounts": list(client.query(ANALYTICS.top_accounts).result_rows),
            "models": list(client.query(ANALYTICS.top_models).result_rows),
        }


@dataclass(slots=True)
class Latencies:
    """Seconds from the call of the client to the moved balance, and to the row in ClickHouse."""

    balance_seconds: list[float] = field(default_factory=list)
    clickhouse_seconds: list[float] = field(default_factory=list)

    def document(self) -> dict[str, float]:
        """Median, 99th percentile and maximum of both, in seconds."""
        return {
            f"{name}_{label}": round(percentile(values, share), 3)
            for name, values in (
                ("balance", self.balance_seconds),
                ("clickhouse", self.clickhouse_seconds),
            )
            for label, share in (("p50", 0.5), ("p99", 0.99), ("max", 1.0))
        }


def percentile(values: list[float], share: float) -> float:
    """The smallest value that at least `share` of all values do not exceed; 0 without values."""
    if not values:
        return 0.0
    ordered = sorted(values)
    return ordered[min(len(ordered) - 1, max(0, -int(-share * len(ordered) // 1) - 1))]


class Canary:
    """Sends single events through the client that apps use, and times their way to both stores."""

    def __init__(self, settings: Settings, connection: Connection) -> None:
        self._settings = settings
        self._connection = connection
        self._sent: dict[str, float] = {}
        self._uncharged: set[str] = set()
        self._uncopied: set[str] = set()
        self.latencies = Latencies()

    async def fly(self, events: int) -> Latencies:
        """Tracks `events` events, one after the other, and waits until ClickHouse has them all."""
        options = Options(topic=self._settings.topic_prefix + USAGE_EVENTS.name)
        client = UsageClient(self._settings.kafka, "tollgate-demo", options=options)
        async with client, asyncio.TaskGroup() as group:
            group.create_task(self._send(client, events))
            group.create_task(self._watch_balances(events))
            group.create_task(self._watch_clickhouse(events))
        return self.latencies

    async def _send(self, client: UsageClient, events: int) -> None:
        for _ in range(events):
            event_id = f"canary-{uuid.uuid4().hex}"
            self._uncharged.add(event_id)
            self._uncopied.add(event_id)
            self._sent[event_id] = time.monotonic()
            client.track_compute_usage(CANARY_ACCOUNT, "scheduled_task", event_id=event_id)
            await asyncio.sleep(CANARY_PAUSE_SECONDS)

    async def _watch_balances(self, events: int) -> None:
        while len(self.latencies.balance_seconds) < events:
            await asyncio.sleep(BALANCE_POLL_SECONDS)
            if not self._uncharged:
                continue
            rows = await self._connection.fetch(SQL.seen, CANARY_ACCOUNT, list(self._uncharged))
            self._arrived(self._uncharged, [row["event_id"] for row in rows], "balance_seconds")

    async def _watch_clickhouse(self, events: int) -> None:
        with clickhouse.connect(self._settings) as client:
            while len(self.latencies.clickhouse_seconds) < events:
                await asyncio.sleep(COPY_POLL_SECONDS)
                if not self._uncopied:
                    continue
                wanted = {"account_id": CANARY_ACCOUNT, "event_ids": list(self._uncopied)}
                answer = await asyncio.to_thread(client.query, ANALYTICS.seen, wanted)
                found = [row[0] for row in answer.result_rows]
                self._arrived(self._uncopied, found, "clickhouse_seconds")

    def _arrived(self, waiting: set[str], found: list[str], where: str) -> None:
        now = time.monotonic()
        for event_id in waiting & set(found):
            waiting.discard(event_id)
            getattr(self.latencies, where).append(now - self._sent[event_id])
