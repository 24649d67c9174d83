"""Which charges a run finds that are posted around its begin, or long after their time."""

import asyncio

import pytest

from adapters.ledger import BatchTransaction
from adapters.rerate_runs import RunKind
from adapters.settings import Settings
from tests.batches import NOW, desk, usage
from tests.counted import publish_counted
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
