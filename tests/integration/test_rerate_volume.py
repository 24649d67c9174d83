"""Applied runs and what volume prices give back: never more than was paid on their counter."""

from collections.abc import Sequence
from datetime import datetime, timedelta
from typing import Any

import pytest

from adapters import charges
from adapters.charges import Request
from adapters.failures import Failure
from adapters.rerate_runs import RunKind
from adapters.settings import Settings
from tests.batches import NOW, Desk, desk, usage
from tests.rerated import DAY, change_price, revert, run

APPLY = RunKind.APPLY
WELCOME = 1_000_000_000
BALANCE = "SELECT balance_micro FROM account WHERE account_id = 'acct'"
MONTH = NOW.replace(day=1, hour=0, minute=0, second=0)
LAST_MONTH = (MONTH - DAY).replace(day=1)
NEXT_MONTH = (MONTH + timedelta(days=32)).replace(day=1)
DEAR = [{"up_to": "10", "credits": "1"}, {"credits": "0.5"}]
CHEAP = [{"up_to": "10", "credits": "0.01"}, {"credits": "0.005"}]


def _pages(steps: list[dict[str, str]], charge: str = "volume", **more: str) -> dict[str, Any]:
    return {"page": {"charge": charge, "steps": steps, **more}}


LATE = MONTH - timedelta(minutes=1)


async def _use(bench: Desk, event_id: str, pages: int, first: int, when: datetime = LATE) -> None:
    event = usage(event_id, action="page", quantity=pages, model="", tokens={})
    event |= {"time": when.isoformat()}
    figures = await bench.apply(event, first=first)
    assert figures.charged == 1


async def test_a_version_that_would_count_on_from_another_price_is_not_booked(
    settings: Settings,
) -> None:
    """Ten pages at 1 booked down to 0.01: the next one would still give 4.5 credits back."""
    async with desk(settings) as bench:
        await change_price(bench, NOW - 100 * DAY, actions=_pages(DEAR))
        next_month = await change_price(bench, NEXT_MONTH, actions=_pages(CHEAP))
        await bench.open()
        await _use(bench, "e1", 10, 0, NOW)
        before = await bench.state()
        refused = "action:page counts 'action:page', as action:page of version 2 does at another"
        with pytest.raises(Failure, match=refused):
            await run(bench, APPLY, since=MONTH, book=str(next_month))
        assert await bench.state() == before
        assert (await run(bench, since=MONTH, book=str(next_month))).tally.changed == 1
        assert (await run(bench, APPLY, since=MONTH, until=NEXT_MONTH, book="2")).tally.changed == 0


async def test_a_version_with_a_counter_of_its_own_is_booked(settings: Settings) -> None:
    async with desk(settings) as bench:
        await change_price(bench, NOW - 100 * DAY, actions=_pages(DEAR))
        named = await change_price(bench, NEXT_MONTH, actions=_pages(CHEAP, counter="pages-2"))
        await bench.open()
        await _use(bench, "e1", 10, 0)
        await run(bench, APPLY, since=LAST_MONTH, until=MONTH, book=str(named))
        await _use(bench, "e2", 1, 1)
        assert await bench.value(BALANCE) == WELCOME - 100_000 - 1_000_000


async def _corrected(bench: Desk, charge: str = "volume", pages: Sequence[int] = (10,)) -> int:
    """Pages of the month before, charged cheap and booked dear under another counter."""
    await change_price(bench, NOW - 100 * DAY, actions=_pages(CHEAP, charge))
    await bench.open()
    for n, quantity in enumerate(pages):
        await _use(bench, f"e{n}", quantity, n)
    await change_price(bench, NOW - 99 * DAY, actions=_pages(DEAR, charge, counter="pages-2"))
    return (await run(bench, APPLY, since=LAST_MONTH, until=MONTH)).run_id


async def test_what_was_given_back_for_charges_of_a_run_keeps_the_run(settings: Settings) -> None:
    """The eleventh page gives 4.5 credits back, which were paid by the run alone."""
    async with desk(settings) as bench:
        run_id = await _corrected(bench)
        assert await bench.value(BALANCE) == WELCOME - 10_000_000
        await _use(bench, "e2", 1, 1)
        assert await bench.value(BALANCE) == WELCOME - 5_500_000
        before = await bench.state()
        refused = rf"'pages-2' of acct has counted more in {LAST_MONTH:%Y-%m} since run {run_id}"
        with pytest.raises(Failure, match=refused):
            await revert(bench, run_id)
        assert await bench.state() == before


async def test_a_void_does_not_hide_what_was_counted_since(settings: Settings) -> None:
    """A page of the run is voided, another comes: the counter stands where the run left it."""
    async with desk(settings) as bench:
        run_id = await _corrected(bench, pages=(10, 1))
        await charges.void(bench.connection, Request("acct", "e1", "tests", "wrong"))
        await _use(bench, "e2", 1, 2)
        assert await bench.value(BALANCE) == WELCOME - 5_500_000
        with pytest.raises(Failure, match="has counted more"):
            await revert(bench, run_id)


@pytest.mark.parametrize("charge", ["volume", "graduated"])
async def test_what_gives_nothing_back_keeps_no_run(settings: Settings, charge: str) -> None:
    """Nothing was counted since by volume; a graduated price only ever takes."""
    async with desk(settings) as bench:
        run_id = await _corrected(bench, charge)
        later = 0
        if charge == "graduated":
            await _use(bench, "e2", 1, 1)
            later = 500_000
        assert (await revert(bench, run_id)).tally.changed == 1
        assert await bench.value(BALANCE) == WELCOME - 100_000 - later


async def test_what_was_counted_before_the_run_keeps_no_run(settings: Settings) -> None:
    """It was paid from 0 on, and is again."""
    async with desk(settings) as bench:
        await change_price(bench, NOW - 100 * DAY, actions=_pages(CHEAP))
        await bench.open()
        await _use(bench, "e1", 10, 0)
        await change_price(bench, NOW - 99 * DAY, actions=_pages(DEAR, counter="pages-2"))
        await _use(bench, "e2", 1, 1)
        paid = WELCOME - 100_000 - 1_000_000
        assert await bench.value(BALANCE) == paid
        done = await run(bench, APPLY, since=LAST_MONTH, until=MONTH)
        assert await bench.value(BALANCE) == WELCOME - 5_500_000
        await revert(bench, done.run_id)
        assert await bench.value(BALANCE) == paid


async def test_where_no_charge_leaves_the_counter_nothing_keeps_the_run(
    settings: Settings,
) -> None:
    """The run's only charge was voided since; or the run changed prices within the counter."""
    async with desk(settings) as bench:
        run_id = await _corrected(bench)
        await _use(bench, "e1", 1, 1)
        await charges.void(bench.connection, Request("acct", "e0", "tests", "wrong"))
        assert await bench.value(BALANCE) == WELCOME - 1_000_000
        assert (await revert(bench, run_id)).tally.superseded == 1
        await _use(bench, "e2", 10, 2)
        amended = Request("acct", "e1", "tests", "wrong")
        await charges.amend(bench.connection, amended, {"quantity": 2})
        within = await run(bench, APPLY, since=LAST_MONTH, until=MONTH)
        assert within.tally.changed == 2
        await _use(bench, "e3", 1, 3)
        assert (await revert(bench, within.run_id)).tally.changed == 2
        assert await bench.value(BALANCE) == WELCOME - 6_500_000
