"""Coupons, holds, keys, a rater, expiry and refresh on the same accounts at the same moment."""

import asyncio
from collections.abc import AsyncIterator
from datetime import UTC, datetime, timedelta

import asyncpg
import pytest

from adapters.accounts import GrantRequest, give
from adapters.coupons import NewCoupon, Redeemed, create_coupon, redeem
from adapters.expiry import expire
from adapters.gate import Gate, HoldRequest
from adapters.gate_account import Spending
from adapters.gate_outcomes import Deducted, Held
from adapters.idempotency import Key
from adapters.postgres import Pool, open_pool
from adapters.refresh import RefreshRun, refresh_due
from adapters.settings import Settings
from core.coupons import CouponKind
from core.refresh import Terms
from tests.batches import Desk, desk, usage
from tests.corrected import wrong
from tests.gates import CREDIT, account, gate

ACCOUNTS = [f"acct-{n:02}" for n in range(20)]
GIVEN, GONE, COUPON, ALLOWANCE = 100 * CREDIT, 5 * CREDIT, 10 * CREDIT, 5 * CREDIT
EVENT_MICRO = 37_500
BATCHES = 15


@pytest.fixture
async def rater(settings: Settings) -> AsyncIterator[Desk]:
    async with desk(settings) as made:
        await made.open()
        yield made


@pytest.fixture
async def pool(settings: Settings) -> AsyncIterator[Pool]:
    async with open_pool(settings, application_name="tests", size=8) as made:
        yield made


async def prepare(connection: "asyncpg.Connection[asyncpg.Record]") -> None:
    """100 credits each, 5 more that are over, an allowance that is due, and a coupon."""
    soon = datetime.now(UTC) + timedelta(hours=1)
    for name in ACCOUNTS:
        await account(connection, name, GIVEN)
        await give(connection, GrantRequest(name, GONE, "tests", priority=1, expires_at=soon))
    await connection.execute(
        "UPDATE credit_grant SET expires_at = now() WHERE expires_at IS NOT NULL"
    )
    await connection.execute(
        "INSERT INTO allowance (account_id, due_at)"
        " SELECT account_id, now() - interval '1 hour' FROM account"
    )
    coupon = NewCoupon("TEN", CouponKind.FIXED, "tests", amount_micro=COUPON, uses_max=10)
    await create_coupon(connection, coupon)


async def test_everything_at_once(
    settings: Settings, rater: Desk, pool: Pool, the_gate: Gate
) -> None:
    """Of 200 holds that fit once: one. Of 200 tries of 10 uses: ten. Of 50 calls by a key: one."""
    await prepare(rater.connection)

    async def tries(name: str) -> object:
        async with pool.acquire() as own, own.transaction():
            return await redeem(own, "TEN", name, "app")

    async def rates() -> None:
        for n in range(BATCHES):
            values = [usage(f"e{n}-{name}", name, tokens={"input": 10_000}) for name in ACCOUNTS]
            await rater.apply(*values, first=n * len(ACCOUNTS))

    async def expires() -> int:
        async with pool.acquire() as own:
            return sum([done.grants async for done in expire(own, "tests")])

    async def refreshes() -> int:
        run = RefreshRun(0, "tests", "due", Terms({"free": ALLOWANCE}))
        async with pool.acquire() as own:
            return sum([done.refreshed async for done in refresh_due(own, run, 3)])

    key = Key("app", "order-7", "deduct", b"")
    holds = [the_gate.hold(HoldRequest(ACCOUNTS[0], 60 * CREDIT, "app")) for _ in range(200)]
    deducts = [the_gate.deduct(Spending(ACCOUNTS[1], "app", CREDIT), key) for _ in range(50)]
    held, deducted, redeemed, expired, refreshed, _ = await asyncio.gather(
        asyncio.gather(*holds),
        asyncio.gather(*deducts),
        asyncio.gather(*(tries(name) for _ in range(10) for name in ACCOUNTS)),
        asyncio.gather(expires(), expires()),
        asyncio.gather(refreshes(), refreshes()),
        rates(),
    )
    assert sum(isinstance(outcome, Held) for outcome in held) == 1
    assert len({str(outcome) for outcome in deducted}) == 1
    assert isinstance(deducted[0], Deducted)
    winners = [outcome for outcome in redeemed if isinstance(outcome, Redeemed)]
    assert len(winners) == 10
    assert (sum(expired), sum(refreshed)) == (len(ACCOUNTS), len(ACCOUNTS))
    assert await wrong(rater) == []
    rows = await rater.connection.fetch(
        "SELECT account_id, balance_micro, overdraft_micro, held_micro, EXISTS ("
        "SELECT FROM coupon_redemption AS r WHERE r.account_id = account.account_id) AS lucky"
        " FROM account"
    )
    assert {row["account_id"]: row["balance_micro"] for row in rows} == {
        row["account_id"]: GIVEN
        + ALLOWANCE
        + COUPON * row["lucky"]
        - BATCHES * EVENT_MICRO
        - CREDIT * (row["account_id"] == ACCOUNTS[1])
        for row in rows
    }
    assert sum(row["lucky"] for row in rows) == 10
    assert sum(row["held_micro"] for row in rows) == 60 * CREDIT
    assert all(row["overdraft_micro"] == 0 for row in rows)


@pytest.fixture
async def the_gate(settings: Settings) -> AsyncIterator[Gate]:
    async with gate(settings) as made:
        yield made
