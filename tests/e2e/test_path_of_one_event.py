"""The path of one event, as README.md tells it, with the figures at each stop."""

import asyncio
import time
from collections.abc import Awaitable, Callable
from typing import Any

import asyncpg

from adapters.settings import Settings
from producers.client import UsageClient
from producers.worker import Options
from schemas.topics import USAGE_EVENTS
from tests.commands import report
from tests.shipping import ask
from tests.workers import Worker

WELCOME_MICRO = 1_000_000_000
PRICE_MICRO = 3_750
"""1,000 input tokens of gpt-4o, balanced, tier free: 0.00375 credits."""
WAIT_SECONDS_MAX = 30.0


async def test_one_event_from_the_app_to_an_analysts_row(
    settings: Settings, topics: dict[str, str], environment: dict[str, str]
) -> None:
    with Worker("rater", environment), Worker("warehouse", environment):
        event_id = await _track(settings, topics[USAGE_EVENTS.name])
        connection = await asyncpg.connect(settings.postgres.get_secret_value())
        try:
            charge = await _until(
                lambda: connection.fetchrow("SELECT * FROM charge WHERE event_id = $1", event_id)
            )
            await _ledger_is_right(connection, charge)
        finally:
            await connection.close()
        rows = await _until(lambda: asyncio.to_thread(ask, settings, COPY))
    assert rows == [
        ("acct-1", event_id, PRICE_MICRO, WELCOME_MICRO - PRICE_MICRO, "model:openai/gpt-4o", 1000)
    ]
    assert ask(settings, "SELECT toString(credits) FROM usage") == [("0.00375",)]
    shown = await report(environment, "account", "show", "acct-1")
    assert shown["balance_micro"] == WELCOME_MICRO - PRICE_MICRO
    assert (await report(environment, "verify"))["exact"]


COPY = """
SELECT account_id, event_id, amount_micro, balance_after_micro, rule, input_tokens
FROM charge FINAL
"""


async def _track(settings: Settings, topic: str) -> str:
    """One call of the app; returns when Kafka has acknowledged it."""
    options = Options(topic=topic)
    async with UsageClient(settings.kafka, source="app/chat", options=options) as usage:
        event_id = usage.track_ai_usage("acct-1", "openai", "gpt-4o", 1000, 0)
        assert event_id is not None
        assert await usage.flush_async(WAIT_SECONDS_MAX)
        assert usage.stats().delivered == 1
    return event_id


async def _ledger_is_right(
    connection: "asyncpg.Connection[asyncpg.Record]", charge: asyncpg.Record
) -> None:
    assert (charge["account_id"], charge["offset"], charge["tier"]) == ("acct-1", 0, "free")
    assert (charge["rated_micro"], charge["amount_micro"]) == (PRICE_MICRO, PRICE_MICRO)
    account = await connection.fetchrow("SELECT * FROM account")
    assert account["balance_micro"] == charge["balance_after_micro"] == WELCOME_MICRO - PRICE_MICRO
    assert (account["overdraft_micro"], account["held_micro"]) == (0, 0)
    drawn = await connection.fetch(
        "SELECT source, remaining_micro, grant_draw.amount_micro, cause"
        " FROM grant_draw JOIN credit_grant USING (grant_id)"
    )
    outcome = await connection.fetchrow("SELECT * FROM batch_outcome")
    cause = f"batch:{outcome['batch_id']}"
    left_micro = WELCOME_MICRO - PRICE_MICRO
    assert [tuple(row) for row in drawn] == [("welcome", left_micro, PRICE_MICRO, cause)]
    booked = [
        outcome[name] for name in ("from_offset", "to_offset", "charged", "duplicate", "dead")
    ]
    assert booked == [0, 1, 1, 0, 0]
    assert outcome["partition"] == charge["partition"]
    stands = await connection.fetchval(
        "SELECT next_offset FROM stream_position WHERE partition = $1", charge["partition"]
    )
    assert stands == 1


async def _until(ask_once: Callable[[], Awaitable[Any]]) -> Any:
    """The first answer that is one."""
    deadline = time.monotonic() + WAIT_SECONDS_MAX
    while not (answer := await ask_once()):
        assert time.monotonic() < deadline, "nothing came"
        await asyncio.sleep(0.05)
    return answer
