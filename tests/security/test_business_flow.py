"""S13: rules that are kept, one by one, and used together for what they were not made for."""

from collections.abc import AsyncIterator
from datetime import timedelta

import asyncpg
import pytest

from adapters.gate import Gate, HoldRequest
from adapters.gate_account import Spending
from adapters.gate_outcomes import Closed, Denied, Held
from adapters.postgres import connect
from adapters.refresh import RefreshRun, refresh_due
from adapters.settings import Settings
from core.refresh import Terms
from tests.apis import client, serve, with_tokens
from tests.batches import NOW, desk, usage
from tests.gates import CREDIT, account, assert_sound, gate

TERMS = Terms({"free": 1_000 * CREDIT, "pro": 20_000 * CREDIT}, rollover_max_micro=0)


@pytest.fixture
async def connection(settings: Settings) -> AsyncIterator["asyncpg.Connection[asyncpg.Record]"]:
    made = await connect(settings, application_name="test")
    for name in ("acme", "eve"):
        await account(made, name, 100 * CREDIT)
    yield made
    await assert_sound(made)
    await made.close()


async def hold(the_gate: Gate, hold_id: str, account_id: str = "eve") -> object:
    return await the_gate.hold(HoldRequest(account_id, 30 * CREDIT, "app", hold_id))


async def test_holds_settled_for_nothing_late_or_of_others(
    settings: Settings, connection: asyncpg.Connection
) -> None:
    balance = "SELECT balance_micro FROM account WHERE account_id = $1"
    async with gate(settings) as the_gate, desk(settings) as rater:
        await rater.open()
        assert isinstance(await hold(the_gate, "free-work"), Held)
        assert isinstance(await the_gate.settle("free-work", Spending("eve", "app", 0)), Closed)
        assert await connection.fetchval(balance, "eve") == 100 * CREDIT
        # What was used is charged all the same, whatever the hold was settled for.
        await rater.apply(usage("work", "eve", hold_id="free-work"))
        assert await connection.fetchval(balance, "eve") < 100 * CREDIT
        # Late, after its life: the reserve is still there, and the spending is booked.
        assert isinstance(await hold(the_gate, "late"), Held)
        await connection.execute(
            "UPDATE credit_hold SET expires_at = $1 WHERE hold_id = 'late'", NOW - timedelta(days=1)
        )
        before = await connection.fetchval(balance, "eve")
        closed = await the_gate.settle("late", Spending("eve", "app", 20 * CREDIT))
        assert isinstance(closed, Closed)
        assert await connection.fetchval(balance, "eve") == before - 20 * CREDIT
        # An id that an app took first for another account, for holds and for events.
        assert isinstance(await hold(the_gate, "squatted"), Held)
        assert isinstance(await hold(the_gate, "squatted", "acme"), Denied)
        assert isinstance(
            await the_gate.settle("squatted", Spending("acme", "app", CREDIT)), Denied
        )
        await rater.apply(usage("same", "eve"), usage("same", "acme", hold_id="squatted"), first=1)
    charged = await connection.fetch("SELECT account_id FROM charge WHERE event_id = 'same'")
    assert {row["account_id"] for row in charged} == {"eve", "acme"}
    state = "SELECT state FROM credit_hold WHERE hold_id = 'squatted'"
    assert await connection.fetchval(state) == "open"


async def test_no_user_takes_ids_of_holds_away_or_learns_which_there_are(
    settings: Settings, connection: asyncpg.Connection
) -> None:
    """An id is of one hold for ever, whoever's: a released one of eve would stop a job of acme."""
    eves, acmes = "/api/v1/accounts/eve", "/api/v1/accounts/acme"
    async with (
        serve(with_tokens(settings)) as address,
        client(address, "eve") as eve,
        client(address, "chat", "service") as app,
    ):
        for place, field in (("holds", "hold_id"), ("sessions", "session_id")):
            there = await app.post(f"{acmes}/{place}", json={"credits": 1, field: f"{place}-1"})
            assert there.status_code == 201
            refused = [
                await eve.post(f"{eves}/{place}", json={"credits": "0.000001", field: name})
                for name in (f"{place}-1", f"{place}-2", f"{place}-2")  # the last: the short way
            ]
            assert {(one.status_code, one.json().get("code")) for one in refused} == {
                (403, "own_id")
            }
            assert len({one.text for one in refused}) == 1
            free = await app.post(f"{acmes}/{place}", json={"credits": 1, field: f"{place}-2"})
            assert free.status_code == 201
            made = [
                await eve.post(
                    f"{eves}/{place}", json={"credits": 1}, headers={"Idempotency-Key": place}
                )
                for _ in range(2)
            ]
            assert [one.status_code for one in made] == [201, 201]
            assert made[0].json() == made[1].json()


async def test_a_change_of_plan_and_back_is_no_second_allowance(
    connection: asyncpg.Connection,
) -> None:
    await connection.execute(
        "INSERT INTO allowance (account_id, due_at) VALUES ('eve', now() - interval '1 second')"
    )
    for number, tier in enumerate(("pro", "free", "pro", "free")):
        await connection.execute("UPDATE account SET tier = $1 WHERE account_id = 'eve'", tier)
        run = RefreshRun(number + 1, "tests", "flip", TERMS)
        done = [batch async for batch in refresh_due(connection, run, 10)]
        assert sum(batch.refreshed for batch in done) == (number == 0)
    given = await connection.fetchval(
        "SELECT sum(amount_micro) FROM refresh WHERE account_id = 'eve'"
    )
    assert given == TERMS.tier_micro["pro"]
