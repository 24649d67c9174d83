"""A session charged for its report, and then by a usage event: nobody pays twice."""

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

import asyncpg
import pytest

from adapters.charges import void
from adapters.gate import HoldRequest
from adapters.gate_account import Spending
from adapters.gate_prices import PriceSource
from adapters.history import Filters, history
from adapters.overtaken import replace
from adapters.postgres import connect
from adapters.reconcile import preview, reconcile
from adapters.settings import Settings
from tests.batches import Desk, desk, usage
from tests.corrected import request, wrong
from tests.gates import CREDIT, account, gate
from tests.planted_ledger import run_sql

AFTER_SECONDS = 300
REPORT = '{"provider":"openai","model":"gpt-4o","tokens":{"input":2000}}'
REPORTED_MICRO = 7_500
EVENT_MICRO = 3_750  # 1,000 tokens; the report says 2,000


_WAITING = (
    "SELECT count(*) FROM pg_stat_activity"
    " WHERE datname = current_database() AND wait_event_type = 'Lock'"
)
_A_MONTH_AGO = (
    "UPDATE credit_hold SET closed_at = date_trunc('month', now()) - interval '2 days'",
    "UPDATE credit_transaction SET created_at = date_trunc('month', now()) - interval '2 days'",
    "UPDATE account SET spend_month = date_trunc('month', now()) - interval '1 month'",
)


@pytest.fixture
async def bench(settings: Settings) -> AsyncIterator[Desk]:
    """A rater and its log; whatever a test does, the ledger is right at its end."""
    async with desk(settings, create_accounts=False) as made:
        await made.open()
        yield made
        assert await wrong(made) == []


async def sessions(bench: Desk, *hold_ids: str, account_id: str = "acct") -> None:
    """Sessions that reported 2,000 tokens and were left alone."""
    await bench.connection.execute(
        "INSERT INTO credit_hold (hold_id, account_id, amount_micro, kind, usage, touched_at,"
        " expires_at) SELECT hold_id, $2, 1000, 'session', $3, now() - interval '1 hour',"
        " now() - interval '1 minute' FROM unnest($1::text[]) AS wanted (hold_id)",
        hold_ids,
        account_id,
        REPORT,
    )
    await bench.connection.execute(
        "UPDATE account SET held_micro = held_micro + 1000 * $2 WHERE account_id = $1",
        account_id,
        len(hold_ids),
    )


async def settled(bench: Desk) -> int:
    """Reconciles what is left alone; returns how much was charged."""
    prices = PriceSource()
    done = [part async for part in reconcile(bench.connection, 1, AFTER_SECONDS, prices)]
    return sum(part.charged_micro for part in done)


async def replaced(connection: asyncpg.Connection, run_id: int = 1) -> tuple[int, int]:
    """How many holds' charges were taken back, and how much."""
    done = [part async for part in replace(connection, run_id)]
    return sum(part.holds for part in done), sum(part.returned_micro for part in done)


async def facts(bench: Desk, account_id: str = "acct") -> tuple[int, int, int, int]:
    """Balance, overdraft, held and spent of the account."""
    return tuple(
        await bench.connection.fetchrow(
            "SELECT balance_micro, overdraft_micro, held_micro, spend_micro FROM account"
            " WHERE account_id = $1",
            account_id,
        )
    )


async def hold(bench: Desk, hold_id: str) -> tuple[Any, ...]:
    statement = "SELECT state, report, charged_micro FROM credit_hold WHERE hold_id = $1"
    return tuple(await bench.connection.fetchrow(statement, hold_id))


def event(event_id: str, hold_id: str, tokens: int = 1_000, account_id: str = "acct") -> Any:
    return usage(event_id, account_id, tokens={"input": tokens}, hold_id=hold_id)


@pytest.mark.parametrize("tokens", [1_000, 2_000, 8_000])
async def test_the_event_is_what_it_costs_cheaper_or_dearer(bench: Desk, tokens: int) -> None:
    await account(bench.connection, "acct", CREDIT)
    await sessions(bench, "job")
    assert await settled(bench) == REPORTED_MICRO
    assert await hold(bench, "job") == ("settled", "charged", REPORTED_MICRO)
    assert await replaced(bench.connection) == (0, 0)
    await bench.apply(event("e1", "job", tokens))
    event_micro = EVENT_MICRO * tokens // 1_000
    assert await hold(bench, "job") == ("settled", "overtaken", REPORTED_MICRO)
    assert (await preview(bench.connection, AFTER_SECONDS))["replaced"] == 1
    assert await replaced(bench.connection) == (1, REPORTED_MICRO)
    assert await hold(bench, "job") == ("settled", "replaced", event_micro)
    assert await facts(bench) == (CREDIT - event_micro, 0, 0, event_micro)
    await bench.apply(event("e2", "job"), first=1)
    assert await replaced(bench.connection) == (0, 0)


