"""Holds that nobody closed: what becomes of each, once, and that the ledger stays exact."""

import asyncio
import json
from collections.abc import AsyncIterator

import asyncpg
import pytest

from adapters.gate import Gate, HoldRequest
from adapters.gate_prices import PriceSource
from adapters.postgres import connect
from adapters.reconcile import Reconciled, preview, reconcile
from adapters.settings import Settings
from tests.gates import CREDIT, account, assert_sound, gate

AFTER_SECONDS = 300
USAGE = '{"provider":"openai","model":"gpt-4o","tokens":{"input":1000}}'
COST_MICRO = 3_750  # M1: 1,000 tokens of gpt-4o for a free account


@pytest.fixture
async def connection(settings: Settings) -> AsyncIterator["asyncpg.Connection[asyncpg.Record]"]:
    made = await connect(settings, application_name="test")
    yield made
    await assert_sound(made)
    await made.close()


async def ran(connection: asyncpg.Connection, run_id: int = 1) -> Reconciled:
    done = [part async for part in reconcile(connection, run_id, AFTER_SECONDS, PriceSource())]
    return Reconciled(
        **{name: sum(part.figures[name] for part in done) for name in Reconciled().figures}
    )


async def hold(gate: Gate, hold_id: str, *, usage: str | None = None, amount: int = 20) -> None:
    request = HoldRequest("acme", amount * CREDIT, "test", hold_id)
    await gate.hold(request)
    if usage is not None:
        await gate.extend("acme", hold_id, 0, usage=usage)


async def left_alone(
    connection: asyncpg.Connection, *, touched: str = "10 minutes", over: str = "1 second"
) -> None:
    await connection.execute(
        "UPDATE credit_hold SET touched_at = now() - $1::text::interval,"
        " expires_at = now() - $2::text::interval WHERE state = 'open'",
        touched,
        over,
    )


async def charge(connection: asyncpg.Connection, hold_id: str, amount_micro: int) -> None:
    """As the rater leaves it when the event was faster than the hold."""
    from adapters.queries import load  # noqa: PLC0415

    async with connection.transaction():
        await connection.execute(load("ledger").burn_down, ["acme"], [amount_micro], "batch:1")
        await connection.execute(
            """
            INSERT INTO charge (account_id, event_id, partition, epoch, "offset", occurred_at,
                payload_hash, price_version, rule, rated_micro, amount_micro, balance_after_micro,
                tier, demo, source, action, provider, model, power_level, input_tokens,
                cache_read_tokens, cache_write_tokens, output_tokens, reasoning_tokens,
                other_meters, quantity, own_key, hold_id, resource_id, attributes)
            SELECT 'acme', 'e-' || $1, 0, 1, 0, now(), 0, 1, 'flat', $2, $2, balance_micro, 'free',
                false, 't', 'chat', '', '', 'balanced', 0, 0, 0, 0, 0, '', 1, false, $1, '', ''
            FROM account WHERE account_id = 'acme'
            """,
            hold_id,
            amount_micro,
        )


async def states(connection: asyncpg.Connection) -> dict[str, tuple[str, int | None]]:
    rows = await connection.fetch("SELECT hold_id, state, charged_micro FROM credit_hold")
    return {row["hold_id"]: (row["state"], row["charged_micro"]) for row in rows}


async def test_each_hold_gets_what_it_deserves(
    settings: Settings, connection: asyncpg.Connection
) -> None:
    await account(connection, "acme", 1_000 * CREDIT)
    async with gate(settings) as entry:
        await hold(entry, "left")
        await hold(entry, "session", usage=USAGE)
        await hold(entry, "session-2", usage=USAGE)
        await hold(entry, "charged")
        await hold(entry, "unpriced", usage='{"provider":"nobody","model":"none","tokens":{}}')
        await left_alone(connection)
        await hold(entry, "fresh")
        await hold(entry, "early", amount=30)
    await connection.execute(
        "UPDATE credit_hold SET touched_at = now() - interval '10 minutes',"
        " expires_at = now() + interval '1 hour' WHERE hold_id = 'early'"
    )
    await charge(connection, "charged", 7 * CREDIT)
    assert await preview(connection, AFTER_SECONDS) == {
        "examined": 6,
        "over": 5,
        "reserved_micro": 130 * CREDIT,
        "replaced": 0,
    }
    assert await ran(connection) == Reconciled(
        examined=6,
        reconciled=3,
        failed=1,
        waiting=2,
        unpriced=1,
        charged_micro=2 * COST_MICRO,
        freed_micro=80 * CREDIT,
    )
    assert await states(connection) == {
        "left": ("expired", None),
        "session": ("settled", COST_MICRO),
        "session-2": ("settled", COST_MICRO),
        "charged": ("settled", 7 * CREDIT),
        "unpriced": ("open", None),
        "fresh": ("open", None),
        "early": ("open", None),
    }
    row = await connection.fetchrow("SELECT balance_micro, held_micro FROM account")
    assert row["balance_micro"] == 993 * CREDIT - 2 * COST_MICRO
    assert row["held_micro"] == 70 * CREDIT
    booked = await connection.fetch(
        "SELECT amount_micro, balance_after_micro, hold_id, metadata, actor FROM credit_transaction"
        " WHERE type = 'SETTLE' ORDER BY transaction_id"
    )
    assert [tuple(entry)[:3] for entry in booked] == [
        (-COST_MICRO, 993 * CREDIT - COST_MICRO, "session"),
        (-COST_MICRO, 993 * CREDIT - 2 * COST_MICRO, "session-2"),
    ]
    assert json.loads(booked[0]["metadata"]) == json.loads(USAGE)
    again = await ran(connection, 2)
    assert (again.reconciled, again.failed, again.charged_micro) == (0, 0, 0)


