"""A hold is decided twice: by core/holds.py, and by the statement that makes those that are plainly
allowed. The statement is never laxer, and no stricter where all tiers have the same limits.
"""

import asyncio
from collections.abc import Iterator
from contextlib import contextmanager

import asyncpg
import pytest
from hypothesis import HealthCheck, given
from hypothesis import settings as hypothesis_settings
from hypothesis import strategies as st

from adapters.gate import Rules
from adapters.gate_outcomes import Held, from_text
from adapters.postgres import connect
from adapters.queries import load
from adapters.settings import Settings
from core.holds import Funds, Limits, may_hold

SQL = load("gate")
EDGE = st.sampled_from([0, 1, 9, 10, 11, 99, 100, 101])
CAP = st.one_of(st.none(), EDGE)
CASE = st.tuples(EDGE, EDGE, EDGE, CAP, EDGE, st.integers(0, 3), CAP, st.integers(1, 101))
OFTEN = hypothesis_settings(
    max_examples=20, deadline=None, suppress_health_check=[HealthCheck.too_slow]
)
ACCOUNTS = """
INSERT INTO account (account_id, tier, balance_micro, held_micro, monthly_cap_micro, spend_month,
                     spend_micro)
VALUES ($1, 'free', $2, $3, $4, date_trunc('month', now() AT TIME ZONE 'UTC')::date, $5)
"""
EXPIRED = """
INSERT INTO credit_grant (account_id, source, granted_by, amount_micro, remaining_micro, expires_at)
SELECT $1, 'grant', 'test', $2::bigint, $2::bigint, now() - interval '1 hour' WHERE $2::bigint > 0
"""
OPEN = """
INSERT INTO credit_hold (hold_id, account_id, amount_micro)
SELECT $1::text || '-' || n, $1::text, 1 FROM generate_series(1, $2) AS n
"""
Case = tuple[int, int, int, int | None, int, int, int | None, int]


async def _hold(
    connection: "asyncpg.Connection[asyncpg.Record]", name: str, amount: int, limits: Limits
) -> Held | None:
    made = (f"hold-{name}", name, amount, "hold", "test", "", 60)
    bounds = (limits.minimum_micro, limits.open_holds_max, limits.cap_micro)
    keyless = (None, None, None, None)
    reply = await connection.fetchval(SQL.hold_at_once, *made, *bounds, *keyless)
    made = None if reply is None else from_text(reply)
    assert made is None or isinstance(made, Held)
    return made


async def _compare(connection: "asyncpg.Connection[asyncpg.Record]", drawn: list[Case]) -> None:
    transaction = connection.transaction()
    await transaction.start()
    try:
        for n, (balance, held, over, cap, spent, held_open, tier_cap, amount) in enumerate(drawn):
            name = f"a{n}"
            limits = Limits(minimum_micro=10, open_holds_max=2, cap_micro=tier_cap)
            await connection.execute(ACCOUNTS, name, balance, held, cap, spent)
            await connection.execute(EXPIRED, name, over)
            await connection.execute(OPEN, name, held_open)
            funds = Funds(balance, held, over, limits.cap_of(cap), spent, held_open)
            found = await _hold(connection, name, amount, limits)
            denial = may_hold(funds, amount, limits)
            assert (found is not None) == (denial is None), (funds, amount, denial)
            left = None if found is None else found.available_micro
            assert left in {None, funds.available_micro - amount}
            reserved = held + (amount if found else 0)
            held_now = "SELECT held_micro FROM account WHERE account_id = $1"
            assert await connection.fetchval(held_now, name) == reserved
    finally:
        await transaction.rollback()


@contextmanager
def connected(
    settings: Settings,
) -> Iterator[tuple[asyncio.Runner, "asyncpg.Connection[asyncpg.Record]"]]:
    with asyncio.Runner() as runner:
        connection = runner.run(connect(settings, application_name="test"))
        yield runner, connection
        runner.run(connection.close())


def test_the_statement_says_yes_exactly_when_core_does(settings: Settings) -> None:
    with connected(settings) as (runner, connection):

        @OFTEN
        @given(st.lists(CASE, min_size=1, max_size=20))
        def compare(drawn: list[Case]) -> None:
            runner.run(_compare(connection, drawn))

        compare()


@given(st.lists(st.tuples(EDGE, st.integers(1, 9), CAP), min_size=1, max_size=4), EDGE, EDGE, EDGE)
def test_what_the_strictest_limits_allow_every_tier_allows(
    tiers: list[tuple[int, int, int | None]], balance: int, spent: int, open_holds: int
) -> None:
    every = [Limits(*found) for found in tiers]
    rules = Rules(every[0], tiers={f"t{n}": limits for n, limits in enumerate(every[1:])})
    plain = rules.strictest
    if may_hold(Funds(balance, 0, 0, plain.cap_micro, spent, open_holds), 5, plain) is None:
        for limits in every:
            funds = Funds(balance, 0, 0, limits.cap_micro, spent, open_holds)
            assert may_hold(funds, 5, limits) is None


@pytest.mark.parametrize("amount", [0, -1])
async def test_nothing_and_less_is_never_held(settings: Settings, amount: int) -> None:
    connection = await connect(settings, application_name="test")
    await connection.execute(ACCOUNTS, "acme", 1_000, 0, None, 0)
    limits = Limits(minimum_micro=0, open_holds_max=9)
    assert await _hold(connection, "acme", amount, limits) is None
    assert await _hold(connection, "nobody", 5, limits) is None
    await connection.close()


async def test_a_connection_from_when_there_were_no_holds_finds_them_by_index(
    settings: Settings,
) -> None:
    connection = await connect(settings, application_name="test")
    try:
        # As it is until autovacuum comes by, which a new deployment waits for.
        await connection.execute("ALTER TABLE credit_hold SET (autovacuum_enabled = off)")
        await connection.execute(ACCOUNTS, "acme", 100, 0, None, 0)
        limits = Limits(0, 1_000)
        for n in range(8):  # after some times a kept plan is used as it is
            assert await _hold(connection, "acme", n + 1, limits) is not None
            await connection.execute("DELETE FROM credit_hold")
        await connection.execute(ACCOUNTS, "other", 0, 0, None, 0)
        await connection.execute(OPEN, "other", 5_000)
        before = await _rows_read(connection)
        assert await _hold(connection, "acme", 1, limits) is not None
        assert await _rows_read(connection) - before < 20
    finally:
        await connection.close()


async def _rows_read(connection: "asyncpg.Connection[asyncpg.Record]") -> int:
    """By index or without, of the tables that a hold looks at."""
    await connection.execute("SELECT pg_stat_force_next_flush()")
    found: int = await connection.fetchval(
        "SELECT ((SELECT sum(idx_tup_read) FROM pg_stat_user_indexes WHERE relname = ANY ($1))"
        " + (SELECT sum(seq_tup_read) FROM pg_stat_user_tables WHERE relname = ANY ($1)))::bigint",
        ["account", "credit_hold", "credit_grant"],
    )
    return found
