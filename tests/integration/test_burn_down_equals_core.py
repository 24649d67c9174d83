"""Burn-down exists twice, as a pure definition and as one statement: here they are held equal."""

import asyncio
from datetime import UTC, datetime, timedelta

import asyncpg
from hypothesis import HealthCheck, given
from hypothesis import settings as hypothesis_settings
from hypothesis import strategies as st

from adapters.queries import load
from adapters.settings import Settings
from core.grants import Grant, burn_down

SQL = load("ledger")
NOW = datetime.now(UTC)
HOURS = st.one_of(st.none(), st.sampled_from([-48, -1, 1, 1, 24, 24 * 365]))
GRANT = st.tuples(
    st.integers(0, 3),  # priority
    HOURS,  # expiry, hours from now
    st.integers(0, 2),  # created, hours ago
    st.integers(1, 10**6),  # remaining
)
ACCOUNT = st.tuples(st.lists(GRANT, max_size=6), st.integers(1, 3 * 10**6))


def _grants(account: int, drawn: list[tuple[int, int | None, int, int]]) -> list[Grant]:
    return [
        Grant(
            grant_id=account * 100 + n,
            priority=priority,
            expires_at=None if hours is None else NOW + timedelta(hours=hours),
            created_at=NOW - timedelta(hours=age),
            remaining_micro=remaining,
        )
        for n, (priority, hours, age, remaining) in enumerate(drawn)
    ]


async def _store(
    connection: "asyncpg.Connection[asyncpg.Record]", accounts: dict[str, list[Grant]]
) -> None:
    for name, grants in accounts.items():
        total = sum(grant.remaining_micro for grant in grants)
        await connection.execute(
            "INSERT INTO account (account_id, tier, balance_micro) VALUES ($1, 'free', $2)",
            name,
            total,
        )
        for grant in grants:
            await connection.execute(
                "INSERT INTO credit_grant (grant_id, account_id, source, granted_by, priority, "
                "amount_micro, remaining_micro, expires_at, created_at) OVERRIDING SYSTEM VALUE "
                "VALUES ($1, $2, 'test', 'test', $3, $4, $4, $5, $6)",
                grant.grant_id,
                name,
                grant.priority,
                grant.remaining_micro,
                grant.expires_at,
                grant.created_at,
            )


async def _compare(
    connection: "asyncpg.Connection[asyncpg.Record]",
    drawn: list[tuple[list[tuple[int, int | None, int, int]], int]],
) -> None:
    accounts = {f"a{n}": _grants(n, grants) for n, (grants, _) in enumerate(drawn)}
    spent = {f"a{n}": amount for n, (_, amount) in enumerate(drawn)}
    transaction = connection.transaction()
    await transaction.start()
    try:
        await _store(connection, accounts)
        await connection.execute(SQL.burn_down, list(spent), list(spent.values()), "test")
        for name, grants in accounts.items():
            burn = burn_down(grants, spent[name], NOW)
            draws = {draw.grant_id: draw.amount_micro for draw in burn.draws}
            rows = await connection.fetch(
                "SELECT grant_id, remaining_micro, spent FROM credit_grant WHERE account_id = $1",
                name,
            )
            for row in rows:
                before = next(g.remaining_micro for g in grants if g.grant_id == row["grant_id"])
                left = before - draws.get(row["grant_id"], 0)
                assert (row["remaining_micro"], row["spent"]) == (left, left == 0)
            balance, overdraft = await connection.fetchrow(
                "SELECT balance_micro, overdraft_micro FROM account WHERE account_id = $1", name
            )
            total = sum(grant.remaining_micro for grant in grants)
            assert (balance, overdraft) == (total - spent[name], burn.overdraft_micro)
            assert balance == sum(row["remaining_micro"] for row in rows) - overdraft
        noted = await connection.fetch("SELECT grant_id, amount_micro FROM grant_draw")
        expected = [
            (draw.grant_id, draw.amount_micro)
            for name, grants in accounts.items()
            for draw in burn_down(grants, spent[name], NOW).draws
        ]
        assert sorted(map(tuple, noted)) == sorted(expected)
    finally:
        await transaction.rollback()


def test_the_statement_burns_what_the_definition_burns(settings: Settings) -> None:
    with asyncio.Runner() as runner:
        connection = runner.run(asyncpg.connect(settings.postgres.get_secret_value()))

        @OFTEN
        @given(st.lists(ACCOUNT, min_size=1, max_size=4))
        def property_holds(
            drawn: list[tuple[list[tuple[int, int | None, int, int]], int]],
        ) -> None:
            runner.run(_compare(connection, drawn))

        try:
            property_holds()
        finally:
            runner.run(connection.close())


OFTEN = hypothesis_settings(
    max_examples=200, deadline=None, suppress_health_check=[HealthCheck.too_slow]
)
