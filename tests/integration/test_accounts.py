"""Accounts and grants on a real PostgreSQL, through the command and beside it."""

import asyncio
from collections.abc import AsyncIterator
from datetime import UTC, datetime, timedelta

import asyncpg
import pytest

from adapters.accounts import GrantRequest, create_account, give, read_account
from adapters.failures import Failure
from adapters.postgres import connect
from adapters.settings import Settings
from core.grants import repay
from tests.commands import report, run_tollgate

CREDIT = 1_000_000


@pytest.fixture
async def connection(settings: Settings) -> AsyncIterator[asyncpg.Connection]:
    made = await connect(settings, application_name="test")
    yield made
    await made.close()


async def put(connection: asyncpg.Connection, *, overdraft_micro: int) -> None:
    await connection.execute(
        "INSERT INTO account (account_id, tier, balance_micro, overdraft_micro) "
        "VALUES ('acme', 'free', $1, $2)",
        -overdraft_micro,
        overdraft_micro,
    )


async def assert_consistent(connection: asyncpg.Connection) -> None:
    """The invariants of design.md that concern one account."""
    found = await connection.fetchrow(
        "SELECT balance_micro, overdraft_micro,"
        " (SELECT coalesce(sum(remaining_micro), 0) FROM credit_grant) AS grants,"
        " (SELECT coalesce(sum(amount_micro - remaining_micro), 0) FROM credit_grant) AS drawn,"
        " (SELECT coalesce(sum(amount_micro), 0) FROM grant_draw) AS draws "
        "FROM account"
    )
    assert found["balance_micro"] == found["grants"] - found["overdraft_micro"]
    assert found["drawn"] == found["draws"]


@pytest.mark.parametrize("overdraft_micro", [0, 1, 5 * CREDIT, 10 * CREDIT, 25 * CREDIT])
async def test_a_grant_repays_overdraft_first(
    connection: asyncpg.Connection, overdraft_micro: int
) -> None:
    await put(connection, overdraft_micro=overdraft_micro)
    granted = await give(connection, GrantRequest("acme", 10 * CREDIT, actor="test"))
    expected = repay(10 * CREDIT, overdraft_micro)
    account = await read_account(connection, "acme", entries_max=10)
    assert granted.repaid_micro == expected.repaid_micro
    assert granted.balance_after_micro == 10 * CREDIT - overdraft_micro
    assert account["balance_micro"] == granted.balance_after_micro
    assert account["overdraft_micro"] == expected.overdraft_micro
    left = [grant["remaining_micro"] for grant in account["grants"]]
    assert left == ([expected.remaining_micro] if expected.remaining_micro else [])
    assert account["entries"][0]["kind"] == "GRANT"
    assert account["entries"][0]["balance_after_micro"] == granted.balance_after_micro
    await assert_consistent(connection)


async def test_a_key_gives_once_however_often_and_wherever(
    settings: Settings, connection: asyncpg.Connection
) -> None:
    await put(connection, overdraft_micro=3 * CREDIT)
    request = GrantRequest("acme", 10 * CREDIT, actor="test", key="k-1")

    async def one() -> bool:
        own = await connect(settings, application_name="test")
        try:
            return (await give(own, request)).repeated
        finally:
            await own.close()

    answers = await asyncio.gather(*(one() for _ in range(5)))
    assert sorted(answers) == [False, True, True, True, True]
    again = await give(connection, request)
    assert (again.repeated, again.repaid_micro, again.balance_after_micro) == (
        True,
        3 * CREDIT,
        7 * CREDIT,
    )
    assert await connection.fetchval("SELECT count(*) FROM credit_transaction") == 1
    await assert_consistent(connection)


async def test_a_key_stands_for_one_grant_only(connection: asyncpg.Connection) -> None:
    await put(connection, overdraft_micro=0)
    await create_account(connection, "other", tier="free", demo=False, welcome=None)
    await give(connection, GrantRequest("acme", CREDIT, actor="test", key="k-1"))
    for account_id, amount_micro, priority in [
        ("acme", 2 * CREDIT, 100),
        ("acme", CREDIT, 5),
        ("other", CREDIT, 100),
    ]:
        request = GrantRequest(account_id, amount_micro, actor="test", priority=priority, key="k-1")
        with pytest.raises(Failure, match="stands for another grant"):
            await give(connection, request)
    assert await connection.fetchval("SELECT sum(balance_micro) FROM account") == CREDIT


