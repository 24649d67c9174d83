"""The statements of the jobs find their rows by index among many accounts and holds."""

from collections.abc import Iterator
from datetime import UTC, datetime

import asyncpg

from adapters.queries import load
from adapters.settings import Settings
from tests.integration.test_plans import ACCOUNT, Case, findings
from tests.planted_ledger import run_sql

HOLD = ("hold_id",)
_MANY = (
    """INSERT INTO account (account_id, tier)
    SELECT 'account ' || n, 'free' FROM generate_series(0, 19999) AS n""",
    """INSERT INTO credit_grant (account_id, source, granted_by, amount_micro, remaining_micro,
                                 spent, expires_at)
    SELECT 'account ' || n % 20000, 'tests', 'tests', 1, CASE WHEN n < 20000 THEN 1 ELSE 0 END,
           n >= 20000, CASE WHEN n % 50 = 0 THEN now() + (n - 400) * interval '1 minute' END
    FROM generate_series(0, 39999) AS n""",
    """INSERT INTO credit_transaction (account_id, type, amount_micro, balance_after_micro, actor,
                                       idempotency_key, created_at)
    SELECT 'account ' || n % 20000, 'GRANT', 1, 1, 'tests', CASE WHEN n % 9 = 0 THEN 'k' || n END,
           now() - (40000 - n) * interval '1 hour'
    FROM generate_series(0, 39999) AS n""",
    """INSERT INTO grant_draw (grant_id, cause, amount_micro)
    SELECT n % 20000 + 1, CASE WHEN n % 50 = 0 THEN 'repay:' ELSE 'batch:' END || n % 20000 + 1, 1
    FROM generate_series(0, 39999) AS n""",
    """INSERT INTO credit_hold (hold_id, account_id, amount_micro, touched_at, state, closed_at,
                                charged_micro)
    SELECT 'h' || n, 'account ' || n % 20000, 1, now() - n * interval '1 second',
           CASE WHEN n % 50 = 0 THEN 'open' ELSE 'released' END,
           CASE WHEN n % 50 > 0 THEN now() - (40000 - n) * interval '1 hour' END,
           CASE WHEN n % 50 > 0 THEN 0 END
    FROM generate_series(0, 39999) AS n""",
    """INSERT INTO credit_hold (hold_id, account_id, amount_micro, state, closed_at, charged_micro,
                                closed_by, report)
    SELECT 'r' || n, 'account ' || n % 20000, 1, 'settled', now(), 1, 'reconcile',
           CASE WHEN n % 10 = 0 THEN 'replaced' ELSE 'charged' END
    FROM generate_series(0, 39999) AS n""",
    """INSERT INTO allowance (account_id, due_at, grant_id)
    SELECT 'account ' || n, now() + (n - 200) * interval '2 minutes', n + 1
    FROM generate_series(0, 19999) AS n""",
    """INSERT INTO batch_outcome (batch_id, topic, partition, epoch, from_offset, to_offset,
                                  charged, duplicate, dead, posted_at)
    SELECT n, 'usage.events', 0, 1, n, n + 1, 1, 0, 0, now() - (20000 - n) * interval '1 hour'
    FROM generate_series(0, 19999) AS n""",
    "SELECT brin_summarize_new_values('credit_transaction_by_time')",
    "ANALYZE",
)


def _cases() -> Iterator[Case]:
    accounts = sorted(f"account {n}" for n in range(200))
    first = datetime(1970, 1, 1, tzinfo=UTC)
    due = datetime.now(UTC), first, "", 1_000
    yield Case("refresh", "lock_due", due, {"allowance_due": ("due_at", "account_id")})
    yield Case("refresh", "lock_these", (accounts, None), {"allowance_pkey": ACCOUNT})
    yield Case("refresh", "lock_named", (accounts,), {"allowance_pkey": ACCOUNT})
    yield Case(
        "refresh",
        "refresh_accounts",
        (accounts, ["free"], [1_000], 0, 1, "tests", "planned"),
        {
            "account_pkey": ACCOUNT,
            "allowance_pkey": ACCOUNT,
            "credit_grant_pkey": ("grant_id",),
        },
    )
    over = {"credit_grant_expiry": ("expires_at",)}
    yield Case("expiry", "accounts_with_expired_grants", ("", 200), over)
    yield Case("expiry", "preview", (), over)
    untouched = {"credit_hold_pending": ("touched_at",)}
    yield Case("reconcile", "pending", (600, first, "", 200), untouched)
    holds = [f"r{n}" for n in range(500)]
    marked = {"credit_hold_overtaken": ("account_id", "hold_id")}
    yield Case("reconcile", "overtaken", ("", "", 500), marked)
    yield Case("reconcile", "replace_reports", (holds, [1] * 500), {"credit_hold_pkey": HOLD})
    place = holds, accounts * 2 + accounts[:100], [1] * 500
    yield Case("ledger", "settle_holds", place, {"credit_hold_pkey": HOLD})
    by_time = {
        "credit_transaction_by_time": ("created_at",),
        "credit_hold_failed": ("closed_at",),
        "batch_outcome_posted": ("posted_at",),
    }
    yield Case("account_view", "status_figures", (), by_time)
    yield Case("account_view", "open_holds_page", (None, None, 200), untouched)


async def test_the_jobs_find_their_rows_by_index(settings: Settings) -> None:
    await run_sql(settings, *_MANY)
    assert await findings(settings, _cases()) == []
    plan = await _plan_of_a_key(settings)
    assert "credit_transaction_key" in plan
    assert "grant_draw_repaid" in plan
    assert "Seq Scan" not in plan


async def _plan_of_a_key(settings: Settings) -> str:
    """Its indexes leave out entries without a key and the draws of batches, which are most."""
    connection = await asyncpg.connect(settings.postgres.get_secret_value())
    try:
        await connection.execute("SET plan_cache_mode = force_generic_plan")
        await connection.execute(f"PREPARE found AS {load('accounts').find_by_key}")
        rows = await connection.fetch("EXPLAIN EXECUTE found ('k18')")
    finally:
        await connection.close()
    return "\n".join(row[0] for row in rows)