async def test_history_says_it_in_words(bench: Desk) -> None:
    await account(bench.connection, "acct", CREDIT)
    await sessions(bench, "job")
    await settled(bench)
    await bench.apply(event("e1", "job"))
    await replaced(bench.connection)
    page = await history(bench.connection, "acct", Filters(), 10, None)
    assert [
        (row["type"], row["amount_micro"], row["hold_id"], row["event_id"], row["actor"])
        for row in page.entries[:3]
    ] == [
        ("REVERSAL", REPORTED_MICRO, "job", "e1", "reconcile"),
        ("USAGE", -EVENT_MICRO, "job", "e1", "tests"),
        ("SETTLE", -REPORTED_MICRO, "job", None, "reconcile"),
    ]
    assert page.entries[0]["reason"] == (
        "a usage event came after all: what the session reported last is not charged as well"
    )


async def test_several_events_and_several_sessions_of_one_account(bench: Desk) -> None:
    await account(bench.connection, "acct", CREDIT)
    await sessions(bench, "a", "b", "c")
    await settled(bench)
    await bench.apply(event("e1", "a"), event("e2", "b"), event("e3", "a"))
    await bench.apply(event("e4", "b"), first=3)
    assert await replaced(bench.connection) == (2, 2 * REPORTED_MICRO)
    assert await hold(bench, "a") == ("settled", "replaced", 2 * EVENT_MICRO)
    assert await hold(bench, "b") == ("settled", "replaced", 2 * EVENT_MICRO)
    assert await hold(bench, "c") == ("settled", "charged", REPORTED_MICRO)
    spent_micro = REPORTED_MICRO + 4 * EVENT_MICRO
    assert await facts(bench) == (CREDIT - spent_micro, 0, 0, spent_micro)


async def test_overdraft_is_repaid_before_anything_is_a_grant(bench: Desk) -> None:
    await account(bench.connection, "acct", 5_000)
    await sessions(bench, "job")
    await settled(bench)
    await bench.apply(event("e1", "job"))
    assert await facts(bench) == (5_000 - 11_250, 6_250, 0, 11_250)
    await replaced(bench.connection)
    assert await facts(bench) == (5_000 - EVENT_MICRO, 0, 0, EVENT_MICRO)
    left = await bench.connection.fetch(
        "SELECT source, amount_micro, expires_at FROM credit_grant WHERE NOT spent"
    )
    assert [tuple(row) for row in left] == [("reversal", 1_250, None)]


@pytest.mark.parametrize("late", [False, True])
async def test_what_an_earlier_month_spent_is_not_spent_less_in_this_one(
    bench: Desk, *, late: bool
) -> None:
    """Whether the account spent before in this month or not; beside one of this month."""
    await account(bench.connection, "acct", CREDIT)
    await sessions(bench, "old")
    await settled(bench)
    await run_sql(bench.settings, *_A_MONTH_AGO)
    if late:
        await sessions(bench, "new")
        await settled(bench)
    values = [event("e1", "old"), event("e2", "new")][: 1 + late]
    await bench.apply(*values)
    assert await replaced(bench.connection) == (1 + late, (1 + late) * REPORTED_MICRO)
    spent_micro = (1 + late) * EVENT_MICRO
    assert await facts(bench) == (CREDIT - spent_micro, 0, 0, spent_micro)


async def test_a_demo_account_has_nothing_to_take_back(bench: Desk) -> None:
    await account(bench.connection, "acct", CREDIT)
    await account(bench.connection, "later", CREDIT)
    await bench.connection.execute("UPDATE account SET demo = account_id = 'acct'")
    await sessions(bench, "job")
    await sessions(bench, "paid", account_id="later")
    assert await settled(bench) == REPORTED_MICRO
    await bench.connection.execute("UPDATE account SET demo = true")
    await bench.apply(event("e1", "job"), event("e2", "paid", account_id="later"))
    assert await replaced(bench.connection) == (1, REPORTED_MICRO)
    assert await hold(bench, "job") == ("settled", "", 0)
    assert await hold(bench, "paid") == ("settled", "replaced", 0)
    assert await facts(bench, "later") == (CREDIT, 0, 0, 0)


@pytest.mark.parametrize("first", ["void", "replace"])
async def test_a_voided_event_leaves_nothing_charged_in_either_order(
    bench: Desk, first: str
) -> None:
    """The event is the truth also when a person says that it did not happen."""
    await account(bench.connection, "acct", CREDIT)
    await sessions(bench, "job")
    await settled(bench)
    await bench.apply(event("e1", "job"))
    if first == "replace":
        await replaced(bench.connection)
    await void(bench.connection, request("e1"))
    assert await replaced(bench.connection) == ((0, 0) if first == "replace" else (1, 7_500))
    assert await facts(bench) == (CREDIT, 0, 0, 0)
    await settled(bench)
    assert await replaced(bench.connection) == (0, 0)


