"""Verify finds each kind of drift and names it; without drift it says exact."""

import json
import subprocess
import sys
from collections.abc import Sequence

import pytest

from adapters import clickhouse, copy_audit
from adapters.audit import Waiting, audit
from adapters.failures import Failure
from adapters.settings import Settings
from core.audit import Check
from tests.planted_corrections import Corrections, plant_corrections, plant_every_kind
from tests.planted_gifts import plant_gifts
from tests.planted_ledger import Batch, plant, run_sql
from tests.planted_reports import plant_reports
from tests.shipping import bench, found

CHARGED = """UPDATE charge
SET posted_at = now() - interval '90 days', amount_micro = amount_micro + 1
WHERE account_id = 'account 2' AND event_id = 'event-2'"""
REDEEMED_AGAIN = """INSERT INTO coupon_redemption
SELECT code, account_id, 2, base_micro, amount_micro, transaction_id FROM coupon_redemption"""
REFRESHED_AGAIN = """INSERT INTO refresh (account_id, period, tier, amount_micro, replaced_micro,
    balance_before_micro, balance_after_micro, grant_id, run_id, actor, reason)
SELECT account_id, period, tier, amount_micro, replaced_micro, balance_before_micro,
    balance_after_micro, grant_id, run_id, actor, reason FROM refresh"""

# By what, and what verify must say: the check, where, and numbers that are in the finding.
LEDGER_DRIFTS: list[tuple[Sequence[str], Check, str, str]] = [
    (
        ["UPDATE account SET balance_micro = balance_micro + 3 WHERE account_id = 'account 1'"],
        Check.BALANCE,
        "account 1",
        "balance 99",
    ),
    (["DELETE FROM charge WHERE event_id = 'event-6'"], Check.BALANCE, "account 1", "balance"),
    (["DELETE FROM charge WHERE event_id = 'event-6'"], Check.OUTCOMES, "epoch 1", "charged"),
    (
        ["DELETE FROM account WHERE account_id = 'account 2'"],
        Check.BALANCE,
        "account 2",
        "balance of no account",
    ),
    (
        ["UPDATE charge SET balance_after_micro = 7 WHERE event_id = 'event-6'"],
        Check.CHAIN,
        "account 1",
        "does not follow",
    ),
    (
        ["UPDATE account SET overdraft_micro = 4 WHERE account_id = 'account 1'"],
        Check.GRANTS,
        "account 1",
        "balance",
    ),
    (
        ["UPDATE credit_grant SET remaining_micro = 2 WHERE account_id = 'account 3'"],
        Check.DRAWS,
        "of account 3",
        "gone",
    ),
    (["DELETE FROM grant_draw WHERE grant_id = 1"], Check.DRAWS, "grant 1 of", "gone"),
    (
        ["INSERT INTO grant_draw (grant_id, cause, amount_micro) VALUES (999, 'x', 1)"],
        Check.DRAWS,
        "grant 999",
        "no such grant",
    ),
    (
        ["UPDATE account SET held_micro = 5 WHERE account_id = 'account 0'"],
        Check.HOLDS,
        "account 0",
        "held 5",
    ),
    (
        ["UPDATE account SET spend_micro = spend_micro + 1 WHERE account_id = 'account 1'"],
        Check.SPEND,
        "account 1",
        "spent",
    ),
    (
        ["UPDATE account SET spend_month = '2020-01-01' WHERE account_id = 'account 2'", CHARGED],
        Check.SPEND,
        "account 2",
        "spent",
    ),
    (
        ["UPDATE account SET spend_month = spend_month + 31 WHERE account_id = 'account 1'"],
        Check.SPEND,
        "account 1",
        "spent",
    ),
    (["UPDATE coupon SET uses = 2"], Check.COUPONS, "coupon PLANTED", "uses 2, 1 by one"),
    (
        ["UPDATE coupon SET uses = 2", REDEEMED_AGAIN],
        Check.COUPONS,
        "coupon PLANTED",
        "uses 2, 2 by one account",
    ),
    (
        ["DELETE FROM coupon_redemption", "UPDATE coupon SET uses = 0"],
        Check.COUPONS,
        "transaction",
        "70 of gifted",
    ),
    (["UPDATE coupon_redemption SET amount_micro = 7"], Check.COUPONS, "of gifted", ": 70 of"),
    (
        ["ALTER TABLE refresh DROP CONSTRAINT refresh_account_id_period_key", REFRESHED_AGAIN],
        Check.REFRESHES,
        "gifted for 20",
        "2 refreshes",
    ),
    (["UPDATE refresh SET amount_micro = 7"], Check.REFRESHES, "gifted", ": 50 of gifted"),
    (["UPDATE refresh SET account_id = 'account 2'"], Check.REFRESHES, "account 2", "of gifted"),
    (["DELETE FROM refresh"], Check.REFRESHES, "transaction", "50 of gifted"),
    (
        ["UPDATE credit_hold SET report = 'charged'"],
        Check.REPORTS,
        "hold given-up of reported",
        "1 reversals of 40",
    ),
    (
        ["UPDATE credit_hold SET charged_micro = 41 WHERE report = 'charged'"],
        Check.REPORTS,
        "hold kept of reported",
        "1 settlements of 40",
    ),
    (
        ["UPDATE credit_transaction SET amount_micro = 41 WHERE type = 'REVERSAL'"],
        Check.REPORTS,
        "hold given-up of reported",
        "1 reversals of 41",
    ),
    (
        ["UPDATE credit_transaction SET hold_id = 'no' WHERE type = 'REVERSAL'"],
        Check.REPORTS,
        "hold no of reported",
        "1 reversals of 40",
    ),
    (
        ["UPDATE charge SET account_id = 'reported', hold_id = 'kept' WHERE event_id = 'event-6'"],
        Check.REPORTS,
        "hold kept of reported",
        "no mark",
    ),
    (["UPDATE credit_hold SET closed_at = '2020-01-01'"], Check.SPEND, "reported", "spent 40"),
    (
        ["UPDATE batch_outcome SET to_offset = to_offset - 1, charged = charged - 1"],
        Check.OFFSETS,
        "usage.events/0",
        "up to offset",
    ),
    (
        ["UPDATE stream_position SET next_offset = next_offset + 2 WHERE partition = 1"],
        Check.OFFSETS,
        "usage.events/1",
        "up to offset",
    ),
    (
        ["UPDATE stream_position SET first_offset = 3 WHERE partition = 2"],
        Check.OFFSETS,
        "usage.events/2",
        "from offset 0",
    ),
    (
        ["DELETE FROM batch_outcome WHERE partition = 2"],
        Check.OUTCOMES,
        "usage.events/2",
        "charged",
    ),
]

