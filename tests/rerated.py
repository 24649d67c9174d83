"""Runs of re-rating from start to end, for tests."""

import json
from datetime import datetime, timedelta
from typing import Any

from adapters import rerate, rerate_revert
from adapters.price_store import publish
from adapters.rerate_book import choose
from adapters.rerate_runs import NewRun, Run, RunKind, Source
from tests.batches import NOW, Desk

DAY = timedelta(days=1)


async def change_price(bench: Desk, effective_from: datetime = NOW - DAY, **sections: Any) -> int:
    """Publishes the newest book with other sections, as a correction of the past."""
    newest = "SELECT document FROM price_version ORDER BY price_version DESC LIMIT 1"
    document = json.loads(await bench.value(newest)) | sections
    return await publish(bench.connection, document, effective_from, "tests", correction=True)


async def new_run(
    bench: Desk,
    kind: RunKind = RunKind.WHAT_IF,
    *,
    since: datetime = NOW - DAY,
    until: datetime = NOW + DAY,
    source: Source = Source.LEDGER,
    accounts: list[str] | None = None,
    book: str | None = None,
) -> NewRun:
    """A run as the command would ask for it."""
    chosen = await choose(bench.connection, book)
    return NewRun(kind, source, since, until, accounts, chosen, "tests", "why")


async def run(bench: Desk, kind: RunKind = RunKind.WHAT_IF, **fields: Any) -> Run:
    """One run from its start to its end."""
    new = await new_run(bench, kind, **fields)
    started = await rerate.start(bench.connection, bench.settings, new)
    assert started is not None
    return await rerate.go_on(bench.connection, bench.settings, started, lambda _: None)


async def revert(bench: Desk, run_id: int) -> Run:
    """Takes a run back, from start to end."""
    started = await rerate_revert.start(bench.connection, run_id, actor="tests", reason="back")
    return await rerate_revert.go_on(bench.connection, started, lambda _: None)