async def test_only_a_charge_for_a_report_is_taken_back(bench: Desk) -> None:
    """Not what a call settled, not what an event settled, and not by another account's event."""
    await account(bench.connection, "acct", 100 * CREDIT)
    await account(bench.connection, "other", CREDIT)
    async with gate(bench.settings) as entry:
        for hold_id in ("called", "evented"):
            await entry.hold(HoldRequest("acct", CREDIT, "app", hold_id))
        await entry.settle("called", Spending("acct", "app", CREDIT))
    await bench.apply(event("e0", "early"))
    await sessions(bench, "early", "mine")
    assert await settled(bench) == REPORTED_MICRO
    values = [event(f"e{n}", name) for n, name in enumerate(("called", "evented", "early"), 1)]
    await bench.apply(*values, event("e4", "mine", account_id="other"), first=1)
    await bench.apply(event("e5", "evented"), first=5)
    assert await replaced(bench.connection) == (0, 0)
    assert await hold(bench, "mine") == ("settled", "charged", REPORTED_MICRO)


async def _a_thousand(bench: Desk) -> None:
    """Sessions of 20 accounts, each with an event after its report was charged."""
    holds = [f"job-{n}" for n in range(1_000)]
    for n in range(20):
        await account(bench.connection, f"a{n}", CREDIT)
        await sessions(bench, *holds[n::20], account_id=f"a{n}")
    assert await settled(bench) == 1_000 * REPORTED_MICRO
    values = [event(f"e{n}", f"job-{n}", account_id=f"a{n % 20}") for n in range(1_000)]
    assert (await bench.apply(*values)).charged == 1_000


async def test_a_thousand_by_two_schedulers_at_once(bench: Desk) -> None:
    await _a_thousand(bench)
    async with _connected(bench.settings) as rival:
        both = await asyncio.gather(replaced(bench.connection, 1), replaced(rival, 2))
    assert sum(holds for holds, _ in both) == 1_000
    assert sum(micro for _, micro in both) == 1_000 * REPORTED_MICRO
    for n in range(20):
        spent_micro = 50 * EVENT_MICRO
        assert await facts(bench, f"a{n}") == (CREDIT - spent_micro, 0, 0, spent_micro)


async def test_killed_in_the_middle_it_goes_on(bench: Desk) -> None:
    """Its connection dies when all of a transaction is done but its figures."""
    await _a_thousand(bench)
    run_id = await bench.connection.fetchval(
        "INSERT INTO job_run (job, job_key, dry_run, requested_by)"
        " VALUES ('reconcile', 'k', false, 'tests') RETURNING run_id"
    )
    async with _connected(bench.settings) as dying:
        async with bench.connection.transaction():
            await bench.connection.execute("SELECT FROM job_run FOR UPDATE")
            running = asyncio.create_task(replaced(dying, run_id))
            await _waits_for_a_lock(bench)
            await bench.connection.execute(
                "SELECT pg_terminate_backend($1)", dying.get_server_pid()
            )
            with pytest.raises((asyncpg.PostgresError, asyncpg.InterfaceError)):
                await running
        assert await replaced(bench.connection, run_id) == (1_000, 1_000 * REPORTED_MICRO)
    figures = await bench.connection.fetchval("SELECT figures ->> 'replaced' FROM job_run")
    assert figures == "1000"


async def test_it_locks_the_account_before_the_hold(bench: Desk) -> None:
    """As the rater does, or the two wait for each other."""
    await account(bench.connection, "acct", CREDIT)
    await sessions(bench, "job")
    await settled(bench)
    await bench.apply(event("e1", "job"))
    async with _connected(bench.settings) as rival:
        async with rival.transaction():
            await rival.execute("SELECT FROM account FOR NO KEY UPDATE")
            running = asyncio.create_task(replaced(bench.connection))
            await _waits_for_a_lock(bench)
            await rival.execute("SELECT FROM credit_hold FOR NO KEY UPDATE NOWAIT")
        assert await running == (1, REPORTED_MICRO)


async def _waits_for_a_lock(bench: Desk) -> None:
    async with asyncio.timeout(10), _connected(bench.settings) as watcher:
        while not await watcher.fetchval(_WAITING):
            await asyncio.sleep(0.02)


async def test_event_and_reconciliation_at_one_moment(bench: Desk) -> None:
    """Whoever gets the account's lock first: in the end each session cost its event."""
    await account(bench.connection, "acct", CREDIT)
    prices = PriceSource()

    async def reconciled(connection: asyncpg.Connection) -> None:
        async for _ in reconcile(connection, 2, AFTER_SECONDS, prices):
            pass
        await replaced(connection)

    async with _connected(bench.settings) as rival:
        for n in range(10):
            await sessions(bench, f"job-{n}")
            await asyncio.gather(
                reconciled(rival), bench.apply(event(f"e{n}", f"job-{n}"), first=n)
            )
    await reconciled(bench.connection)
    spent_micro = 10 * EVENT_MICRO
    assert await facts(bench) == (CREDIT - spent_micro, 0, 0, spent_micro)


@asynccontextmanager
async def _connected(settings: Settings) -> AsyncIterator[asyncpg.Connection]:
    made = await connect(settings, application_name="rival")
    try:
        yield made
    finally:
        await made.close()
