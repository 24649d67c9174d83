"""The refresh's SQL against its definition, and each account once under kills and rivals."""

import asyncio
from collections.abc import AsyncIterator
from datetime import UTC, datetime, timedelta
from random import Random

import asyncpg
import pytest

from adapters.accounts import GrantRequest, create_account, give
from adapters.postgres import connect
from adapters.refresh import (
    RefreshedBatch,
    RefreshRun,
    count_due,
    enrol,
    refresh_due,
    refresh_these,
)
from adapters.settings import Settings
from core.refresh import PERIOD, Terms, next_due, refresh
from tests.gates import CREDIT, assert_sound

TERMS = Terms({"free": 1_000 * CREDIT, "pro": 20_000 * CREDIT})
ROLLING = Terms(TERMS.tier_micro, rollover_max_micro=300 * CREDIT)


@pytest.fixture
async def connection(settings: Settings) -> AsyncIterator["asyncpg.Connection[asyncpg.Record]"]:
    made = await connect(settings, application_name="test")
    yield made
    await assert_sound(made)
    await made.close()


async def accounts(connection: asyncpg.Connection, count: int, tier: str = "free") -> list[str]:
    """Accounts that are due since a minute."""
    names = [f"{tier}{n:05}" for n in range(count)]
    await connection.execute(
        "INSERT INTO account (account_id, tier) SELECT name, $2 FROM unnest($1::text[]) AS name",
        names,
        tier,
    )
    await connection.execute(
        "INSERT INTO allowance (account_id, due_at)"
        " SELECT name, now() - interval '1 minute' FROM unnest($1::text[]) AS name",
        names,
    )
    return names


async def ran(
    connection: asyncpg.Connection, terms: Terms = TERMS, run_id: int = 1, size: int = 100
) -> RefreshedBatch:
    run = RefreshRun(run_id, "scheduler", "due", terms)
    batches = [batch async for batch in refresh_due(connection, run, size)]
    return RefreshedBatch(
        **{
            name: sum(batch.figures[name] for batch in batches) for name in RefreshedBatch().figures
        },
        failures=tuple(failure for batch in batches for failure in batch.failures),
    )


async def due_again(connection: asyncpg.Connection) -> None:
    await connection.execute("UPDATE allowance SET due_at = now() - interval '1 second'")


async def test_by_tier_and_the_own_amount_wins(connection: asyncpg.Connection) -> None:
    await accounts(connection, 2)
    await accounts(connection, 1, "pro")
    await accounts(connection, 1, "unknown")
    await connection.execute("UPDATE allowance SET custom_micro = 7 WHERE account_id = 'free00001'")
    expected = {tier.tier: tier.amount_micro for tier in await count_due(connection, TERMS)}
    assert expected == {"free": 1_000 * CREDIT + 7, "pro": 20_000 * CREDIT, "unknown": 0}
    assert await ran(connection) == RefreshedBatch(4, 3, 21_000 * CREDIT + 7, 0)
    assert await ran(connection) == RefreshedBatch()
    assert await count_due(connection, TERMS) == []
    found = await connection.fetch("SELECT account_id, balance_micro FROM account ORDER BY 1")
    assert [tuple(row) for row in found] == [
        ("free00000", 1_000 * CREDIT),
        ("free00001", 7),
        ("pro00000", 20_000 * CREDIT),
        ("unknown00000", 0),
    ]


@pytest.mark.parametrize("terms", [TERMS, ROLLING], ids=["replace", "rollover"])
async def test_the_sql_is_the_definition(connection: asyncpg.Connection, terms: Terms) -> None:
    """Random remainders, other grants and overdrafts, twice in a row."""
    chance = Random(7)
    names = await accounts(connection, 40)
    await ran(connection, terms)
    for n in range(3):
        for name in names:
            spent_micro = chance.choice((0, 1, 400, 999, 1_000, 1_500, 3_000)) * CREDIT
            if chance.random() < 0.3:
                await give(connection, GrantRequest(name, 50 * CREDIT, actor="test"))
            if spent_micro:
                await spend(connection, name, spent_micro)
        before = await state(connection)
        await due_again(connection)
        await ran(connection, terms, run_id=n + 2)
        after = await state(connection)
        for name in names:
            was = before[name]
            wanted = refresh(
                amount_micro=1_000 * CREDIT,
                left_micro=was["left_micro"],
                balance_micro=was["balance_micro"],
                overdraft_micro=was["overdraft_micro"],
                terms=terms,
            )
            found = after[name]
            assert found["balance_micro"] == wanted.balance_micro
            assert found["overdraft_micro"] == wanted.overdraft_micro
            assert found["left_micro"] == wanted.remaining_micro
            assert found["granted_micro"] == wanted.granted_micro
        await assert_sound(connection)


