"""Drift that is planted in PostgreSQL shows in the metrics."""

import re

import asyncpg

from adapters.metrics import Metrics
from adapters.settings import Settings
from consumers.drift import audit_once
from tests.batches import desk, usage


def _findings(metrics: Metrics) -> dict[str, int]:
    found = re.findall(r'tollgate_drift\{check="([^"]+)".*\} (\S+)', metrics.text().decode())
    return {check: round(float(count)) for check, count in found}


async def test_a_balance_that_was_tampered_with_is_a_finding_until_it_is_mended(
    settings: Settings,
) -> None:
    async with desk(settings) as bench:
        await bench.open()
        await bench.apply(usage("e1"), usage("e2", "other"))
        metrics = Metrics("warehouse")
        await audit_once(settings, metrics)
        clean = _findings(metrics)
        assert len(clean) > 5
        assert not any(clean.values())
        await _move(bench.connection, 7)
        await audit_once(settings, metrics)
        assert _findings(metrics)["balance = sum of ledger"] == 1
        await _move(bench.connection, -7)
        await audit_once(settings, metrics)
        assert not any(_findings(metrics).values())


async def _move(connection: "asyncpg.Connection[asyncpg.Record]", amount_micro: int) -> None:
    await connection.execute(
        "UPDATE account SET balance_micro = balance_micro + $1 WHERE account_id = 'acct'",
        amount_micro,
    )
