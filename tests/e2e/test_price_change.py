"""Prices change while 10,000 events a second flow through real workers: each event is charged at
the price of its own time, none is lost, and ClickHouse says the same.
"""

import asyncio
import json
import time
from collections import Counter
from datetime import UTC, datetime, timedelta
from random import Random
from typing import Any

import asyncpg
from aiokafka import AIOKafkaProducer

from adapters.price_store import publish
from adapters.settings import Settings
from schemas.topics import USAGE_EVENTS
from tests.commands import report
from tests.shipping import ask
from tests.workers import Worker, wait_applied

PER_SECOND = 10_000
LATE = 2_000
AHEAD_SECONDS = 4.0
"""How long before its start a version is published."""
IN_FORCE_SECONDS = 1.0
CORRECTED_SECONDS = 1.5
"""How long before the second version's start the correction begins; it ends there."""
TURN_SECONDS = 0.05
ACCOUNTS = 200
COPIED_SECONDS_MAX = 60.0
MODEL = "acme/steady"
MICRO_PER_DOLLAR = 1_500
"""1,000 input tokens at one dollar a million, one credit a dollar, x 1.5 on tier free."""

BY_VERSION = "SELECT price_version, count(*), sum(amount_micro) FROM charge GROUP BY 1 ORDER BY 1"


def _value(event_id: str, account_id: str, at: datetime) -> bytes:
    """By hand: the publisher shares two processors with everything else."""
    return (
        f'{{"specversion":"1.0","id":"{event_id}","source":"tests","type":"tollgate.usage.v1",'
        f'"subject":"{account_id}","time":"{at.isoformat()}","data":{{"provider":"acme",'
        '"model":"steady","tokens":{"input":1000}}}'
    ).encode()


class Flow:
    """Publishes at a rate; every tenth event is up to two seconds older than it arrives."""

    def __init__(self, producer: AIOKafkaProducer, topic: str) -> None:
        self._producer = producer
        self._topic = topic
        self._chance = Random(10)
        self.published = 0

    async def run(self, over: asyncio.Event) -> float:
        """Until told; returns events a second: fewer than asked for when the machine is slow."""
        began = time.monotonic()
        while not over.is_set():
            due = round((time.monotonic() - began) * PER_SECOND) - self.published
            await self.send("e", [self._moment() for _ in range(min(due, PER_SECOND))])
            await asyncio.sleep(TURN_SECONDS)
        await self._producer.flush()
        return self.published / (time.monotonic() - began)

    def _moment(self) -> datetime:
        late = self._chance.random() * 2 if self._chance.random() < 0.1 else 0.0
        return datetime.now(UTC) - timedelta(seconds=late)

    async def send(self, kind: str, moments: list[datetime]) -> None:
        """One event at each of these times, acknowledged by the time of the flush."""
        for moment in moments:
            account = f"acct-{self.published % ACCOUNTS}"
            value = _value(f"{kind}{self.published}", account, moment)
            await self._producer.send(self._topic, key=account.encode(), value=value)
            self.published += 1


class Prices:
    """The versions of the test: each is known by the dollars that it asks."""

    def __init__(self, settings: Settings) -> None:
        self._dsn = settings.postgres.get_secret_value()
        self.starts: dict[int, datetime] = {}
        self.known: dict[int, datetime] = {}
        """By PostgreSQL's clock, a moment at which the version was there for everybody."""
        self.dollars: dict[int, int] = {}

    async def ahead(self, dollars: int) -> int:
        """Publishes a version that starts in some seconds, and waits until it has started.

        As a correction, so that a busy machine on which it takes longer does not refuse it.
        """
        start = datetime.now(UTC) + timedelta(seconds=AHEAD_SECONDS)
        version = await self.publish(dollars, start, correction=True)
        rest = start - datetime.now(UTC)
        await asyncio.sleep(max(0.0, rest.total_seconds()) + IN_FORCE_SECONDS)
        return version

    async def publish(self, dollars: int, start: datetime, *, correction: bool = False) -> int:
        """A version with another price for the model, in force from `start`.

        In a thread of its own: the check of a book would hold up the flow.
        """
        publishing = self._publish(dollars, start, correction=correction)
        version, known = await asyncio.to_thread(asyncio.run, publishing)
        self.starts[version], self.known[version] = start, known
        self.dollars[version] = dollars
        return version

    def right(self, at: datetime, posted_at: datetime) -> set[int]:
        """What a charge of that time may carry, posted by a transaction that began at that time:
        one answer, unless some version became known while it ran.
        """
        versions = sorted(self.starts)
        surely = sum(self.known[version] < posted_at for version in versions)
        return {
            max((self.starts[v], v) for v in versions[:count] if self.starts[v] <= at)[1]
            for count in range(surely, len(versions) + 1)
        }

    async def _publish(
        self, dollars: int, start: datetime, *, correction: bool
    ) -> tuple[int, datetime]:
        connection = await asyncpg.connect(self._dsn)
        try:
            text = await connection.fetchval("SELECT document FROM price_version LIMIT 1")
            document = json.loads(text)
            prices = [{"usd_per_mtok": {"input": str(dollars), "output": "1"}}]
            document["models"] = {MODEL: {"prices": prices}}
            version = await publish(connection, document, start, "tests", correction=correction)
            return version, await connection.fetchval("SELECT clock_timestamp()")
        finally:
            await connection.close()


