"""The history of an account: every entry once, in order, whatever page size and filter."""

import asyncio
import itertools
from collections.abc import AsyncIterator
from datetime import datetime, timedelta
from typing import Any

import asyncpg
import pytest

from adapters.adjustments import Adjustment, adjust
from adapters.failures import Failure
from adapters.gate import HoldRequest
from adapters.gate_account import Spending
from adapters.history import Filters, history, read_cursor
from adapters.postgres import connect
from adapters.settings import Settings
from tests.batches import desk, usage
from tests.gates import CREDIT, account, gate


@pytest.fixture
async def connection(settings: Settings) -> AsyncIterator["asyncpg.Connection[asyncpg.Record]"]:
    made = await connect(settings, application_name="test")
    await account(made, "acct", 1_000 * CREDIT)
    await account(made, "other", 1_000 * CREDIT)
    async with gate(settings) as the_gate, desk(settings) as rater:
        await rater.open()
        for name in ("acct", "other"):
            await the_gate.hold(HoldRequest(name, 10 * CREDIT, "app", f"open-{name}"))
            await the_gate.hold(HoldRequest(name, 10 * CREDIT, "app", f"gone-{name}"))
            await the_gate.hold(HoldRequest(name, 10 * CREDIT, "app", f"done-{name}"))
            await the_gate.release(name, f"gone-{name}", "app")
            await the_gate.settle(f"done-{name}", Spending(name, "app", 3 * CREDIT))
            await the_gate.deduct(Spending(name, "app", CREDIT))
        events = [usage(f"e{n}", name) for n in range(30) for name in ("acct", "other")]
        await rater.apply(*events)
        await rater.apply(*[usage(f"f{n}", "acct") for n in range(5)], first=60)
    async with made.transaction():
        await adjust(made, Adjustment("acct", -CREDIT, "root", "why"))
    yield made
    await made.close()


async def walk(connection: asyncpg.Connection, size: int, filters: Filters) -> list[dict[str, Any]]:
    entries, before = [], None
    while True:
        page = await history(connection, "acct", filters, size, before)
        entries += page.entries
        if page.following is None:
            return entries
        before = read_cursor(str(page.following))


@pytest.mark.parametrize("size", [1, 2, 7, 40, 500])
async def test_every_entry_once_newest_first(connection: asyncpg.Connection, size: int) -> None:
    entries = await walk(connection, size, Filters())
    kinds = [entry["type"] for entry in entries]
    assert len(entries) == 35 + 4 + 2
    assert {kind: kinds.count(kind) for kind in set(kinds)} == {
        "USAGE": 35, "GRANT": 1, "SETTLE": 1, "DEDUCT": 1, "ADJUSTMENT": 1, "HOLD": 2,
    }  # fmt: skip
    keys = [(entry["at"], entry["place"]) for entry in entries]
    assert keys == sorted(set(keys), reverse=True)
    assert entries[0]["type"] == "ADJUSTMENT"


async def test_the_balance_can_be_followed_down(connection: asyncpg.Connection) -> None:
    moved = [e for e in await walk(connection, 9, Filters()) if e["status"] == "COMPLETED"]
    for newer, older in itertools.pairwise(moved):
        assert newer["balance_after_micro"] - newer["amount_micro"] == older["balance_after_micro"]


async def test_filters(connection: asyncpg.Connection) -> None:
    every = await walk(connection, 500, Filters())
    for filters, wanted in (
        (Filters(types=["HOLD"]), {"open-acct", "gone-acct"}),
        (Filters(statuses=["PENDING"]), {"open-acct"}),
        (Filters(statuses=["FAILED"]), {"gone-acct"}),
    ):
        assert {entry["hold_id"] for entry in await walk(connection, 3, filters)} == wanted
    middle: datetime = every[5]["at"]
    since = await walk(connection, 3, Filters(since=middle))
    until = await walk(connection, 3, Filters(until=middle))
    assert since + until == every
    future = Filters(since=every[0]["at"] + timedelta(seconds=1))
    assert await walk(connection, 3, future) == []


async def test_pages_stand_still_while_entries_arrive(
    settings: Settings, connection: asyncpg.Connection
) -> None:
    before = await walk(connection, 500, Filters())
    first = await history(connection, "acct", Filters(), 10, None)
    async with desk(settings) as rater:
        await rater.apply(*[usage(f"g{n}", "acct") for n in range(20)], first=65)
    await asyncio.sleep(0)
    assert first.following is not None
    rest = await history(connection, "acct", Filters(), 500, first.following)
    assert first.entries + rest.entries == before


@pytest.mark.parametrize("text", ["", "x", "AAAA", "MjAyNi0xMS0yMVQwOTowMDowMHw", "=" * 9])
def test_a_made_up_cursor_is_refused(text: str) -> None:
    with pytest.raises(Failure, match="cursor"):
        read_cursor(text)
