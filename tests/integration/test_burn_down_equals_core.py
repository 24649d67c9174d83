"""Burn-down and its opposite exist twice, as pure definitions and as one statement each: here they
are held equal, alone and one after the other."""

import asyncio
from collections.abc import Sequence
from dataclasses import dataclass, replace
from datetime import UTC, datetime, timedelta

import asyncpg
from hypothesis import HealthCheck, given
from hypothesis import settings as hypothesis_settings
from hypothesis import strategies as st

from adapters.queries import load
from adapters.settings import Settings
from core.grants import Grant, burn_down, give_back

SQL = load("ledger")
NOW = datetime.now(UTC)
HOURS = st.one_of(st.none(), st.sampled_from([-48, -24, 24, 24, 48, 24 * 365]))
GRANT = st.tuples(
    st.integers(0, 3),  # priority
    HOURS,  # expiry, hours from now
    st.integers(0, 2),  # created, hours ago
    st.integers(1, 10**6),  # remaining
)
OFTEN = hypothesis_settings(
    max_examples=200, deadline=None, suppress_health_check=[HealthCheck.too_slow]
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


@dataclass
class Purse:
    """What the definitions say that an account has."""

    grants: list[Grant]
    overdraft_micro: int = 0

    def charge(self, amount_micro: int) -> None:
        burn = burn_down(self.grants, amount_micro, NOW)
        taken = dict(burn.draws)
        self.grants = [
            replace(grant, remaining_micro=grant.remaining_micro - taken.get(grant.grant_id, 0))
            for grant in self.grants
        ]
        self.overdraft_micro += burn.overdraft_micro

    def refund(self, amount_micro: int, grant_id: int | None) -> None:
        back = give_back(amount_micro, self.overdraft_micro)
        self.overdraft_micro = back.overdraft_micro
        assert (grant_id is None) == (back.remaining_micro == 0)
        if grant_id is not None:
            self.grants.append(Grant(grant_id, 100, None, NOW, back.remaining_micro))

    @property
    def figures(self) -> tuple[int, int, dict[int, int]]:
        """Balance, overdraft, and what is left of each grant."""
        left = {grant.grant_id: grant.remaining_micro for grant in self.grants}
        return sum(left.values()) - self.overdraft_micro, self.overdraft_micro, left


# Rounds of totals, one for each account: above nothing it is charged, below it is given back.
ROUNDS = st.integers(1, 3).flatmap(
    lambda count: st.tuples(
        st.lists(st.lists(GRANT, max_size=4), min_size=count, max_size=count),
        st.lists(
            st.lists(st.integers(-(10**6), 10**6), min_size=count, max_size=count), max_size=5
        ),
    )
)
STATE = """
SELECT account_id, balance_micro, overdraft_micro,
       (SELECT coalesce(array_agg(ARRAY[grant_id, remaining_micro]), '{}') FROM credit_grant AS g
        WHERE g.account_id = a.account_id) AS grants,
       (SELECT count(*) FROM credit_grant AS g WHERE g.account_id = a.account_id
        AND (amount_micro - remaining_micro <> coalesce((SELECT sum(amount_micro) FROM grant_draw
                 AS d WHERE d.grant_id = g.grant_id), 0)
             OR source = 'correction' AND (priority, granted_by, expires_at IS NULL)
                <> (100, 'tests', true))) AS wrong
FROM account AS a
"""


async def _compare_rounds(
    connection: "asyncpg.Connection[asyncpg.Record]",
    drawn: list[list[tuple[int, int | None, int, int]]],
    rounds: list[list[int]],
) -> None:
    grants = {f"a{n}": _grants(n, one) for n, one in enumerate(drawn)}
    purses = {name: Purse(list(own)) for name, own in grants.items()}
    transaction = connection.transaction()
    await transaction.start()
    try:
        await _store(connection, grants)
        await connection.execute("ALTER SEQUENCE credit_grant_grant_id_seq RESTART WITH 1000000")
        for totals in rounds:
            await _one_round(connection, purses, totals)
        for row in await connection.fetch(STATE):
            balance, overdraft, left = purses[row["account_id"]].figures
            assert (row["balance_micro"], row["overdraft_micro"]) == (balance, overdraft)
            assert {grant_id: micro for grant_id, micro in row["grants"]} == left  # noqa: C416
            assert row["wrong"] == 0
    finally:
        await transaction.rollback()


async def _one_round(
    connection: "asyncpg.Connection[asyncpg.Record]",
    purses: dict[str, Purse],
    totals: Sequence[int],
) -> None:
    by_name = dict(zip(purses, totals, strict=True))
    spent = {name: total for name, total in by_name.items() if total > 0}
    back = {name: -total for name, total in by_name.items() if total < 0}
    await connection.execute(SQL.burn_down, list(spent), list(spent.values()), "test")
    for name, amount_micro in spent.items():
        purses[name].charge(amount_micro)
    rows = await connection.fetch(
        SQL.give_back, list(back), list(back.values()), "correction", "tests"
    )
    given = {row["account_id"]: row["grant_id"] for row in rows}
    assert given.keys() == back.keys()
    for name, amount_micro in back.items():
        purses[name].refund(amount_micro, given[name])


def test_what_is_given_back_is_what_the_definition_gives_back(settings: Settings) -> None:
    with asyncio.Runner() as runner:
        connection = runner.run(asyncpg.connect(settings.postgres.get_secret_value()))

        @OFTEN
        @given(ROUNDS)
        def property_holds(
            drawn: tuple[list[list[tuple[int, int | None, int, int]]], list[list[int]]],
        ) -> None:
            runner.run(_compare_rounds(connection, *drawn))

        try:
            property_holds()
        finally:
            runner.run(connection.close())