async def test_a_hold_is_left_when_it_is_touched_while_it_is_looked_at(
    settings: Settings, connection: asyncpg.Connection
) -> None:
    """The judgement is made again under the lock: a session that goes on is not cut off."""
    await account(connection, "acme", 1_000 * CREDIT)
    rival = await connect(settings, application_name="rival")
    async with gate(settings) as entry:
        await hold(entry, "session", usage=USAGE)
        await left_alone(connection)
        async with rival.transaction():
            await rival.execute("SELECT FROM account WHERE account_id = 'acme' FOR UPDATE")
            running = asyncio.create_task(ran(connection))
            await asyncio.sleep(0.3)
            await rival.execute("UPDATE credit_hold SET touched_at = clock_timestamp()")
        assert (await running).examined == 0
        assert (await states(connection))["session"] == ("open", None)
    await rival.close()


async def test_an_unpriced_session_does_not_hang_for_ever(
    settings: Settings, connection: asyncpg.Connection
) -> None:
    await account(connection, "acme", 1_000 * CREDIT)
    async with gate(settings) as entry:
        await hold(entry, "unread", usage="{}x")
        await left_alone(connection, touched="2 days", over="23 hours")
        assert (await ran(connection)).unpriced == 1
        await left_alone(connection, touched="2 days", over="25 hours")
        assert (await ran(connection)).failed == 1
    assert await connection.fetchval("SELECT held_micro FROM account") == 0


async def test_a_hold_that_needs_no_price_ends_when_the_prices_can_not_be_read(
    settings: Settings, connection: asyncpg.Connection
) -> None:
    await account(connection, "acme", 1_000 * CREDIT)
    await connection.execute(
        "INSERT INTO price_version (effective_from, document, digest, published_by)"
        " VALUES (now(), '{\"catalog\": {\"another\": \"release\"}}', 'none', 'test')"
    )
    async with gate(settings) as entry:
        await hold(entry, "left")
        await hold(entry, "session", usage=USAGE)
    await left_alone(connection, over="2 days")
    done = await ran(connection)
    assert (done.examined, done.failed, done.unpriced) == (2, 1, 1)
    assert await states(connection) == {"left": ("expired", None), "session": ("open", None)}


async def test_two_at_once_close_each_hold_once(
    settings: Settings, connection: asyncpg.Connection
) -> None:
    for n in range(20):
        await account(connection, f"a{n}", 100 * CREDIT)
    await connection.execute(
        "INSERT INTO credit_hold (hold_id, account_id, amount_micro, usage, touched_at, expires_at)"
        " SELECT 'h' || n, 'a' || n % 20, 1000, CASE WHEN n % 2 = 0 THEN $1 ELSE '' END,"
        " now() - interval '1 hour', now() - interval '1 minute'"
        " FROM generate_series(1, 1200) AS n",
        USAGE,
    )
    await connection.execute(
        "UPDATE account SET held_micro = 1000 * (SELECT count(*) FROM credit_hold AS h"
        " WHERE h.account_id = account.account_id)"
    )
    rival = await connect(settings, application_name="rival")
    first, second = await asyncio.gather(ran(connection, 1), ran(rival, 2))
    await rival.close()
    assert first.reconciled + second.reconciled == 600
    assert first.failed + second.failed == 600
    spent_micro = await connection.fetchval("SELECT 2000000000 - sum(balance_micro) FROM account")
    assert spent_micro == 600 * COST_MICRO
    assert await connection.fetchval("SELECT sum(held_micro) FROM account") == 0


async def test_demo_accounts_are_settled_for_nothing(
    settings: Settings, connection: asyncpg.Connection
) -> None:
    await account(connection, "acme", 1_000 * CREDIT)
    async with gate(settings) as entry:
        await hold(entry, "session", usage=USAGE)
    await connection.execute("UPDATE account SET demo = true")
    await left_alone(connection)
    done = await ran(connection)
    assert (done.reconciled, done.charged_micro) == (1, 0)
    assert await states(connection) == {"session": ("settled", 0)}


async def test_an_account_that_is_refused_stops_nobody_else(
    settings: Settings, connection: asyncpg.Connection
) -> None:
    """The charge of one of them would be a balance that no column holds."""
    names = ["acme", "beta", "eve", "zoe"]
    async with gate(settings) as entry:
        for name in names:
            await account(connection, name, 100 * CREDIT)
            for number in range(2):
                await entry.hold(HoldRequest(name, 20 * CREDIT, "t", f"{name}-{number}", "session"))
                await entry.extend(name, f"{name}-{number}", 0, usage=USAGE)
    await left_alone(connection)
    put = "UPDATE account SET balance_micro = $1, overdraft_micro = $2 WHERE account_id = 'eve'"
    await connection.execute(put, -(2**63) + 8, 2**63 - 8)
    for run_id in (1, 2):
        done = await ran(connection, run_id)
        assert (done.reconciled, done.refused) == (6 if run_id == 1 else 0, 1)
    assert {name for name, (state, _) in (await states(connection)).items() if state == "open"} == {
        "eve-0",
        "eve-1",
    }
    await connection.execute(put, 100 * CREDIT, 0)
    assert (await ran(connection, 3)).reconciled == 2
