"""A gate on the test's database, and accounts with credits for it."""

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import asyncpg

from adapters.accounts import GrantRequest, create_account, give
from adapters.gate import Gate, Rules
from adapters.postgres import open_pool
from adapters.settings import Settings
from core.holds import Limits

CREDIT = 1_000_000
LIMITS = Limits(minimum_micro=10 * CREDIT, open_holds_max=1_000)


@asynccontextmanager
async def gate(
    settings: Settings, *, limits: Limits = LIMITS, seconds_max: float = 20.0, size: int = 8
) -> AsyncIterator[Gate]:
    """Patient, so that a crowded machine is no finding; a test of patience says `seconds_max`."""
    async with open_pool(settings, application_name="gate", size=size) as pool:
        yield Gate(pool, Rules(limits, seconds_max=seconds_max))


async def account(
    connection: "asyncpg.Connection[asyncpg.Record]", account_id: str, credits_micro: int
) -> None:
    """An account with one grant of that size."""
    await create_account(connection, account_id, tier="free", demo=False, welcome=None)
    await give(connection, GrantRequest(account_id, credits_micro, actor="test"))


async def assert_sound(connection: "asyncpg.Connection[asyncpg.Record]") -> None:
    """What must hold for every account after every step; the findings name the account."""
    found = await connection.fetch(
        """
        SELECT account_id,
               balance_micro - (coalesce(left_micro, 0) - overdraft_micro) AS grants_off,
               balance_micro - coalesce(booked_micro, 0) + coalesce(charged_micro, 0)
                   AS ledger_off,
               held_micro - coalesce(open_micro, 0) AS held_off
        FROM account
        LEFT JOIN (SELECT account_id, sum(remaining_micro) AS left_micro
                   FROM credit_grant GROUP BY 1) AS g USING (account_id)
        LEFT JOIN (SELECT account_id, sum(amount_micro) AS booked_micro
                   FROM credit_transaction WHERE status = 'COMPLETED' GROUP BY 1) AS t
            USING (account_id)
        LEFT JOIN (SELECT account_id, sum(amount_micro) AS charged_micro
                   FROM charge GROUP BY 1) AS c USING (account_id)
        LEFT JOIN (SELECT account_id, sum(amount_micro) AS open_micro
                   FROM credit_hold WHERE state = 'open' GROUP BY 1) AS h USING (account_id)
        """
    )
    off = [dict(row) for row in found if row["grants_off"] or row["ledger_off"] or row["held_off"]]
    assert off == []
