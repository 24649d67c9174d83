"""Which charges a run finds that are posted around its begin, or long after their time."""

import asyncio
import json
from typing import Any

import pytest

from adapters.ledger import BatchTransaction
from adapters.rerate_runs import RunKind, Source
from adapters.settings import Settings
from tests.batches import NOW, desk, usage
from tests.counted import publish_counted
from tests.replayed import Sent, apply_all, send
from tests.rerated import DAY, change_price, run

APPLY = RunKind.APPLY


async def test_a_batch_in_flight_is_waited_for(
    settings: Settings, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It began before the new price was published, and is found however long its commit takes."""
    priced, go_on = asyncio.Event(), asyncio.Event()
    book = BatchTransaction.book

    async def slowly(self: BatchTransaction, *arguments: object) -> None:
        priced.set()
        await go_on.wait()
        await book(self, *arguments)  # type: ignore[arg-type]

    async with desk(settings) as bench:
        await publish_counted(bench.connection, work={"credits": "1"})
        await bench.open((0, 1))
        await bench.apply(usage("e1", action="work", model="", tokens={}))
        await bench.connection.execute("SET lock_timeout = '50ms'")
        monkeypatch.setattr(BatchTransaction, "book", slowly)
        late = usage("e2", "other", action="work", model="", tokens={})
        batch = asyncio.create_task(bench.apply(late, partition=1))
        await priced.wait()
        await change_price(bench, NOW - DAY, actions={"work": {"credits": "2"}})
        applied = asyncio.create_task(run(bench, APPLY))
        await asyncio.wait({applied}, timeout=0.3)
        assert not applied.done()
        go_on.set()
        await batch
        assert (await applied).tally.changed == 2
        assert (await run(bench)).tally.changed == 0


async def test_a_version_that_is_published_during_the_wait_counts(
    settings: Settings, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What it has charged by the end of the wait is in the extent, and is not booked back."""
    priced, go_on = asyncio.Event(), asyncio.Event()
    book = BatchTransaction.book

    async def slowly(self: BatchTransaction, *arguments: object) -> None:
        priced.set()
        await go_on.wait()
        await book(self, *arguments)  # type: ignore[arg-type]

    work: dict[str, Any] = {"action": "work", "model": "", "tokens": {}}
    async with desk(settings) as bench, desk(settings) as other:
        await publish_counted(bench.connection, work={"credits": "1"})
        await bench.open((0, 1))
        await bench.connection.execute("SET lock_timeout = '50ms'")
        monkeypatch.setattr(BatchTransaction, "book", slowly)
        batch = asyncio.create_task(bench.apply(usage("e1", **work), partition=1))
        await priced.wait()
        monkeypatch.setattr(BatchTransaction, "book", book)
        applied = asyncio.create_task(run(bench, APPLY))
        await asyncio.wait({applied}, timeout=0.3)
        assert not applied.done()
        newest = await change_price(other, NOW - DAY, actions={"work": {"credits": "2"}})
        await other.apply(usage("e2", "other", **work))
        go_on.set()
        await batch
        done = await applied
        assert (done.book.newest_version, done.tally.events, done.tally.changed) == (newest, 2, 1)
        assert done.tally.new_micro == 4_000_000


@pytest.mark.parametrize("source", Source)
async def test_charges_are_found_as_late_as_any_limit_ever_let_them_be(
    settings: Settings, topics: dict[str, str], source: Source
) -> None:
    """For a replay the limit was 400 days, and it is 35 again."""
    then = NOW - 200 * DAY
    stretch = {"since": then - DAY, "until": then + DAY}
    event = usage("e1", action="work", model="", tokens={}) | {"time": then.isoformat()}
    async with desk(settings, event_age_days_max=400) as bench:
        await publish_counted(bench.connection, work={"credits": "1"})
        await change_price(bench, then - 2 * DAY, actions={"work": {"credits": "1"}})
        await send(bench.settings, bench.topic, [Sent(json.dumps(event).encode(), b"acct")])
        await apply_all(bench)
    async with desk(settings) as bench:
        await change_price(bench, then - DAY, actions={"work": {"credits": "2"}})
        found = await run(bench, source=source, **stretch)
        assert (found.tally.events, found.tally.changed) == (1, 1)
