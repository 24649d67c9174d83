"""The gate on a real PostgreSQL: one account's operations, and what each refuses."""

import asyncio
from collections.abc import AsyncIterator

import asyncpg
import pytest

from adapters.gate import Gate, HoldRequest
from adapters.gate_account import Spending
from adapters.gate_outcomes import Closed, Deducted, Denied, Held
from adapters.idempotency import Key, KeyConflict
from adapters.postgres import connect
from adapters.settings import Settings
from core.holds import Denial, HoldState, Limits
from tests.batches import desk, usage
from tests.gates import CREDIT, LIMITS, account, assert_sound, gate


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


def key(name: str, body: bytes = b"body", caller: str = "app") -> Key:
    return Key(caller, name, "hold", body)


async def held(the_gate: Gate, amount: int, hold_id: str = "h1", account_id: str = "acme") -> Held:
    outcome = await the_gate.hold(HoldRequest(account_id, amount * CREDIT, "app", hold_id))
    assert isinstance(outcome, Held)
    return outcome


class TestCheck:
    async def test_it_reserves_nothing_and_counts_what_is_reserved(
        self, the_gate: Gate, connection: asyncpg.Connection
    ) -> None:
        await account(connection, "acme", 100 * CREDIT)
        for _ in range(3):
            assert (await the_gate.check("acme", 100 * CREDIT)).sufficient
        await held(the_gate, 60)
        answer = await the_gate.check("acme", 41 * CREDIT)
        assert (answer.sufficient, answer.denial) == (False, Denial.INSUFFICIENT)
        assert answer.available_micro == 40 * CREDIT
        assert (await the_gate.check("acme", 40 * CREDIT)).sufficient

    async def test_nobody_starts_below_the_minimum(
        self, the_gate: Gate, connection: asyncpg.Connection
    ) -> None:
        await account(connection, "acme", LIMITS.minimum_micro - 1)
        answer = await the_gate.check("acme", 1)
        assert (answer.sufficient, answer.denial) == (False, Denial.BELOW_MINIMUM)

    async def test_an_unknown_account_is_a_no(self, the_gate: Gate) -> None:
        assert (await the_gate.check("nobody", 1)).denial is Denial.UNKNOWN_ACCOUNT

    async def test_what_is_left_of_an_expired_grant_is_not_available(
        self, the_gate: Gate, connection: asyncpg.Connection
    ) -> None:
        await account(connection, "acme", 100 * CREDIT)
        await connection.execute("UPDATE credit_grant SET expires_at = now() - interval '1 second'")
        assert (await the_gate.check("acme", 1)).denial is Denial.INSUFFICIENT
        outcome = await the_gate.hold(HoldRequest("acme", CREDIT, "app"))
        assert isinstance(outcome, Denied)

    async def test_the_cap_counts_this_month_and_what_is_held(
        self, settings: Settings, the_gate: Gate, connection: asyncpg.Connection
    ) -> None:
        await account(connection, "acct", 1_000 * CREDIT)
        await connection.execute("UPDATE account SET monthly_cap_micro = 100000000")
        async with desk(settings) as rater:
            await rater.open()
            await rater.apply(usage("e1", tokens={"input": 10_666_667}))  # 40.00000125 credits
        await held(the_gate, 30, account_id="acct")
        answer = await the_gate.check("acct", 30 * CREDIT)
        assert (answer.sufficient, answer.denial) == (False, Denial.CAP)
        assert (await the_gate.check("acct", 29 * CREDIT)).sufficient
        await connection.execute("UPDATE account SET spend_month = spend_month - 40")
        assert (await the_gate.check("acct", 30 * CREDIT)).sufficient