async def spend(connection: asyncpg.Connection, name: str, amount_micro: int) -> None:
    from adapters.queries import load  # noqa: PLC0415

    async with connection.transaction():
        await connection.execute(load("ledger").burn_down, [name], [amount_micro], "test")
        await connection.execute(
            "INSERT INTO credit_transaction"
            " (account_id, type, amount_micro, balance_after_micro, actor)"
            " SELECT $1, 'DEDUCT', -$2::bigint, balance_micro, 'test' FROM account"
            " WHERE account_id = $1",
            name,
            amount_micro,
        )


async def state(connection: asyncpg.Connection) -> dict[str, asyncpg.Record]:
    rows = await connection.fetch(
        "SELECT account_id, balance_micro, overdraft_micro, g.amount_micro AS granted_micro,"
        " g.remaining_micro AS left_micro FROM account JOIN allowance USING (account_id)"
        " JOIN credit_grant AS g USING (account_id, grant_id)"
    )
    return {row["account_id"]: row for row in rows}


@pytest.mark.parametrize("preferred", [None, 1, 15, 28, 31])
async def test_the_next_one_is_due_as_defined(
    connection: asyncpg.Connection, preferred: int | None
) -> None:
    names = await accounts(connection, 40)
    now = await connection.fetchval("SELECT now()")
    periods = {name: now - timedelta(days=2.37 * n, seconds=1 + n) for n, name in enumerate(names)}
    for name, period in periods.items():
        await connection.execute(
            "UPDATE allowance SET due_at = $2, preferred_day = $3 WHERE account_id = $1",
            name,
            period,
            preferred,
        )
    await ran(connection)
    rows = await connection.fetch("SELECT account_id, due_at, refreshed_at FROM allowance")
    for row in rows:
        wanted = next_due(periods[row["account_id"]], row["refreshed_at"], preferred)
        assert row["due_at"] == wanted, (periods[row["account_id"]], row["due_at"])


async def test_two_at_once_and_one_that_dies_refresh_each_account_once(
    settings: Settings, connection: asyncpg.Connection
) -> None:
    await accounts(connection, 1_000)
    rivals = [await connect(settings, application_name=f"rival{n}") for n in range(3)]
    victim = rivals[2]

    async def dies() -> None:
        run = RefreshRun(9, "victim", "due", TERMS)
        async for _ in refresh_due(victim, run, 50):
            break
        async with victim.transaction():
            await victim.fetch("SELECT * FROM allowance ORDER BY account_id LIMIT 50 FOR UPDATE")
            victim.terminate()
            raise ConnectionAbortedError

    try:
        *totals, error = await asyncio.gather(
            ran(rivals[0], run_id=1, size=37),
            ran(rivals[1], run_id=2, size=53),
            dies(),
            return_exceptions=True,
        )
        assert error is not None
        rest = await ran(connection, run_id=3)
    finally:
        for rival in rivals[:2]:
            await rival.close()
    done = [total for total in (*totals, rest) if isinstance(total, RefreshedBatch)]
    assert sum(total.refreshed for total in done) + 50 == 1_000
    assert await connection.fetchval("SELECT count(*) FROM refresh") == 1_000
    balances = await connection.fetch("SELECT DISTINCT balance_micro FROM account")
    assert [row["balance_micro"] for row in balances] == [1_000 * CREDIT]


