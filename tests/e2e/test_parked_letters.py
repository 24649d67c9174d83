"""An event without a price waits, and is charged by itself once a version prices it: once."""

import asyncio
import json
import time
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from typing import Any

import asyncpg

from adapters.price_store import publish
from adapters.settings import Settings
from adapters.topics import offsets
from schemas.topics import USAGE_EVENTS
from tests.batches import usage
from tests.workers import Worker
from tests.workers import publish as send

WAIT_SECONDS_MAX = 40.0
LETTERS = 450
"""More than two transactions' worth."""
NOW = datetime.now(UTC)
STARTS_AT = NOW - timedelta(hours=1)


@dataclass(frozen=True)
class Sent:
    """An event on its way to the topic."""

    event: dict[str, Any]
    headers: tuple[tuple[str, bytes], ...] = ()

    @property
    def key(self) -> bytes:
        return str(self.event["subject"]).encode()

    @property
    def value(self) -> bytes:
        return json.dumps(self.event).encode()


def _unpriced(event_id: str, at: datetime, model: str = "new-1") -> Sent:
    event = usage(event_id, f"acct-{event_id[-1]}", provider="acme", model=model)
    return Sent(event | {"time": at.isoformat().replace("+00:00", "Z")})


@asynccontextmanager
async def _connected(
    settings: Settings,
) -> AsyncIterator["asyncpg.Connection[asyncpg.Record]"]:
    connection = await asyncpg.connect(settings.postgres.get_secret_value())
    try:
        yield connection
    finally:
        await connection.close()


async def _publish_model(connection: "asyncpg.Connection[asyncpg.Record]") -> int:
    """acme/new-1 at 2 dollars a million input tokens, since an hour."""
    text = await connection.fetchval("SELECT document FROM price_version WHERE price_version = 1")
    document = json.loads(text)
    prices = [{"usd_per_mtok": {"input": "2", "output": "2"}}]
    document["models"] = {"acme/new-1": {"prices": prices}}
    return await publish(connection, document, STARTS_AT, "tests", correction=True)


async def test_two_raters_charge_what_waited_once_at_the_price_of_its_time(
    settings: Settings, topics: dict[str, str], environment: dict[str, str]
) -> None:
    waiting = [_unpriced(f"e{n}", NOW) for n in range(LETTERS)]
    too_early = _unpriced("early", STARTS_AT - timedelta(seconds=1))
    unknown = _unpriced("never", NOW, "new-2")
    topic = topics[USAGE_EVENTS.name]
    async with _connected(settings) as connection:
        with Worker("rater", environment) as one, Worker("rater", environment) as two:
            await send(settings, topic, [*waiting, too_early, unknown])
            await _until(lambda: _letters(connection), LETTERS + 2)
            await _until(lambda: _metric(one), LETTERS + 2.0)
            version = await _publish_model(connection)
            await _until(lambda: connection.fetchval("SELECT count(*) FROM charge"), LETTERS)
            await _until(lambda: _metric(two), 2.0)
            await asyncio.sleep(2.5)  # a second look at the letters finds nothing to send
        rows = await connection.fetch(
            "SELECT DISTINCT price_version, rated_micro, rule FROM charge"
        )
        assert [tuple(row) for row in rows] == [(version, 3_000, "model:acme/new-1")]
        rows = await connection.fetch(
            "SELECT event_id, tried_version, model, detail FROM dead_letter"
            " WHERE requeued_at IS NULL ORDER BY 1"
        )
        assert [tuple(row)[:3] for row in rows] == [
            ("early", version, "acme/new-1"),
            ("never", version, "acme/new-2"),
        ]
        assert "acme/new-2" in rows[1]["detail"]
        assert "version 1" in rows[1]["detail"]
        log = await offsets(settings, topic)
        assert sum(end for _, end in log.values()) == 2 * LETTERS + 2, "each was sent again once"
        assert await connection.fetchval("SELECT sum(duplicate) FROM batch_outcome") == 0


async def _letters(connection: "asyncpg.Connection[asyncpg.Record]") -> int:
    count: int = await connection.fetchval(
        "SELECT count(*) FROM dead_letter WHERE reason = 'unpriced'"
    )
    return count


async def _metric(worker: Worker) -> float:
    """What it shows; -1 while it is still starting."""
    try:
        text = await asyncio.to_thread(worker.metrics)
    except OSError:
        return -1.0
    found = [line for line in text.splitlines() if line.startswith("tollgate_parked_letters{")]
    return float(found[0].rpartition(" ")[2]) if found else -1.0


async def _until(look: Callable[[], Awaitable[Any]], wanted: float) -> None:
    """Waits for exactly that answer."""
    deadline = time.monotonic() + WAIT_SECONDS_MAX
    while (found := await look()) != wanted:
        assert time.monotonic() < deadline, f"{found}, not {wanted}"
        await asyncio.sleep(0.1)