COPY_DRIFTS: list[tuple[str, Check, str, str]] = [
    (
        "ALTER TABLE charge DELETE WHERE event_id = 'event-6'",
        Check.COPIED_CHARGES,
        "account 1",
        "59 r",
    ),
    (
        "ALTER TABLE charge UPDATE amount_micro = amount_micro + 1 WHERE event_id = 'event-6'",
        Check.COPIED_CHARGES,
        "account 1 on 2026-11-20",
        "micro-credits",
    ),
    (
        "ALTER TABLE charge UPDATE model = 'other' WHERE event_id = 'event-6'",
        Check.COPIED_CHARGES,
        "account 1 on 2026-11-20",
        "hash",
    ),
    (
        "INSERT INTO charge SELECT * REPLACE ('new' AS event_id) FROM charge WHERE offset = 6",
        Check.COPIED_CHARGES,
        "account",
        "61 rows",
    ),
    (
        "INSERT INTO charge SELECT * REPLACE ('nobody' AS account_id) FROM charge LIMIT 1",
        Check.COPIED_CHARGES,
        "nobody",
        "1 rows",
    ),
    (
        "INSERT INTO charge SELECT * FROM charge WHERE event_id = 'event-6'",
        Check.DUPLICATES,
        "account 1",
        "61 rows",
    ),
    (
        "INSERT INTO charge SELECT * REPLACE (1000 AS offset) FROM charge LIMIT 1",
        Check.BEYOND,
        "epoch 1",
        "offset 1000",
    ),
    (
        "ALTER TABLE charge_by_day DELETE WHERE account_id = 'account 3'",
        Check.ROLL_UPS,
        "account 3",
        "less",
    ),
    (
        "INSERT INTO charge_by_day SELECT * FROM charge_by_day WHERE account_id = 'account 2'",
        Check.ROLL_UPS,
        "account 2",
        "less -",
    ),
    (
        "ALTER TABLE credit_by_day DELETE WHERE account_id = 'account 3'",
        Check.ROLL_UPS,
        "account 3",
        "less 1",
    ),
    (
        "ALTER TABLE credit_transaction DELETE WHERE account_id = 'account 3'",
        Check.COPIED_CREDITS,
        "account 3",
        "no rows",
    ),
    (
        "ALTER TABLE credit_transaction UPDATE reason = '' WHERE account_id = 'account 3'",
        Check.COPIED_CREDITS,
        "account 3",
        "hash",
    ),
    (
        "ALTER TABLE credit_transaction UPDATE metadata = '' WHERE account_id = 'account 3'",
        Check.COPIED_CREDITS,
        "account 3",
        "hash",
    ),
]


