"""Many at once: what is promised and spent never exceeds what was given."""

import asyncio
import random
from collections.abc import AsyncIterator

import asyncpg
import pytest

from adapters.accounts import GrantRequest, give
from adapters.gate import Gate, HoldRequest
from adapters.gate_account import Spending
from adapters.gate_outcomes import Closed, Deducted, Denied, Held
from adapters.postgres import connect
from adapters.settings import Settings
from core.holds import Denial, Limits
from tests.batches import Desk, desk, usage
from tests.gates import CREDIT, account, assert_sound, gate


@pytest.fixture
async def connection(settings: Settings) -> AsyncIterator["asyncpg.Connection[asyncpg.Record]"]:
    made = await connect(settings, application_name="test")
    yield made
    await assert_sound(made)
    await made.close()


@pytest.fixture
async def the_gate(settings: Settings) -> AsyncIterator[Gate]:
    async with gate(settings) as made:
        yield made


async def test_of_200_holds_of_the_whole_balance_one_wins(
    the_gate: Gate, connection: asyncpg.Connection
) -> None:
    await account(connection, "acme", 100 * CREDIT)
    request = HoldRequest("acme", 100 * CREDIT, "app")
    outcomes = await asyncio.gather(*(the_gate.hold(request) for _ in range(200)))
    assert sum(isinstance(outcome, Held) for outcome in outcomes) == 1
    denials = {outcome.denial for outcome in outcomes if isinstance(outcome, Denied)}
    assert denials == {Denial.INSUFFICIENT}


async def test_the_cap_holds_too(the_gate: Gate, connection: asyncpg.Connection) -> None:
    await account(connection, "acme", 10_000 * CREDIT)
    await connection.execute("UPDATE account SET monthly_cap_micro = 100000000")
    work = [the_gate.hold(HoldRequest("acme", 7 * CREDIT, "app")) for _ in range(60)]
    work += [the_gate.deduct(Spending("acme", "app", 7 * CREDIT)) for _ in range(60)]
    outcomes = await asyncio.gather(*work)
    assert sum(isinstance(outcome, Held | Deducted) for outcome in outcomes) == 100 // 7


@pytest.mark.parametrize("seed", [1, 2])
async def test_everything_at_once_never_promises_more_than_there_is(  # noqa: C901 - five actors
    settings: Settings, the_gate: Gate, connection: asyncpg.Connection, seed: int
) -> None:
    """Holds, ends, deductions, grants and the rater on three accounts. Overdraft can come only
    from work that nobody held credits for: the events that the rater charged.
    """
    chance = random.Random(seed)
    names = ["acct-a", "acct-b", "acct-c"]
    for name in names:
        await account(connection, name, 200 * CREDIT)

    async def app() -> None:
        for _ in range(25):
            name = chance.choice(names)
            outcome = await the_gate.hold(HoldRequest(name, chance.randint(1, 60) * CREDIT, "app"))
            if isinstance(outcome, Denied):
                continue
            await asyncio.sleep(chance.random() / 100)
            await end(chance, the_gate, outcome)

    async def deducts() -> None:
        for _ in range(40):
            spending = Spending(chance.choice(names), "app", chance.randint(1, 20) * CREDIT)
            await the_gate.deduct(spending)

    async def grants(own: asyncpg.Connection) -> None:
        for _ in range(20):
            await give(own, GrantRequest(chance.choice(names), 3 * CREDIT, actor="admin"))

    async def rates(rater: Desk) -> None:
        for n in range(15):
            values = [usage(f"e{n}-{name}", name, tokens={"input": 50_000}) for name in names]
            await rater.apply(*values, first=n * 3)

    other = await connect(settings, application_name="grants")
    async with desk(settings) as rater:
        await rater.open()
        await asyncio.gather(app(), app(), app(), deducts(), deducts(), grants(other), rates(rater))
    await other.close()
    await assert_sound(connection)
    rows = await connection.fetch(
        "SELECT overdraft_micro, held_micro, charged_micro FROM account JOIN"
        " (SELECT account_id, sum(amount_micro) AS charged_micro FROM charge GROUP BY 1) AS charged"
        " USING (account_id)"
    )
    assert all(row["held_micro"] == 0 for row in rows)
    assert all(row["overdraft_micro"] <= row["charged_micro"] for row in rows)


async def end(chance: random.Random, the_gate: Gate, hold: Held) -> None:
    """Two ends at once; one of them wins."""
    share = chance.randint(0, hold.amount_micro)
    outcomes = await asyncio.gather(
        the_gate.settle(hold.hold_id, Spending(hold.account_id, "app", share)),
        the_gate.release(hold.account_id, hold.hold_id, "app"),
    )
    assert sum(isinstance(outcome, Closed) for outcome in outcomes) == 1


async def test_without_the_lock_the_same_credits_are_promised_twice(
    settings: Settings, connection: asyncpg.Connection, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The guard taken out: this is what the tests above would find."""
    from adapters import gate_account  # noqa: PLC0415

    unlocked = gate_account.SQL.lock_funds.replace("FOR NO KEY UPDATE", "")
    slow = gate_account.SQL.read_reserves.replace("SELECT 1", "SELECT pg_sleep(0.05)")
    statements = type(gate_account.SQL)(
        {name: getattr(gate_account.SQL, name) for name in gate_account.SQL.names()}
        | {"lock_funds": unlocked, "read_reserves": slow}
    )
    monkeypatch.setattr(gate_account, "SQL", statements)
    await account(connection, "acme", 100 * CREDIT)
    # The statement that makes plain holds has the same lock: without it as well.
    written = await connection.fetchval("SELECT pg_get_functiondef('hold_at_once'::regproc)")
    assert written.count("FOR NO KEY UPDATE") == 1
    slowly = written.replace("FOR NO KEY UPDATE", "").replace(
        "INSERT INTO credit_hold", "PERFORM pg_sleep(0.05); INSERT INTO credit_hold"
    )
    await connection.execute(slowly)
    limits = Limits(10 * CREDIT, 1_000)
    async with gate(settings, limits=limits) as open_gate:
        request = HoldRequest("acme", 100 * CREDIT, "app")
        outcomes = await asyncio.gather(*(open_gate.hold(request) for _ in range(200)))
    assert sum(isinstance(outcome, Held) for outcome in outcomes) > 1
