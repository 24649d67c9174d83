"""What a monthly cap counts: by the month of posting, and never back into a month that is over."""

import uuid
from collections.abc import AsyncIterator
from datetime import date
from urllib.parse import urlsplit, urlunsplit

import asyncpg
import pytest
from pydantic import SecretStr

from adapters.account_view import read_figures, read_profile
from adapters.accounts import read_account
from adapters.adjustments import Adjustment, adjust
from adapters.gate import Gate
from adapters.gate_account import Spending
from adapters.migrations import read_migrations
from adapters.postgres import connect
from adapters.queries import load
from adapters.settings import Settings
from stack.local import Stack
from tests.gates import CREDIT, account, gate
from tests.planted_corrections import plant_every_kind
from tests.planted_ledger import Batch, plant, run_sql

LEDGER = load("ledger")
NEXT_MONTH = "(date_trunc('month', now() AT TIME ZONE 'UTC') + interval '1 month')::date"
THIS_MONTH = "date_trunc('month', now() AT TIME ZONE 'UTC')::date"


@pytest.fixture
async def connection(settings: Settings) -> AsyncIterator["asyncpg.Connection[asyncpg.Record]"]:
    made = await connect(settings, application_name="test")
    await account(made, "acme", 1_000 * CREDIT)
    yield made
    await made.close()


@pytest.fixture
async def the_gate(settings: Settings) -> AsyncIterator[Gate]:
    async with gate(settings) as made:
        yield made


@pytest.fixture
async def empty(stack: Stack) -> AsyncIterator[Settings]:
    """Settings of a PostgreSQL database in which nothing is."""
    dsn = stack.environment()["TOLLGATE_POSTGRES"]
    name = f"empty_{uuid.uuid4().hex[:12]}"
    admin = await asyncpg.connect(dsn)
    await admin.execute(f'CREATE DATABASE "{name}"')
    yield Settings(
        postgres=SecretStr(urlunsplit(urlsplit(dsn)._replace(path=f"/{name}"))),
        topic_prefix=f"{name}.",
    )
    await admin.execute(f'DROP DATABASE "{name}" WITH (FORCE)')
    await admin.close()


async def spend(connection: asyncpg.Connection) -> tuple[date, int]:
    row = await connection.fetchrow("SELECT spend_month, spend_micro FROM account")
    return tuple(row)


async def test_a_new_month_begins_at_nothing(
    connection: asyncpg.Connection, the_gate: Gate
) -> None:
    await connection.execute("UPDATE account SET spend_month = '2020-02-01', spend_micro = 7")
    await the_gate.deduct(Spending("acme", "app", 3 * CREDIT))
    this_month = await connection.fetchval(f"SELECT {THIS_MONTH}")
    assert await spend(connection) == (this_month, 3 * CREDIT)
    await the_gate.deduct(Spending("acme", "app", 2 * CREDIT))
    assert await spend(connection) == (this_month, 5 * CREDIT)


async def test_who_comes_late_leaves_the_new_month_alone(
    connection: asyncpg.Connection, the_gate: Gate
) -> None:
    """A transaction that began before midnight and waited for the lock of one that began after."""
    month = await connection.fetchval(f"SELECT {NEXT_MONTH}")
    await connection.execute(
        "UPDATE account SET spend_month = $1, spend_micro = 7000000, monthly_cap_micro = 9000000",
        month,
    )
    await the_gate.deduct(Spending("acme", "app", CREDIT))
    async with connection.transaction():
        await connection.fetch(LEDGER.give_back, ["acme"], [CREDIT], "correction", "tests")
        await adjust(connection, Adjustment("acme", -CREDIT, "root", "why"))
    assert await spend(connection) == (month, 7 * CREDIT)
    assert not (await the_gate.check("acme", 3 * CREDIT)).sufficient
    shown = await read_profile(connection, "acme")
    assert shown is not None
    account = await read_account(connection, "acme", entries_max=0)
    [figures] = (await read_figures(connection))["tiers"]
    said = {shown.spent_micro, account["spent_micro"], figures["spent_micro"]}
    assert said == {7 * CREDIT}, "shown is what the gate decides by"


async def test_an_upgrade_finds_what_was_spent_before_it(empty: Settings) -> None:
    """The columns came empty; from 0006 on they are what the ledger says."""
    migrations = read_migrations()
    connection = await connect(empty, application_name="test", unlimited=True)
    try:
        for migration in migrations[:5]:
            await connection.execute(migration.sql)
        await plant(empty, Batch(300))
        await plant_every_kind(empty)
        expected = await spends(connection)
        assert len(set(expected)) > 3
        await run_sql(empty, "UPDATE account SET spend_micro = 0, spend_month = '1970-01-01'")
        assert await spends(connection) != expected
        await connection.execute(migrations[5].sql)
        assert await spends(connection) == expected
        assert await connection.fetch(load("verify").spend_findings) == []
    finally:
        await connection.close()


async def spends(connection: asyncpg.Connection) -> list[tuple[object, ...]]:
    rows = await connection.fetch("SELECT account_id, spend_micro FROM account ORDER BY account_id")
    return [tuple(row) for row in rows]
