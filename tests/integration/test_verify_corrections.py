"""Verify finds each kind of drift of corrections, their credits and counters, and names it."""

from collections.abc import Sequence

import pytest

from adapters import clickhouse, copy_audit
from adapters.audit import audit
from adapters.settings import Settings
from core.audit import Check
from tests.planted_corrections import Corrections, plant_corrections, plant_every_kind
from tests.planted_ledger import Batch, plant, run_sql
from tests.shipping import bench, found

# event-12 was amended and re-rated twice, event-6 re-rated twice by the same amount, event-7
# amended, event-11 voided, and it had units of a counter.
ONE_CREDIT_FOR_TWO = (
    """UPDATE charge_correction SET transaction_id = (
        SELECT transaction_id FROM charge_correction WHERE event_id = 'event-6' AND sequence = 1
    ) WHERE event_id = 'event-6' AND sequence = 2""",
    """DELETE FROM credit_transaction WHERE type = 'CORRECTION' AND event_id = 'event-6'
       AND NOT EXISTS (SELECT FROM charge_correction AS c
                       WHERE c.transaction_id = credit_transaction.transaction_id)""",
)
MONEY_FOR_NOTHING = """
INSERT INTO credit_transaction (account_id, type, amount_micro, balance_after_micro, event_id,
                                actor)
VALUES ('account 0', 'CORRECTION', 0, 0, 'event-5', 'tests')
"""
# By what, and what verify must say: the check, where, and numbers that are in the finding.
LEDGER_DRIFTS: list[tuple[Sequence[str], Check, str, str]] = [
    (
        ["UPDATE charge_correction SET sequence = 4 WHERE event_id = 'event-12' AND sequence = 3"],
        Check.CORRECTIONS,
        "account 2 event-12",
        "correction 4",
    ),
    (
        ["DELETE FROM charge_correction WHERE event_id = 'event-12' AND sequence = 1"],
        Check.CORRECTIONS,
        "account 2 event-12",
        "correction 2",
    ),
    (
        ["UPDATE charge_correction SET rated_micro = 9 WHERE event_id = 'event-7'"],
        Check.CORRECTIONS,
        "account 2 event-7",
        "rated 9",
    ),
    (
        ["UPDATE charge_correction SET amount_micro = 9 WHERE event_id = 'event-7'"],
        Check.CORRECTIONS,
        "account 2 event-7",
        "amount 9",
    ),
    (
        [
            (
                "UPDATE charge_correction SET occurred_at = occurred_at + interval '1 day'"
                " WHERE event_id = 'event-7'"
            )
        ],
        Check.CORRECTIONS,
        "account 2 event-7",
        "at 2026-11-21",
    ),
    (
        ["UPDATE charge_correction SET counter_units = 2 WHERE event_id = 'event-11'"],
        Check.CORRECTIONS,
        "account 1 event-11",
        "2 units",
    ),
    (
        ["DELETE FROM charge WHERE event_id = 'event-7'"],
        Check.CORRECTIONS,
        "account 2 event-7",
        "correction 1",
    ),
    (
        [
            "DELETE FROM credit_transaction WHERE event_id = 'event-7'",
        ],
        Check.CORRECTION_CREDITS,
        "account 2 event-7",
        "no transaction",
    ),
    (
        ["UPDATE credit_transaction SET amount_micro = 9 WHERE event_id = 'event-7'"],
        Check.CORRECTION_CREDITS,
        "account 2 event-7",
        "9 COMPLETED",
    ),
    (
        ["UPDATE credit_transaction SET status = 'FAILED' WHERE event_id = 'event-7'"],
        Check.CORRECTION_CREDITS,
        "account 2 event-7",
        "FAILED",
    ),
    (
        ["UPDATE credit_transaction SET account_id = 'account 3' WHERE event_id = 'event-7'"],
        Check.CORRECTION_CREDITS,
        "account 2 event-7",
        "of account 3 event-7",
    ),
    (
        ["UPDATE credit_transaction SET event_id = 'event-8' WHERE event_id = 'event-7'"],
        Check.CORRECTION_CREDITS,
        "account 2 event-7",
        "of account 2 event-8",
    ),
    (ONE_CREDIT_FOR_TWO, Check.CORRECTION_CREDITS, "account 1 event-6", "transaction"),
    (
        [MONEY_FOR_NOTHING],
        Check.CORRECTION_CREDITS,
        "account 0 event-5",
        "0 COMPLETED",
    ),
    (
        ["UPDATE usage_counter SET units = units + 1 WHERE account_id = 'account 1'"],
        Check.COUNTERS,
        'account 1 pages, "a4" in 2026-11',
        "counter",
    ),
    (
        ["DELETE FROM usage_counter WHERE account_id = 'account 0'"],
        Check.COUNTERS,
        "account 0",
        "counter 0",
    ),
    (
        ["DELETE FROM charge_correction WHERE event_id = 'event-11'"],
        Check.COUNTERS,
        "account 1",
        "counter",
    ),
    (
        ["UPDATE usage_counter SET month = '2026-12-01' WHERE account_id = 'account 0'"],
        Check.COUNTERS,
        'account 0 pages, "a4" in 2026-12',
        "counter",
    ),
    (
        [
            "UPDATE charge SET counter = 'less', counter_units = -3 WHERE event_id = 'event-3'",
            "INSERT INTO usage_counter VALUES ('account 3', 'less', '2026-11-01', -3)",
        ],
        Check.COUNTERS,
        "account 3 less",
        "counter -3",
    ),
]