class TestHold:
    async def test_a_refused_hold_changes_nothing(
        self, the_gate: Gate, connection: asyncpg.Connection
    ) -> None:
        await account(connection, "acme", 100 * CREDIT)
        before = await connection.fetchrow("SELECT * FROM account")
        outcome = await the_gate.hold(HoldRequest("acme", 101 * CREDIT, "app"))
        assert outcome == Denied(Denial.INSUFFICIENT, 100 * CREDIT)
        assert await connection.fetchrow("SELECT * FROM account") == before
        assert await connection.fetchval("SELECT count(*) FROM credit_hold") == 0

    async def test_an_id_is_taken_once_whoever_asks(
        self, the_gate: Gate, connection: asyncpg.Connection
    ) -> None:
        await account(connection, "acme", 100 * CREDIT)
        await account(connection, "other", 100 * CREDIT)
        await held(the_gate, 10)
        for account_id in ("acme", "other"):
            outcome = await the_gate.hold(HoldRequest(account_id, CREDIT, "app", "h1"))
            assert isinstance(outcome, Denied)
            assert outcome.denial is Denial.ID_TAKEN

    async def test_open_holds_are_bounded(
        self, settings: Settings, connection: asyncpg.Connection
    ) -> None:
        await account(connection, "acme", 100 * CREDIT)
        few = type(LIMITS)(LIMITS.minimum_micro, 2)
        async with gate(settings, limits=few) as strict:
            await held(strict, 1, "h1")
            await held(strict, 1, "h2")
            outcome = await strict.hold(HoldRequest("acme", CREDIT, "app"))
        assert isinstance(outcome, Denied)
        assert outcome.denial is Denial.TOO_MANY_HOLDS

    async def test_a_usage_event_that_names_it_settles_it(
        self, settings: Settings, the_gate: Gate, connection: asyncpg.Connection
    ) -> None:
        await account(connection, "acct", 100 * CREDIT)
        await held(the_gate, 50, account_id="acct")
        async with desk(settings) as rater:
            await rater.open()
            await rater.apply(usage("e1", hold_id="h1"))
        row = await connection.fetchrow("SELECT state, charged_micro FROM credit_hold")
        assert tuple(row) == ("settled", 3_750)
        outcome = await the_gate.release("acct", "h1", "app")
        assert isinstance(outcome, Denied)
        assert outcome.denial is Denial.NOT_OPEN


class TestEnds:
    async def test_settling_charges_what_the_work_cost(
        self, the_gate: Gate, connection: asyncpg.Connection
    ) -> None:
        await account(connection, "acme", 100 * CREDIT)
        await held(the_gate, 50)
        closed = await the_gate.settle("h1", Spending("acme", "app", 30 * CREDIT))
        assert isinstance(closed, Closed)
        assert (closed.charged_micro, closed.balance_micro) == (30 * CREDIT, 70 * CREDIT)
        assert (await the_gate.check("acme", 70 * CREDIT)).sufficient

    async def test_work_that_cost_more_than_there_is_becomes_overdraft(
        self, the_gate: Gate, connection: asyncpg.Connection
    ) -> None:
        await account(connection, "acme", 100 * CREDIT)
        await held(the_gate, 50)
        closed = await the_gate.settle("h1", Spending("acme", "app", 130 * CREDIT))
        assert isinstance(closed, Closed)
        assert closed.balance_micro == -30 * CREDIT
        overdraft = await connection.fetchval("SELECT overdraft_micro FROM account")
        assert overdraft == 30 * CREDIT

    @pytest.mark.parametrize("first", ["settle", "release"])
    async def test_a_hold_ends_once(
        self, the_gate: Gate, connection: asyncpg.Connection, first: str
    ) -> None:
        await account(connection, "acme", 100 * CREDIT)
        await held(the_gate, 50)
        ends = {
            "settle": lambda: the_gate.settle("h1", Spending("acme", "app", 30 * CREDIT)),
            "release": lambda: the_gate.release("acme", "h1", "app"),
        }
        done = await ends[first]()
        assert isinstance(done, Closed)
        assert done.state is (HoldState.SETTLED if first == "settle" else HoldState.RELEASED)
        for end in ends.values():
            again = await end()
            assert isinstance(again, Denied)
            assert again.denial is Denial.NOT_OPEN

    async def test_a_hold_of_another_account_is_no_hold(
        self, the_gate: Gate, connection: asyncpg.Connection
    ) -> None:
        await account(connection, "acme", 100 * CREDIT)
        await account(connection, "thief", 100 * CREDIT)
        await held(the_gate, 50)
        for outcome in (
            await the_gate.settle("h1", Spending("thief", "app", CREDIT)),
            await the_gate.release("thief", "h1", "app"),
            await the_gate.extend("thief", "h1", CREDIT),
        ):
            assert isinstance(outcome, Denied)
            assert outcome.denial is Denial.NO_SUCH_HOLD
        assert await connection.fetchval("SELECT state FROM credit_hold") == "open"

    async def test_a_session_grows_while_it_can(
        self, the_gate: Gate, connection: asyncpg.Connection
    ) -> None:
        await account(connection, "acme", 100 * CREDIT)
        await held(the_gate, 50)
        grown = await the_gate.extend("acme", "h1", 45 * CREDIT, usage='{"tokens":{"input":7}}')
        assert isinstance(grown, Held)
        assert (grown.amount_micro, grown.available_micro) == (95 * CREDIT, 5 * CREDIT)
        refused = await the_gate.extend("acme", "h1", 6 * CREDIT)
        assert refused == Denied(Denial.INSUFFICIENT, 5 * CREDIT)
        assert await connection.fetchval("SELECT usage FROM credit_hold") != ""