async def test_the_same_key_for_two_accounts_at_once_is_refused_once(
    settings: Settings, connection: asyncpg.Connection
) -> None:
    await put(connection, overdraft_micro=0)
    await create_account(connection, "other", tier="free", demo=False, welcome=None)

    async def one(account_id: str) -> bool:
        own = await connect(settings, application_name="test")
        try:
            await give(own, GrantRequest(account_id, CREDIT, actor="test", key="k-1"))
        except Failure:
            return False
        finally:
            await own.close()
        return True

    assert sorted(await asyncio.gather(one("acme"), one("other"))) == [False, True]


async def test_grants_are_shown_in_the_order_they_are_burned(
    connection: asyncpg.Connection,
) -> None:
    await put(connection, overdraft_micro=0)
    soon, late = (datetime.now(UTC) + timedelta(days=days) for days in (1, 9))
    for name, priority, expires_at in [
        ("fourth", 100, None),
        ("third", 100, late),
        ("first", 1, None),
        ("second", 100, soon),
        ("fifth", 100, None),
    ]:
        await give(
            connection,
            GrantRequest(
                "acme", CREDIT, actor="test", priority=priority, expires_at=expires_at, reason=name
            ),
        )
    account = await read_account(connection, "acme", entries_max=2)
    order = [grant["notes"] for grant in account["grants"]]
    assert order == ["first", "second", "third", "fourth", "fifth"]
    assert [entry["detail"] for entry in account["entries"]] == ["fifth", "second"]


async def test_more_grants_than_are_shown_are_told_of_and_can_be_seen(
    connection: asyncpg.Connection, environment: dict[str, str]
) -> None:
    await put(connection, overdraft_micro=0)
    await connection.execute(
        "INSERT INTO credit_grant (account_id, source, granted_by, priority, amount_micro,"
        " remaining_micro) SELECT 'acme', 'grant', 'tests', n, 1, 1"
        " FROM generate_series(1, 1001) AS n"
    )
    shown = await run_tollgate(environment, "account", "show", "acme")
    assert "1,000 grants are shown: tollgate account show acme --grants-after 1000 goes on." in (
        shown.stdout.splitlines()
    )
    rest = await report(environment, "account", "show", "acme", "--grants-after", "1000")
    assert ([grant["priority"] for grant in rest["grants"]], rest["grants_next"]) == ([1_001], None)


async def test_an_account_by_command(environment: dict[str, str]) -> None:
    made = await report(environment, "account", "create", "acme", "--tier", "pro")
    assert made["balance_micro"] == 1_000 * CREDIT
    assert made["grants"][0]["source"] == "welcome"
    again = await run_tollgate(environment, "account", "create", "acme")
    assert again.returncode == 1
    assert "acme exists" in again.stderr
    bare = await report(environment, "account", "create", "bare", "--no-welcome", "--demo")
    assert (bare["balance_micro"], bare["demo"], bare["grants"]) == (0, True, [])
    wrong = await run_tollgate(environment, "account", "set", "acme", "--tier", "gold")
    assert wrong.returncode == 1
    assert "enterprise, free, pro" in wrong.stderr
    changed = await report(environment, "account", "set", "acme", "--tier", "free", "--demo")
    terms = {"account_id": "acme", "tier": "free", "demo": True, "monthly_cap_micro": None}
    assert changed == terms
    granted = await report(environment, "grant", "acme", "0.5", "--key", "k", "--reason", "a b")
    assert granted["balance_after_micro"] == 1_000_500_000
    shown = await run_tollgate(environment, "account", "show", "acme")
    assert "1,000.500000" in shown.stdout
    assert "demo: never charged" in shown.stdout
    nobody = await run_tollgate(environment, "account", "show", "nobody")
    assert nobody.returncode == 1
    assert nobody.stderr.count("\n") == 1