COPY_DRIFTS: list[tuple[str, Check, str, str]] = [
    (
        "ALTER TABLE charge_correction DELETE WHERE event_id = 'event-7'",
        Check.COPIED_CORRECTIONS,
        "account 2 on 2026-11-20",
        "rows",
    ),
    (
        "ALTER TABLE charge_correction UPDATE amount_change_micro = 9 WHERE event_id = 'event-7'",
        Check.COPIED_CORRECTIONS,
        "account 2 on 2026-11-20",
        "micro-credits",
    ),
    (
        "ALTER TABLE charge_correction UPDATE reason = '' WHERE event_id = 'event-7'",
        Check.COPIED_CORRECTIONS,
        "account 2 on 2026-11-20",
        "hash",
    ),
    (
        "ALTER TABLE charge_correction UPDATE was_model = 'x' WHERE event_id = 'event-7'",
        Check.COPIED_CORRECTIONS,
        "account 2 on 2026-11-20",
        "hash",
    ),
    (
        "ALTER TABLE charge_correction UPDATE resource_id = 'x' WHERE event_id = 'event-7'",
        Check.COPIED_CORRECTIONS,
        "account 2 on 2026-11-20",
        "hash",
    ),
    (
        (
            "INSERT INTO charge_correction SELECT * REPLACE ('nobody' AS account_id)"
            " FROM charge_correction LIMIT 1"
        ),
        Check.COPIED_CORRECTIONS,
        "nobody",
        "1 rows",
    ),
    (
        "INSERT INTO charge_correction SELECT * FROM charge_correction WHERE event_id = 'event-7'",
        Check.DUPLICATES,
        "account 2",
        "rows",
    ),
    (
        (
            "INSERT INTO charge_correction SELECT * REPLACE (100000 AS correction_id)"
            " FROM charge_correction LIMIT 1"
        ),
        Check.BEYOND,
        "corrections",
        "number 100000",
    ),
    (
        "ALTER TABLE charge_correction_by_day DELETE WHERE account_id = 'account 3'",
        Check.ROLL_UPS,
        "charge_correction_by_day: account 3",
        "less",
    ),
    (
        (
            "INSERT INTO charge_correction_by_day SELECT * FROM charge_correction_by_day"
            " WHERE account_id = 'account 2'"
        ),
        Check.ROLL_UPS,
        "charge_correction_by_day: account 2",
        "less",
    ),
    (
        "ALTER TABLE charge UPDATE service_tier = 'x' WHERE event_id = 'event-6'",
        Check.COPIED_CHARGES,
        "account 1 on 2026-11-20",
        "hash",
    ),
    (
        "ALTER TABLE charge UPDATE counter_before = 9 WHERE event_id = 'event-6'",
        Check.COPIED_CHARGES,
        "account 1 on 2026-11-20",
        "hash",
    ),
]


@pytest.fixture(autouse=True)
def _no_patience(monkeypatch: pytest.MonkeyPatch) -> None:
    """A roll-up that is behind its rows is given seconds to catch up; these never will."""
    monkeypatch.setattr(copy_audit, "ROLL_UP_PAUSE_SECONDS", 0.01)


async def correct(settings: Settings) -> Settings:
    """300 charges with corrections of every kind, and a second re-rate of half of them."""
    await plant(settings, Batch(300))
    await plant_every_kind(settings)
    await plant_corrections(settings, Corrections("rerate", 2, run_id=2))
    return settings


async def test_corrections_of_every_kind_are_no_difference(settings: Settings) -> None:
    assert (await audit(await correct(settings))).exact


@pytest.mark.parametrize(("statements", "check", "where", "numbers"), LEDGER_DRIFTS)
async def test_drift_in_postgresql_is_named(
    settings: Settings, statements: Sequence[str], check: Check, where: str, numbers: str
) -> None:
    await correct(settings)
    await run_sql(settings, *statements)
    lines = found(await audit(settings), check)
    assert any(where in line and numbers in line for line in lines), lines


@pytest.mark.parametrize(("statement", "check", "where", "numbers"), COPY_DRIFTS)
async def test_drift_in_clickhouse_is_named(
    settings: Settings, statement: str, check: Check, where: str, numbers: str
) -> None:
    await correct(settings)
    async with bench(settings) as at:
        await at.drain_with_credits()
    with clickhouse.connect(settings) as client:
        client.command(statement, settings={"mutations_sync": 2})
    lines = found(await audit(settings), check)
    assert any(where in line and numbers in line for line in lines), lines
