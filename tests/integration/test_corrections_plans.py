"""Corrections find charges, the latest correction of each and counters by index, at any size."""

from collections.abc import Iterator
from datetime import timedelta
from typing import Any

import asyncpg

from adapters.postgres import session_parameters
from adapters.settings import Settings
from tests.integration import test_plans as plans
from tests.planted_corrections import Corrections, plant_corrections
from tests.planted_ledger import Batch, plant, run_sql

ONE = ("account_id", "event_id")
BY_KEY = "charge_correction_idempotency_key_key"
BY_CHARGE = "charge_correction_account_id_event_id_sequence_key"
_MORE = (
    """INSERT INTO usage_counter (account_id, counter, month, units)
    SELECT 'account ' || n % 2000, 'counter ' || n / 2000, '2026-11-01', n
    FROM generate_series(0, 39999) AS n""",
)


def _charged(count: int) -> tuple[list[str], list[str]]:
    numbers = [n * (plans.CHARGES // count) for n in range(count)]
    return [f"account {n % plans.ACCOUNTS}" for n in numbers], [f"event-{n}" for n in numbers]


def _cases() -> Iterator[plans.Case]:
    for count in (1, 1_000, 4_000):
        yield plans.Case(
            "corrections", "charges_in_force", _charged(count), {"charge_pkey": ONE, BY_CHARGE: ONE}
        )
    yield plans.Case("corrections", "read_charge", ("account 7", "event-7"), {"charge_pkey": ONE})
    yield plans.Case("corrections", "read_corrections", ("account 7", "event-7"), {BY_CHARGE: ONE})
    yield plans.Case("corrections", "find_by_key", ("k1",), {BY_KEY: ("idempotency_key",)})
    left_out = "account 7", "counter 1", plans.MONTH, plans.MONTH + timedelta(days=30), "event-7"
    yield plans.Case("corrections", "last_counted", left_out, {"charge_history": ("account_id",)})
    accounts = [f"account {n}" for n in range(500)]
    counted = accounts, ["counter 1"] * 500, [plans.MONTH.date()] * 500
    key = {"usage_counter_pkey": ("account_id", "counter", "month")}
    yield plans.Case("ledger", "read_counters", counted, key)


async def test_corrections_find_their_rows_by_index(settings: Settings) -> None:
    batch = Batch(plans.CHARGES, plans.ACCOUNTS, plans.PARTITIONS)
    await plant(settings, batch)
    await plant_corrections(settings, Corrections("amend", every=4))
    await run_sql(settings, *_MORE, "ANALYZE")
    connection = await asyncpg.connect(
        settings.postgres.get_secret_value(), server_settings=session_parameters(settings, "tests")
    )
    try:
        findings = [
            f"{case} {kind}: {finding}"
            for case in _cases()
            for kind, plan in (
                ("with its parameters", await plans._custom_plan(connection, case)),
                ("generic", await plans._generic_plan(connection, case)),
            )
            for finding in (*plans._findings(plan, case.indexes), *_reads_all(plan))
        ]
    finally:
        await connection.close()
    assert findings == []


def _reads_all(plan: Any) -> Iterator[str]:
    for node in plans._nodes(plan):
        whole = node["Node Type"] == "Seq Scan"
        if whole and node["Relation Name"] in {"charge_correction", "usage_counter"}:
            yield f"reads all of {node['Relation Name']}"
