"""The prices that the gate charges by: read beside the requests, and never in their way."""

import asyncio
import json
import time
from collections.abc import AsyncIterator
from contextlib import suppress
from dataclasses import replace
from datetime import UTC, datetime

import asyncpg
import httpx2
import pytest
from pydantic import TypeAdapter

from adapters.gate import HoldRequest
from adapters.gate_account import Spending
from adapters.gate_outcomes import Closed, Deducted, Denied
from adapters.gate_prices import PriceSource, SharedPrices
from adapters.idempotency import Key
from adapters.patience import Unavailable
from adapters.postgres import connect, open_pool
from adapters.price_store import load_history
from adapters.settings import Settings
from core.holds import Denial
from schemas.events import UsageEvent
from tests.apis import client, serve, with_tokens
from tests.batches import usage
from tests.gates import CREDIT, account, assert_sound, gate

ACME = "/api/v1/accounts/acme"
USAGE = {"usage": {"provider": "openai", "model": "gpt-4o", "tokens": {"input": 1000}}}
COST = "0.00375"
EVENT = TypeAdapter(UsageEvent)
# Each of these catalogs is another one, of as many models; each version begins a minute later.
MORE = """
    INSERT INTO price_version (effective_from, document, digest, published_by)
    SELECT now() - interval '1 day' + n * interval '1 minute',
           jsonb_set(document, '{catalog,source}', to_jsonb('genai-prices ' || n)), 'd' || n, 'test'
    FROM price_version, generate_series(1, $1::int) AS n WHERE price_version = 1
"""
BRANDNEW = {"action": "brandnew", "quantity": 3, "provider": "", "model": "", "tokens": {}}
PRICED = """
    INSERT INTO price_version (effective_from, document, digest, published_by)
    SELECT now() - interval '1 hour',
           jsonb_set(document, '{actions,brandnew}', '{"credits": "1"}'), 'p', 'test'
    FROM price_version WHERE price_version = 1
"""
DEARER = """
    INSERT INTO price_version (effective_from, document, digest, published_by)
    SELECT now() + $1::text::interval, jsonb_set(document, '{currencies,USD}', $2::jsonb),
           'd-' || $1, 'test' FROM price_version WHERE price_version = 1
"""


@pytest.fixture
async def connection(settings: Settings) -> AsyncIterator["asyncpg.Connection[asyncpg.Record]"]:
    made = await connect(settings, application_name="test")
    await account(made, "acme", 1_000 * CREDIT)
    yield made
    await assert_sound(made)
    await made.close()


async def tried(
    app: httpx2.AsyncClient, path: str, body: object = USAGE, tries_max: int = 60
) -> httpx2.Response:
    """The first answer that is none of trouble, or the last one."""
    for _ in range(tries_max):
        answer = await app.post(f"{ACME}{path}", json=body, headers={"Idempotency-Key": path})
        if answer.status_code != 503:
            break
    return answer


async def test_however_many_catalogs_were_published_a_usage_is_settled(
    settings: Settings, connection: asyncpg.Connection
) -> None:
    await connection.execute(MORE, 2)
    changed = with_tokens(settings, gate_seconds_max=0.9)
    async with serve(changed) as address, client(address, "app", "service") as app:
        assert (await tried(app, "/holds", {"credits": 1, "hold_id": "a"})).status_code == 201
        answer = await tried(app, "/holds/a/settle")
        assert (answer.status_code, answer.json()["charged"]) == (200, COST)
        await connection.execute(MORE.replace("genai-prices ", "later "), 10)
        assert (await tried(app, "/deduct")).json()["charged"] == COST
        assert (await tried(app, "/calculate-cost")).json()["credits"] == COST


async def test_a_charge_is_at_the_version_of_its_time_the_moment_that_is_published(
    settings: Settings, connection: asyncpg.Connection
) -> None:
    async with gate(settings) as entry:

        async def charged() -> int:
            event = EVENT.validate_json(
                json.dumps(usage("e", "acme") | {"time": datetime.now(UTC).isoformat()})
            )
            made = await entry.deduct(Spending("acme", "app", usage=event))
            assert isinstance(made, Deducted)
            return made.amount_micro

        assert await charged() == 3_750
        await connection.execute(DEARER, "-1 second", '[{"credits": "2"}]')
        assert await charged() == 7_500
        await connection.execute(DEARER, "1 hour", '[{"credits": "9"}]')
        assert await charged() == 7_500
        at_once = await asyncio.gather(*(charged() for _ in range(4)))
        assert set(at_once) == {7_500}
        await entry.prices.close()


async def test_a_version_is_parsed_once_and_only_newer_ones_are_read(
    connection: asyncpg.Connection,
) -> None:
    await connection.execute(MORE, 9)
    first = await load_history(connection)
    source = PriceSource()
    assert (await source.current(connection)).latest_version == 10
    await connection.execute(DEARER, "1 hour", '[{"credits": "9"}]')
    again = await source.current(connection)
    assert again.latest_version == 11
    for version in range(1, 11):
        known, later = first.numbered(version), again.numbered(version)
        assert known is not None
        assert later is not None
        assert known._catalog is later._catalog
    assert (await load_history(connection, again)).latest_version == 11


async def test_nobody_who_gives_up_ends_the_reading(
    settings: Settings, connection: asyncpg.Connection
) -> None:
    await connection.execute(MORE.replace("genai-prices ", "given up "), 3)
    async with open_pool(settings, application_name="tests", size=2) as pool:
        prices = SharedPrices(pool, 0.05)
        for _ in range(100):
            with suppress(Unavailable):
                await prices.read()
                break
        assert prices.ready
        assert (await prices.current(connection)).latest_version == 4
        await prices.close()


async def test_the_work_of_parsing_is_not_the_loops(
    settings: Settings, connection: asyncpg.Connection
) -> None:
    await connection.execute(MORE.replace("genai-prices ", "beside "), 3)
    async with open_pool(settings, application_name="tests", size=2) as pool:
        prices = SharedPrices(pool, 20)
        here, everywhere = time.thread_time(), time.process_time()
        await prices.read()
        here, everywhere = time.thread_time() - here, time.process_time() - everywhere
        await prices.close()
    assert everywhere > 0.1, "nothing was parsed"
    assert here < everywhere / 3


async def test_what_had_no_price_is_settled_with_the_same_key_once_it_has_one(
    settings: Settings, connection: asyncpg.Connection
) -> None:
    key = Key("app", "job-1", "settle", b"body")
    new = EVENT.validate_json(json.dumps(usage("e", "acme", **BRANDNEW)))
    spending = Spending("acme", "app", usage=replace(new, time=datetime.now(UTC)))
    async with gate(settings) as entry:
        await entry.hold(HoldRequest("acme", CREDIT, "app", "a"))
        no = await entry.settle("a", spending, key)
        assert isinstance(no, Denied)
        assert no.denial is Denial.UNPRICED
        await connection.execute(PRICED)
        done = [await entry.settle("a", spending, key) for _ in range(2)]
        assert isinstance(done[0], Closed)
        assert (done[0].charged_micro, done[1]) == (3 * CREDIT, done[0])
        await entry.prices.close()
