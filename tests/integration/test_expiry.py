"""Grants end: what is left is booked once, whatever runs at the same time."""

import asyncio
from collections.abc import AsyncIterator

import asyncpg
import pytest
from structlog.testing import capture_logs

from adapters.accounts import GrantRequest, create_account, give
from adapters.expiry import Expired, expire, preview
from adapters.postgres import connect
from adapters.settings import Settings
from tests.batches import desk, usage
from tests.gates import CREDIT, assert_sound


@pytest.fixture
async def connection(settings: Settings) -> AsyncIterator["asyncpg.Connection[asyncpg.Record]"]:
    made = await connect(settings, application_name="test")
    yield made
    await assert_sound(made)
    await made.close()


async def grants(connection: asyncpg.Connection, account_id: str, *amounts_micro: int) -> None:
    await create_account(connection, account_id, tier="free", demo=False, welcome=None)
    for amount_micro in amounts_micro:
        await give(connection, GrantRequest(account_id, amount_micro, actor="test"))


async def over(connection: asyncpg.Connection, *grant_ids: int) -> None:
    await connection.execute(
        "UPDATE credit_grant SET expires_at = now() - interval '1 hour' WHERE grant_id = ANY($1)",
        list(grant_ids),
    )


async def ran(connection: asyncpg.Connection) -> Expired:
    total = Expired()
    async for some in expire(connection, "scheduler"):
        total += some
    return total


async def test_what_is_left_is_booked_once(connection: asyncpg.Connection) -> None:
    await grants(connection, "acme", 10 * CREDIT, 20 * CREDIT, 30 * CREDIT)
    await grants(connection, "beta", 5 * CREDIT)
    await over(connection, 1, 3, 4)
    expected = Expired(3, 2, 45 * CREDIT)
    assert await preview(connection) == expected
    assert await ran(connection) == expected
    assert await ran(connection) == Expired()
    entries = await connection.fetch(
        "SELECT account_id, amount_micro, balance_after_micro FROM credit_transaction"
        " WHERE type = 'EXPIRY' ORDER BY transaction_id"
    )
    assert [tuple(entry) for entry in entries] == [
        ("acme", -10 * CREDIT, 50 * CREDIT),
        ("acme", -30 * CREDIT, 20 * CREDIT),
        ("beta", -5 * CREDIT, 0),
    ]


async def test_it_walks_through_more_accounts_than_one_transaction_takes(
    connection: asyncpg.Connection, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("adapters.expiry.ACCOUNTS_MAX", 3)
    for n in range(8):
        await grants(connection, f"acct{n}", CREDIT)
    await over(connection, *range(1, 9))
    assert await ran(connection) == Expired(8, 8, 8 * CREDIT)


async def test_two_runs_at_once_and_the_rater(
    settings: Settings, connection: asyncpg.Connection
) -> None:
    names = [f"acct{n}" for n in range(20)]
    for name in names:
        await grants(connection, name, 10 * CREDIT, CREDIT)
    await over(connection, *range(1, 41, 2))
    other = await connect(settings, application_name="other")
    try:
        async with desk(settings) as rater:
            await rater.open()
            first, second, *_ = await asyncio.gather(
                ran(connection),
                ran(other),
                rater.apply(*(usage("e1", name, tokens={"input": 800_000}) for name in names)),
            )
    finally:
        await other.close()
    assert first + second == Expired(20, 20, 200 * CREDIT)
    overdrafts = await connection.fetch("SELECT overdraft_micro FROM account")
    assert [row["overdraft_micro"] for row in overdrafts] == [2 * CREDIT] * 20


async def test_an_account_that_is_refused_stops_nobody_else(
    connection: asyncpg.Connection,
) -> None:
    for name in ("acme", "eve", "zoe"):
        await grants(connection, name, 10 * CREDIT)
    await over(connection, 1, 2, 3)
    put = "UPDATE account SET balance_micro = $1 WHERE account_id = 'eve'"
    await connection.execute(put, -(2**63) + 8)
    assert await ran(connection) == Expired(2, 2, 20 * CREDIT, refused=1)
    await connection.execute(put, 10 * CREDIT)
    assert await ran(connection) == Expired(1, 1, 10 * CREDIT)


async def test_a_defect_that_hits_everybody_fills_no_log(
    connection: asyncpg.Connection, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("adapters.halving.REFUSALS_LOGGED_MAX", 3)
    for number in range(5):
        await grants(connection, f"acct{number}", 10 * CREDIT)
    await over(connection, *range(1, 6))
    await connection.execute("UPDATE account SET balance_micro = $1", -(2**63) + 8)
    with capture_logs() as logged:
        assert await ran(connection) == Expired(refused=5)
    assert [line["account_id"] for line in logged] == ["acct0", "acct1", "acct2"]
    await connection.execute("UPDATE account SET balance_micro = $1", 10 * CREDIT)
    assert (await ran(connection)).accounts == 5
