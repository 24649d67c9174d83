"""Coupons on a real PostgreSQL: limits hold under any concurrency, and what they give adds up."""

import asyncio
from collections.abc import AsyncIterator
from datetime import UTC, datetime, timedelta

import asyncpg
import pytest

from adapters.accounts import GrantRequest, Source
from adapters.coupons import (
    NewCoupon,
    Redeemed,
    create_coupon,
    disable_coupon,
    list_coupons,
    redeem,
    top_up,
)
from adapters.failures import Failure
from adapters.postgres import Pool, connect, open_pool
from adapters.settings import Settings
from core.coupons import CouponKind, CouponRefusal
from tests.gates import CREDIT, account, assert_sound


@pytest.fixture
async def connection(settings: Settings) -> AsyncIterator["asyncpg.Connection[asyncpg.Record]"]:
    made = await connect(settings, application_name="test")
    await account(made, "acme", 10 * CREDIT)
    yield made
    await assert_sound(made)
    await made.close()


@pytest.fixture
async def pool(settings: Settings) -> AsyncIterator[Pool]:
    async with open_pool(settings, application_name="tests", size=8) as made:
        yield made


def fixed(code: str = "WELCOME100", **changes: object) -> NewCoupon:
    return NewCoupon(code, CouponKind.FIXED, "admin", amount_micro=100 * CREDIT, **changes)  # type: ignore[arg-type]


async def tried(pool: Pool, account_id: str, code: str = "WELCOME100") -> object:
    async with pool.acquire() as own, own.transaction():
        return await redeem(own, code, account_id, "app")


async def test_ten_uses_under_two_hundred_tries(connection: asyncpg.Connection, pool: Pool) -> None:
    await create_coupon(connection, fixed(uses_max=10))
    names = [f"acct{n}" for n in range(200)]
    for name in names:
        await account(connection, name, CREDIT)
    outcomes = await asyncio.gather(*(tried(pool, name) for name in names))
    assert sum(isinstance(outcome, Redeemed) for outcome in outcomes) == 10
    assert outcomes.count(CouponRefusal.USED_UP) == 190
    assert (await list_coupons(connection, usable=False, coupons_max=5)).entries[0]["uses"] == 10
    total = await connection.fetchval("SELECT sum(balance_micro)::bigint FROM account")
    assert total == (10 + 200 + 10 * 100) * CREDIT


async def test_one_account_uses_it_once_however_often_it_tries(
    connection: asyncpg.Connection, pool: Pool
) -> None:
    await create_coupon(connection, fixed())
    outcomes = await asyncio.gather(*(tried(pool, "acme") for _ in range(50)))
    assert sum(isinstance(outcome, Redeemed) for outcome in outcomes) == 1
    assert outcomes.count(CouponRefusal.USED_BY_ACCOUNT) == 49


async def test_a_percentage_comes_with_the_purchase(connection: asyncpg.Connection) -> None:
    await create_coupon(
        connection, NewCoupon("SAVE50", CouponKind.PERCENTAGE, "admin", percent_micro=50_000_000)
    )
    purchase = GrantRequest("acme", 40 * CREDIT, "shop", source=Source.TOP_UP)
    async with connection.transaction():
        done = await top_up(connection, purchase, "SAVE50")
    assert isinstance(done, tuple)
    assert await connection.fetchval("SELECT balance_micro FROM account") == 70 * CREDIT
    kinds = await connection.fetch("SELECT type FROM credit_transaction ORDER BY transaction_id")
    assert [row["type"] for row in kinds] == ["GRANT", "TOP_UP", "COUPON"]


async def test_what_it_gives_repays_overdraft_first_and_ends(
    connection: asyncpg.Connection,
) -> None:
    await connection.execute(
        "INSERT INTO account (account_id, tier, balance_micro, overdraft_micro)"
        " VALUES ('poor', 'free', -5000000, 5000000)"
    )
    await connection.execute(
        "INSERT INTO credit_transaction"
        " (account_id, type, amount_micro, balance_after_micro, actor)"
        " VALUES ('poor', 'DEDUCT', -5000000, -5000000, 'test')"
    )
    await create_coupon(connection, fixed(grant_days=7))
    async with connection.transaction():
        done = await redeem(connection, "WELCOME100", "poor", "app")
    assert isinstance(done, Redeemed)
    assert (done.granted.repaid_micro, done.granted.balance_after_micro) == (
        5 * CREDIT,
        95 * CREDIT,
    )
    ends = await connection.fetchval(
        "SELECT expires_at - created_at FROM credit_grant WHERE source = 'coupon'"
    )
    assert ends == timedelta(days=7)


async def test_refusals(connection: asyncpg.Connection) -> None:
    await create_coupon(connection, fixed("OLD"))
    await connection.execute("UPDATE coupon SET expires_at = now() WHERE code = 'OLD'")
    await create_coupon(connection, fixed("GONE"))
    first = await disable_coupon(connection, "GONE")
    assert await disable_coupon(connection, "GONE") == first
    assert await redeem(connection, "OLD", "acme", "app") is CouponRefusal.EXPIRED
    assert await redeem(connection, "GONE", "acme", "app") is CouponRefusal.DISABLED
    assert await redeem(connection, "' OR 1=1", "acme", "app") is CouponRefusal.UNKNOWN
    assert await redeem(connection, "OLD", "nobody", "app") is None
    with pytest.raises(Failure, match="taken"):
        await create_coupon(connection, fixed("OLD"))
    with pytest.raises(Failure, match="no coupon"):
        await disable_coupon(connection, "NEVER")


@pytest.mark.parametrize(
    "wrong",
    [
        {"code": "a"},
        {"amount_micro": 0},
        {"percent_micro": 1},
        {"uses_max": 0},
        {"account_uses_max": 0},
        {"grant_days": 0},
        {"expires_at": datetime(2020, 1, 1, tzinfo=UTC)},
        {"kind": CouponKind.PERCENTAGE},
    ],
)
def test_a_coupon_that_could_not_be_used_is_not_made(wrong: dict[str, object]) -> None:
    good = {"code": "OK-1", "kind": CouponKind.FIXED, "actor": "admin", "amount_micro": CREDIT}
    with pytest.raises(Failure):
        NewCoupon(**{**good, **wrong})  # type: ignore[arg-type]