async def test_a_period_is_answered_once_whatever_moves_the_due_time(
    connection: asyncpg.Connection,
) -> None:
    """The guard: without the unique key this would be a second allowance for the same period."""
    await accounts(connection, 1)
    period = await connection.fetchval("SELECT due_at FROM allowance")
    await ran(connection)
    await connection.execute("UPDATE allowance SET due_at = $1", period)
    [(account_id, refusal)] = (await ran(connection)).failures
    assert account_id == "free00000"
    assert "refresh_account_id_period_key" in refusal
    assert await connection.fetchval("SELECT balance_micro FROM account") == 1_000 * CREDIT


async def test_an_account_that_is_refused_stops_nobody_else(
    connection: asyncpg.Connection,
) -> None:
    """R5. Of 64 accounts three can not be refreshed: PostgreSQL refuses the whole batch."""
    names = await accounts(connection, 64)
    bad = [names[0], names[31], names[63]]
    await connection.execute(
        "UPDATE account SET balance_micro = 9223372036854775807 WHERE account_id = ANY($1)", bad
    )
    done = await ran(connection, size=64)
    assert (done.refreshed, done.failed) == (61, 3)
    assert [account_id for account_id, _ in done.failures] == bad
    assert all("out of range" in refusal for _, refusal in done.failures)
    await connection.execute("UPDATE account SET balance_micro = 0 WHERE account_id = ANY($1)", bad)
    assert (await ran(connection, run_id=2)).refreshed == 3


async def test_by_hand_before_it_is_due_the_thirty_days_begin_anew(
    connection: asyncpg.Connection,
) -> None:
    await accounts(connection, 1)
    await ran(connection)
    run = RefreshRun(2, "admin", "asked for", TERMS)
    [batch] = [done async for done in refresh_these(connection, run, ["free00000", "nobody"])]
    assert (batch.accounts, batch.refreshed) == (1, 1)
    row = await connection.fetchrow("SELECT due_at, refreshed_at FROM allowance")
    assert row["due_at"] == row["refreshed_at"] + PERIOD


async def test_a_first_deployment_is_spread_over_thirty_days(
    connection: asyncpg.Connection,
) -> None:
    await connection.execute(
        "INSERT INTO account (account_id, tier, created_at)"
        " SELECT 'old' || n, 'free', now() - interval '400 days' FROM generate_series(1, 3000) AS n"
    )
    await create_account(connection, "young", tier="free", demo=False, welcome=None)
    assert sum([count async for count in enrol(connection)]) == 3_001
    assert [count async for count in enrol(connection)] == []
    per_day = await connection.fetch(
        "SELECT floor(extract(epoch FROM due_at - now()) / 86400)::integer AS day, count(*) AS n"
        " FROM allowance WHERE account_id <> 'young' GROUP BY 1 ORDER BY 1"
    )
    days = {row["day"]: row["n"] for row in per_day}
    assert set(days) - {-1} == set(range(30))
    assert max(days.values()) < 2 * 3_000 / 30
    created_at, due_at = await connection.fetchrow(
        "SELECT created_at, due_at FROM account JOIN allowance USING (account_id)"
        " WHERE account_id = 'young'"
    )
    assert due_at == created_at + PERIOD


async def test_a_paused_account_waits(connection: asyncpg.Connection) -> None:
    await accounts(connection, 2)
    await connection.execute("UPDATE allowance SET paused = true WHERE account_id = 'free00000'")
    assert (await ran(connection)).refreshed == 1
    run = RefreshRun(2, "admin", "asked for", TERMS)
    by_hand = [batch async for batch in refresh_these(connection, run, ["free00000"])]
    assert by_hand == [RefreshedBatch(1, 1, 1_000 * CREDIT, 0)]


def test_the_definition_of_the_next_day_by_hand() -> None:
    period = datetime(2026, 1, 15, 9, tzinfo=UTC)
    assert next_due(period, period, None) == datetime(2026, 2, 14, 9, tzinfo=UTC)
    assert next_due(period, period, 15) == datetime(2026, 2, 15, 9, tzinfo=UTC)
    assert next_due(datetime(2026, 1, 31, tzinfo=UTC), period, 31) == datetime(
        2026, 2, 28, tzinfo=UTC
    )
    late = datetime(2026, 4, 1, tzinfo=UTC)
    assert next_due(period, late, None) == datetime(2026, 4, 15, 9, tzinfo=UTC)