class TestDeduct:
    async def test_it_charges_or_refuses_in_full(
        self, the_gate: Gate, connection: asyncpg.Connection
    ) -> None:
        await account(connection, "acme", 100 * CREDIT)
        done = await the_gate.deduct(Spending("acme", "app", 10 * CREDIT, metadata='{"model":"x"}'))
        assert isinstance(done, Deducted)
        assert done.balance_micro == 90 * CREDIT
        await held(the_gate, 50)
        refused = await the_gate.deduct(Spending("acme", "app", 41 * CREDIT))
        assert refused == Denied(Denial.INSUFFICIENT, 40 * CREDIT)

    async def test_nothing_is_taken_from_a_demo_account(
        self, the_gate: Gate, connection: asyncpg.Connection
    ) -> None:
        await account(connection, "acme", 100 * CREDIT)
        await connection.execute("UPDATE account SET demo = true")
        done = await the_gate.deduct(Spending("acme", "app", 10 * CREDIT))
        assert done == Deducted("acme", 0, 100 * CREDIT, None)


class TestKeys:
    async def test_the_same_request_gets_the_same_reply_and_has_one_effect(
        self, the_gate: Gate, connection: asyncpg.Connection
    ) -> None:
        await account(connection, "acme", 100 * CREDIT)
        request = HoldRequest("acme", 10 * CREDIT, "app")
        first = await the_gate.hold(request, key("k1"))
        assert await the_gate.hold(request, key("k1")) == first
        assert await connection.fetchval("SELECT held_micro FROM account") == 10 * CREDIT

    async def test_another_request_with_the_key_is_refused(
        self, the_gate: Gate, connection: asyncpg.Connection
    ) -> None:
        await account(connection, "acme", 100 * CREDIT)
        request = HoldRequest("acme", 10 * CREDIT, "app")
        await the_gate.hold(request, key("k1"))
        with pytest.raises(KeyConflict):
            await the_gate.hold(request, key("k1", b"other"))

    async def test_another_caller_may_use_the_same_key(
        self, the_gate: Gate, connection: asyncpg.Connection
    ) -> None:
        await account(connection, "acme", 100 * CREDIT)
        request = HoldRequest("acme", 10 * CREDIT, "app")
        first = await the_gate.hold(request, key("k1"))
        assert await the_gate.hold(request, key("k1", caller="other")) != first

    async def test_fifty_at_once_have_one_effect(
        self, the_gate: Gate, connection: asyncpg.Connection
    ) -> None:
        await account(connection, "acme", 100 * CREDIT)
        request = HoldRequest("acme", 2 * CREDIT, "app")
        outcomes = await asyncio.gather(*(the_gate.hold(request, key("k1")) for _ in range(50)))
        assert len({repr(outcome) for outcome in outcomes}) == 1
        assert await connection.fetchval("SELECT held_micro FROM account") == 2 * CREDIT

    async def test_fifty_at_once_for_unlike_accounts_have_one_effect(
        self, the_gate: Gate, connection: asyncpg.Connection
    ) -> None:
        """No lock of an account keeps these apart: the key's row does."""
        for n in range(10):
            await account(connection, f"acct{n}", 100 * CREDIT)
        outcomes = await asyncio.gather(
            *(
                the_gate.hold(HoldRequest(f"acct{n % 10}", 2 * CREDIT, "app"), key("k1"))
                for n in range(50)
            )
        )
        assert len({repr(outcome) for outcome in outcomes}) == 1
        held_micro = await connection.fetchval("SELECT sum(held_micro)::bigint FROM account")
        assert held_micro == 2 * CREDIT


async def test_too_many_holds_is_not_kept_with_the_key(
    settings: Settings, connection: asyncpg.Connection
) -> None:
    """Whoever waits as Retry-After says, and asks again with the same key, is let in."""
    await account(connection, "acme", 100 * CREDIT)
    async with gate(settings, limits=Limits(10 * CREDIT, open_holds_max=1)) as entry:
        first = HoldRequest("acme", CREDIT, "app", "first")
        assert isinstance(await entry.hold(first, key("k-1")), Held)
        wanted = HoldRequest("acme", CREDIT, "app", "second")
        no = await entry.hold(wanted, key("k-2"))
        assert isinstance(no, Denied)
        assert no.denial is Denial.TOO_MANY_HOLDS
        await entry.release("acme", "first", "app")
        made = await entry.hold(wanted, key("k-2"))
        assert isinstance(made, Held)
        assert await entry.hold(wanted, key("k-2")) == made


async def test_of_one_key_at_once_for_the_last_place_all_are_told_the_same(
    settings: Settings, connection: asyncpg.Connection
) -> None:
    await account(connection, "acme", 100 * CREDIT)
    async with gate(settings, limits=Limits(10 * CREDIT, open_holds_max=1)) as entry:
        wanted = HoldRequest("acme", CREDIT, "app")
        same = await asyncio.gather(*(entry.hold(wanted, key("k")) for _ in range(8)))
    assert isinstance(same[0], Held)
    assert same == [same[0]] * 8