async def test_every_charge_carries_the_version_of_its_event_time(
    settings: Settings, topics: dict[str, str], environment: dict[str, str]
) -> None:
    connection = await asyncpg.connect(settings.postgres.get_secret_value())
    prices = Prices(settings)
    producer = AIOKafkaProducer(
        bootstrap_servers=settings.kafka, enable_idempotence=True, linger_ms=5,
        max_batch_size=128 * 1024, compression_type="lz4",
    )  # fmt: skip
    await producer.start()
    flow = Flow(producer, topics[USAGE_EVENTS.name])
    over = asyncio.Event()
    try:
        first = await prices.publish(1, datetime(2026, 1, 1, tzinfo=UTC), correction=True)
        with (
            Worker("rater", environment) as one,
            Worker("rater", environment),
            Worker("warehouse", environment),
        ):
            flowing = asyncio.create_task(flow.run(over))
            second, third = await prices.ahead(2), await prices.ahead(3)
            corrected = prices.starts[second] - timedelta(seconds=CORRECTED_SECONDS)
            fourth = await prices.publish(4, corrected, correction=True)
            step = timedelta(seconds=CORRECTED_SECONDS) / LATE
            await flow.send("late", [corrected + step * n for n in range(LATE)])
            over.set()
            per_second = await flowing
            lag = await wait_applied(settings, flow.published, seconds_max=90, worker=one)
            await _copied(settings, flow.published)
        figures = await _check(connection, prices, (first, second, third, fourth))
        assert sum(figures.values()) == flow.published
        ledger = [tuple(row) for row in await connection.fetch(BY_VERSION)]
        assert ask(settings, BY_VERSION.replace("charge", "charge FINAL")) == ledger
        assert (await report(environment, "verify"))["exact"]
    finally:
        over.set()
        await producer.stop()
        await connection.close()
    print(  # noqa: T201 - the figures of the run
        f"\n{flow.published} events at {per_second:,.0f}/s, applied {lag:.1f} s after the last; "
        f"charges by version {dict(sorted(figures.items()))}"
    )


async def _check(
    connection: "asyncpg.Connection[asyncpg.Record]",
    prices: Prices,
    versions: tuple[int, int, int, int],
) -> Counter[int]:
    """Charges by version; each is right for the event's time and what was known then."""
    rows = await connection.fetch(
        "SELECT event_id, occurred_at, posted_at, price_version, amount_micro FROM charge"
    )
    wrong: list[Any] = []
    found: Counter[int] = Counter()
    for row in rows:
        version = row["price_version"]
        right = prices.right(row["occurred_at"], row["posted_at"])
        if version not in right or row["amount_micro"] != _micro(prices, version):
            wrong.append((dict(row), right))
        found[version] += 1
        if row["event_id"].startswith("late"):
            assert version == versions[-1]
    assert not wrong, wrong[:3]
    assert set(found) == set(versions)
    return found


def _micro(prices: Prices, version: int) -> int:
    return prices.dollars[version] * MICRO_PER_DOLLAR


async def _copied(settings: Settings, rows: int) -> None:
    deadline = time.monotonic() + COPIED_SECONDS_MAX
    while True:
        ((found,),) = await asyncio.to_thread(ask, settings, "SELECT count() FROM charge FINAL")
        if found == rows:
            return
        assert time.monotonic() < deadline, f"{found} of {rows} rows are in ClickHouse"
        await asyncio.sleep(0.3)