@pytest.fixture(autouse=True)
def _no_patience(monkeypatch: pytest.MonkeyPatch) -> None:
    """A roll-up that is behind its rows is given seconds to catch up; these never will."""
    monkeypatch.setattr(copy_audit, "ROLL_UP_PAUSE_SECONDS", 0.01)


@pytest.fixture
async def shipped(settings: Settings) -> Settings:
    await plant(settings, Batch(300))
    await plant_every_kind(settings)
    await plant_gifts(settings)
    await plant_reports(settings)
    async with bench(settings) as at:
        await at.drain_with_credits()
    return settings


async def test_without_drift_it_is_exact(shipped: Settings) -> None:
    report = await audit(shipped)
    assert report.exact
    assert [result.check for result in report.results] == list(Check)
    assert report.waiting == Waiting(0, 0, 0)
    compared = {result.check: result.compared for result in report.results}
    assert compared[Check.CORRECTIONS] == 255
    assert compared[Check.COUNTERS] == 5
    assert (compared[Check.COUPONS], compared[Check.REFRESHES]) == (1, 1)
    assert compared[Check.REPORTS] == 2
    assert compared[Check.COPIED_CORRECTIONS] == 5


async def test_what_waits_is_no_difference(shipped: Settings) -> None:
    await plant(shipped, Batch(120, accounts=7))
    report = await audit(shipped)
    assert report.exact
    assert report.waiting == Waiting(120, 2, 0)
    corrected = await plant_corrections(shipped, Corrections("amend", 3))
    report = await audit(shipped)
    assert report.exact
    assert report.waiting.corrections == corrected


async def test_an_empty_deployment_is_exact(settings: Settings) -> None:
    assert (await audit(settings)).exact


async def test_a_database_without_our_tables_says_what_to_do(settings: Settings) -> None:
    await run_sql(settings, "ALTER TABLE deployment RENAME TO elsewhere")
    with pytest.raises(Failure, match="run `tollgate migrate` first"):
        await audit(settings)


@pytest.mark.parametrize(("statements", "check", "where", "numbers"), LEDGER_DRIFTS)
async def test_drift_in_postgresql_is_named(
    shipped: Settings, statements: Sequence[str], check: Check, where: str, numbers: str
) -> None:
    await run_sql(shipped, *statements)
    lines = found(await audit(shipped), check)
    assert any(where in line and numbers in line for line in lines), lines


@pytest.mark.parametrize(("statement", "check", "where", "numbers"), COPY_DRIFTS)
async def test_drift_in_clickhouse_is_named(
    shipped: Settings, statement: str, check: Check, where: str, numbers: str
) -> None:
    with clickhouse.connect(shipped) as client:
        client.command(statement, settings={"mutations_sync": 2})
    lines = found(await audit(shipped), check)
    assert any(where in line and numbers in line for line in lines), lines


async def test_only_the_drifted_days_are_named(shipped: Settings) -> None:
    with clickhouse.connect(shipped) as client:
        client.command(
            "ALTER TABLE charge UPDATE amount_micro = amount_micro + 1 WHERE event_id = 'event-6'",
            settings={"mutations_sync": 2},
        )
    report = await audit(shipped)
    assert len(found(report, Check.COPIED_CHARGES)) == 1
    assert {result.check for result in report.results if result.found} == {
        Check.COPIED_CHARGES,
        Check.ROLL_UPS,
    }


def run_verify(environment: dict[str, str], *options: str) -> "subprocess.CompletedProcess[str]":
    return subprocess.run(
        [sys.executable, "-m", "tollgate.cli", "verify", *options],
        env=environment,
        text=True,
        capture_output=True,
        timeout=60,
        check=False,
    )


async def test_the_command_exits_with_1_on_drift(
    shipped: Settings, environment: dict[str, str]
) -> None:
    good = run_verify(environment)
    assert good.returncode == 0, good.stderr
    assert "Exact: no difference." in good.stdout
    await run_sql(shipped, "UPDATE account SET held_micro = 5 WHERE account_id = 'account 0'")
    bad = run_verify(environment)
    assert bad.returncode == 1
    assert "held 5" in bad.stdout
    report = json.loads(run_verify(environment, "--json").stdout)
    assert report["exact"] is False
    findings = [finding for check in report["checks"] for finding in check["findings"]]
    assert [finding["subject"] for finding in findings] == ["account 0"]


async def test_the_snapshot_may_wait_for_clickhouse(shipped: Settings) -> None:
    """It locks no row, so it is not cut off as others that idle in a transaction are."""
    hasty = shipped.model_copy(update={"idle_transaction_seconds_max": 0.001})
    assert (await audit(hasty)).exact
