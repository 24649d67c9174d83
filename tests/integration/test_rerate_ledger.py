"""Re-rating from the ledger on real PostgreSQL and ClickHouse: what-if, apply, revert, resume."""

import json
from datetime import datetime, timedelta
from typing import Any

import pytest

from adapters import rerate, rerate_revert, rerate_runs
from adapters.failures import Failure
from adapters.price_store import publish
from adapters.rerate_book import choose
from adapters.rerate_runs import NewRun, Run, RunKind, Source
from adapters.settings import Settings
from tests.batches import NOW, Desk, desk, usage
from tests.shipping import ask

GPT_4O = 3_750
DAY = timedelta(days=1)


async def change_price(
    bench: Desk, effective_from: datetime = NOW - DAY, **sections: Any
) -> int:
    """Publishes the newest book with other sections, as a correction of the past."""
    newest = "SELECT document FROM price_version ORDER BY price_version DESC LIMIT 1"
    document = json.loads(await bench.value(newest)) | sections
    return await publish(bench.connection, document, effective_from, "tests", correction=True)


async def run(
    bench: Desk,
    kind: RunKind = RunKind.WHAT_IF,
    *,
    since: datetime = NOW - DAY,
    until: datetime = NOW + DAY,
    source: Source = Source.LEDGER,
    accounts: list[str] | None = None,
    book: str | None = None,
) -> Run:
    """One run from its start to its end."""
    new = NewRun(
        kind, source, since, until, accounts, await choose(bench.connection, book), "tests", "why"
    )
    started = await rerate.start(bench.connection, bench.settings, new)
    assert started is not None
    return await rerate.go_on(bench.connection, bench.settings, started, lambda _: None)


async def revert(bench: Desk, run_id: int) -> Run:
    started = await rerate_revert.start(bench.connection, run_id, actor="tests", reason="back")
    return await rerate_revert.go_on(bench.connection, started, lambda _: None)


async def test_a_what_if_says_what_would_differ_and_touches_nothing(settings: Settings) -> None:
    async with desk(settings) as bench:
        await bench.open()
        await bench.apply(usage("e1"), usage("e2"), usage("e3", "other"))
        await change_price(bench, currencies={"USD": [{"credits": "2"}]})
        before = await bench.state()
        done = await run(bench)
        assert await bench.state() == before
        assert (done.tally.events, done.tally.changed) == (3, 3)
        assert (done.tally.old_micro, done.tally.new_micro) == (3 * GPT_4O, 6 * GPT_4O)
        lines = ask(
            settings,
            "SELECT run_id, account_id, event_id, model, old_version, new_version, old_micro,"
            " new_micro, verdict FROM rerate_line ORDER BY event_id",
        )
        assert lines == [
            (done.run_id, account, event, "gpt-4o", 1, 2, GPT_4O, 2 * GPT_4O, "changed")
            for account, event in (("acct", "e1"), ("acct", "e2"), ("other", "e3"))
        ]
        same = await run(bench, book="1")
        assert (same.tally.changed, same.tally.difference_micro) == (0, 0)
