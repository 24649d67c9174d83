"""Whole trace files priced again: the same prices differ nowhere, others by what the file says."""

import asyncio
import time
from decimal import ROUND_HALF_EVEN, Decimal
from pathlib import Path
from typing import Any

import asyncpg
import pytest

from adapters.price_store import publish, read_document
from adapters.settings import Settings
from tests.batches import NOW
from tests.commands import report
from tests.e2e.test_traces import (
    AZURE,
    FREE_TIER,
    LARGE,
    REASONING,
    Trace,
    Usage,
    _path,
    _usages,
    micro,
)
from tests.rerated import DAY
from tests.workers import Worker, wait_applied

STRETCH = ("--from", "60d", "--to", "2999-01-01")
BALANCES = "SELECT json_agg(a.balance_micro ORDER BY a.account_id) FROM account a"


def dearer_micro(trace: Trace, usage: Usage) -> int:
    """At 1.1 credits for a dollar, from the file alone."""
    exact = (usage.input * trace.input_usd + usage.output * trace.output_usd) * FREE_TIER
    return int((exact * Decimal("1.1")).quantize(Decimal(1), rounding=ROUND_HALF_EVEN))


async def dearer(connection: "asyncpg.Connection[asyncpg.Record]") -> None:
    """A correction: for the last sixty days a dollar was 1.1 credits."""
    document = await read_document(connection, 1)
    document["currencies"]["USD"] = [{"credits": "1.1"}]
    await publish(connection, document, NOW - 60 * DAY, "tests", correction=True)


async def rerated(environment: dict[str, str], *arguments: str) -> dict[str, Any]:
    """The run as the command reports it; its groups add up to its sums."""
    said = await report(environment, "rerate", *arguments)
    run: dict[str, Any] = said["run"]
    for name in ("events", "changed", "old_micro", "new_micro"):
        if run["kind"] == "what-if":
            assert sum(group[name] for group in said["groups"]) == run[name]
    return run


@pytest.mark.parametrize("trace", [AZURE, LARGE, REASONING], ids=lambda trace: trace.file)
async def test_a_trace_priced_again(
    trace: Trace,
    settings: Settings,
    topics: dict[str, str],
    environment: dict[str, str],
    tmp_path: Path,
) -> None:
    path = _path(trace, tmp_path)
    usages = list(_usages(trace, path))
    cost = sum(micro(trace, usage) for usage in usages)
    dear = sum(dearer_micro(trace, usage) for usage in usages)
    with Worker("rater", environment) as rater:
        command = ("publish", str(path), "--shift-to-now", "last", *trace.options)
        await report(environment, *command)
        await wait_applied(settings, len(usages), seconds_max=180, worker=rater)
    for source in "ledger", "topic":
        began = time.monotonic()
        run = await rerated(environment, *STRETCH, "--source", source)
        seconds = time.monotonic() - began
        assert (run["events"], run["changed"], run["unpriced"]) == (len(usages), 0, 0)
        assert (run["old_micro"], run["new_micro"]) == (cost, cost)
        print(trace.file, source, f"{len(usages):,} events, 0 differ, {seconds:.1f} s")  # noqa: T201
    connection = await asyncpg.connect(settings.postgres.get_secret_value())
    try:
        before = await connection.fetchval(BALANCES)
        await dearer(connection)
        for source in "ledger", "topic":
            run = await rerated(environment, *STRETCH, "--source", source)
            assert (run["old_micro"], run["new_micro"]) == (cost, dear)
        assert await connection.fetchval(BALANCES) == before
        await rerated(environment, *STRETCH, "--apply", "--reason", "a dollar was dearer")
        assert (
            await connection.fetchval("SELECT sum(balance_micro) FROM account")
            == sum(1_000_000_000 for _ in await connection.fetch("SELECT FROM account")) - dear
        )
        assert (await rerated(environment, *STRETCH))["changed"] == 0
        await _exact(environment)
        await rerated(environment, "revert", str(run["run_id"] + 1), "--reason", "it was not")
        assert await connection.fetchval(BALANCES) == before
        await _exact(environment)
    finally:
        await connection.close()


async def _exact(environment: dict[str, str]) -> None:
    """All three streams are in ClickHouse, and both stores agree on every account and day."""
    with Worker("warehouse", environment):
        for _ in range(600):
            verdict = await report(environment, "verify")
            if not any(verdict["waiting"].values()):
                break
            await asyncio.sleep(0.2)
    assert verdict["exact"], verdict
    assert not any(verdict["waiting"].values()), verdict["waiting"]
