"""S11: what is too large for one admin waits for another, whatever is tried at the same moment."""

import asyncio
import json
from collections.abc import AsyncIterator
from datetime import UTC, datetime, timedelta
from typing import Any

import asyncpg
import pytest

from adapters.accounts import Granted, GrantRequest
from adapters.adjustments import Adjusted, Adjustment
from adapters.admin_acts import Admin
from adapters.audit_log import list_acts
from adapters.coupons import NewCoupon
from adapters.dual_control import (
    Decided,
    Policy,
    adjust_or_propose,
    approve,
    give_or_propose,
    make_coupon_or_propose,
    reject,
)
from adapters.failures import Failure
from adapters.postgres import Connection, Pool, connect, open_pool
from adapters.proposals import Proposal, read
from adapters.settings import Settings
from core.coupons import CouponKind
from core.dual_control import ProposalRefusal, ProposalState
from tests.gates import CREDIT, account, assert_sound

POLICY = Policy(limit_micro=1_000 * CREDIT, days=7)
BALANCE = "SELECT balance_micro FROM account WHERE account_id = $1"
OVER = "UPDATE credit_proposal SET expires_at = now()"


@pytest.fixture
async def connection(settings: Settings) -> AsyncIterator["asyncpg.Connection[asyncpg.Record]"]:
    made = await connect(settings, application_name="test")
    await account(made, "acme", 100 * CREDIT)
    yield made
    await assert_sound(made)
    await made.close()


@pytest.fixture
async def pool(settings: Settings) -> AsyncIterator[Pool]:
    async with open_pool(settings, application_name="tests", size=20) as made:
        yield made


async def gives(
    connection: Connection, credit: int, actor: str = "anna", name: str = "acme", **fields: Any
) -> Granted | Proposal:
    request = GrantRequest(name, credit * CREDIT, actor, reason="a gift", **fields)
    async with connection.transaction():
        return await give_or_propose(connection, request, Admin(actor, "a gift", "r-1"), POLICY)


async def adjusts(
    connection: Connection, credit: int, actor: str = "anna", name: str = "acme"
) -> Adjusted | Proposal | None:
    wanted = Adjustment(name, credit * CREDIT, actor, "a mistake", "r-2")
    async with connection.transaction():
        return await adjust_or_propose(connection, wanted, POLICY)


async def makes(
    connection: Connection, code: str, credit: int, uses: int | None, actor: str = "anna"
) -> Proposal | None:
    coupon = NewCoupon(code, CouponKind.FIXED, actor, credit * CREDIT, uses_max=uses)
    async with connection.transaction():
        return await make_coupon_or_propose(connection, coupon, Admin(actor, "spring"), POLICY)


async def approves(
    connection: Connection, proposal: Proposal, actor: str = "bob"
) -> Decided | ProposalRefusal:
    async with connection.transaction():
        return await approve(connection, proposal.proposal_id, Admin(actor, "agreed", "r-3"))


async def rejects(
    connection: Connection, proposal: Proposal, actor: str = "bob"
) -> Decided | ProposalRefusal:
    async with connection.transaction():
        return await reject(connection, proposal.proposal_id, Admin(actor, "not agreed"))


async def proposed(connection: Connection, credit: int = 5_000, **fields: Any) -> Proposal:
    made = await gives(connection, credit, **fields)
    assert isinstance(made, Proposal)
    return made


async def test_up_to_the_limit_one_admin_is_enough(connection: asyncpg.Connection) -> None:
    assert isinstance(await gives(connection, 1_000), Granted)
    made = await proposed(connection, 1)
    assert (made.state, made.amount_micro, made.proposed_by) == ("pending", CREDIT, "anna")
    assert made.expires_at - made.proposed_at == timedelta(days=7)
    assert await connection.fetchval(BALANCE, "acme") == 1_100 * CREDIT
    assert isinstance(await gives(connection, 1_000, "bob"), Granted), "a limit for each admin"
    await account(connection, "other", CREDIT)
    assert isinstance(await gives(connection, 1_000, name="other"), Granted), "and each account"


async def test_splitting_is_no_way_around(connection: asyncpg.Connection) -> None:
    assert isinstance(await gives(connection, 400), Granted)
    assert isinstance(await adjusts(connection, -400, "cli:anna"), Adjusted)
    assert isinstance(await gives(connection, 201), Proposal)
    assert isinstance(await adjusts(connection, -201), Proposal)
    assert isinstance(await adjusts(connection, 200), Adjusted)
    assert isinstance(await adjusts(connection, 1), Proposal)


async def test_what_is_older_than_a_day_or_was_approved_does_not_count(
    connection: asyncpg.Connection,
) -> None:
    await connection.execute(
        "INSERT INTO credit_transaction (account_id, type, amount_micro, balance_after_micro,"
        " actor, created_at) VALUES ('acme', 'GRANT', $1, $1, 'anna', now() - interval '24 hours'),"
        " ('acme', 'ADJUSTMENT', -$1, 0, 'anna', now() - interval '24 hours')",
        900 * CREDIT,
    )
    assert isinstance(await approves(connection, await proposed(connection)), Decided)
    assert isinstance(await gives(connection, 1_000), Granted)


async def test_of_many_at_once_no_more_than_the_limit_is_booked(
    connection: asyncpg.Connection, pool: Pool
) -> None:
    async def one(number: int) -> object:
        async with pool.acquire() as own:
            return await (gives if number % 2 else adjusts)(own, 100)

    done = await asyncio.gather(*(one(number) for number in range(20)))
    assert sum(isinstance(each, Proposal) for each in done) == 10
    assert await connection.fetchval(BALANCE, "acme") == 1_100 * CREDIT


async def test_approved_it_is_what_the_direct_one_would_have_been(
    connection: asyncpg.Connection,
) -> None:
    async def books(name: str, *, alone: bool) -> None:
        await account(connection, name, CREDIT)
        fields = {"priority": 7, "expires_at": datetime(2030, 1, 1, tzinfo=UTC), "key": f"k-{name}"}
        policy = Policy(0 if alone else 1, 7)
        request = GrantRequest(name, 3_000 * CREDIT, "anna", reason="gift", **fields)  # type: ignore[arg-type]
        wanted = [Adjustment(name, credit * CREDIT, "anna", "why") for credit in (-4_000, 2_500)]
        for each in (wanted[0], request, wanted[1]):
            async with connection.transaction():
                done = (
                    await give_or_propose(connection, each, Admin("anna", "gift"), policy)
                    if isinstance(each, GrantRequest)
                    else await adjust_or_propose(connection, each, policy)
                )
            assert isinstance(done, Proposal) is not alone
            if isinstance(done, Proposal):
                assert isinstance(await approves(connection, done), Decided)

    await books("alone", alone=True)
    await books("twice", alone=False)
    names = {
        "credit_transaction": "type, status, amount_micro, balance_after_micro, actor, reason,"
        " left(idempotency_key, 2) AS key",
        "credit_grant": "source, granted_by, notes, priority, amount_micro, remaining_micro, spent,"
        " expires_at",
        "account": "balance_micro, overdraft_micro, held_micro, spend_micro",
    }
    for table, columns in names.items():
        query = f"SELECT {columns} FROM {table} WHERE account_id = $1 ORDER BY 1, 2, 3"  # noqa: S608
        rows = await connection.fetch(query, "alone")
        assert rows
        assert rows == await connection.fetch(query, "twice"), table
    said = await connection.fetch(
        "SELECT metadata FROM credit_transaction WHERE account_id = 'twice' AND metadata <> ''"
        " ORDER BY transaction_id"
    )
    assert [json.loads(row["metadata"]) for row in said] == [
        {"approved_by": "bob", "proposal_id": number} for number in (1, 2, 3)
    ]


async def test_of_twenty_approvers_at_once_one_books(
    connection: asyncpg.Connection, pool: Pool
) -> None:
    made = await proposed(connection)

    async def one(number: int) -> object:
        async with pool.acquire() as own:
            return await approves(own, made, f"admin-{number}")

    done = await asyncio.gather(*(one(number) for number in range(20)))
    assert sum(isinstance(each, Decided) for each in done) == 1
    assert done.count(ProposalRefusal.DECIDED) == 19
    assert await connection.fetchval(BALANCE, "acme") == 5_100 * CREDIT


async def test_approved_and_rejected_at_once_it_is_one_of_both(
    connection: asyncpg.Connection, pool: Pool
) -> None:
    made = await proposed(connection)

    async def one(number: int) -> object:
        async with pool.acquire() as own:
            return await (approves if number % 2 else rejects)(own, made, f"admin-{number}")

    done = await asyncio.gather(*(one(number) for number in range(10)))
    [decided] = [each for each in done if isinstance(each, Decided)]
    booked = decided.proposal.state is ProposalState.APPROVED
    assert await connection.fetchval(BALANCE, "acme") == (5_100 if booked else 100) * CREDIT


@pytest.mark.parametrize("actor", ["anna", "cli:anna"])
async def test_nobody_approves_the_own_proposal(connection: asyncpg.Connection, actor: str) -> None:
    made = await proposed(connection)
    assert await approves(connection, made, actor) is ProposalRefusal.OWN
    found = await read(connection, made.proposal_id)
    assert found == made
    with pytest.raises(asyncpg.CheckViolationError):
        await connection.execute(
            "UPDATE credit_proposal SET state = 'approved', decided_by = 'anna',"
            " decided_at = now(), transaction_id = 1"
        )


async def test_an_expired_one_is_not_booked_and_that_is_written_down(
    connection: asyncpg.Connection,
) -> None:
    made = await proposed(connection)
    await connection.execute("ALTER TABLE credit_proposal DISABLE TRIGGER USER")
    await connection.execute(OVER)
    await connection.execute("ALTER TABLE credit_proposal ENABLE TRIGGER USER")
    for _ in range(2):
        assert await approves(connection, made) is ProposalRefusal.EXPIRED
    assert await rejects(connection, made) is ProposalRefusal.EXPIRED
    found = await read(connection, made.proposal_id)
    assert found is not None
    assert (found.state, found.decided_by) == (ProposalState.EXPIRED, "bob")
    assert await connection.fetchval(BALANCE, "acme") == 100 * CREDIT
    acts = await list_acts(connection, action="expire_proposal")
    assert [(act["actor"], act["subject"]) for act in acts] == [("bob", "acme")]


async def test_what_can_not_be_booked_any_more_waits_on(connection: asyncpg.Connection) -> None:
    soon = datetime.now(UTC) + timedelta(seconds=0.2)
    made = await proposed(connection, expires_at=soon)
    await asyncio.sleep(0.3)
    with pytest.raises(Failure, match="over already"):
        await approves(connection, made)
    found = await rejects(connection, made)
    assert isinstance(found, Decided)
    assert found.proposal.state is ProposalState.REJECTED


@pytest.mark.parametrize(
    "statement",
    [
        "UPDATE credit_proposal SET state = 'rejected', transaction_id = NULL",
        "UPDATE credit_proposal SET decision = 'another reason'",
        "DELETE FROM credit_proposal",
        "TRUNCATE credit_proposal",
    ],
)
async def test_a_decided_one_never_changes(connection: asyncpg.Connection, statement: str) -> None:
    assert isinstance(await approves(connection, await proposed(connection)), Decided)
    with pytest.raises(asyncpg.RaiseError, match=r"decided once|append-only"):
        await connection.execute(statement)


async def test_what_was_proposed_never_changes(connection: asyncpg.Connection) -> None:
    await proposed(connection)
    for change in ("amount_micro = 1", "proposed_by = 'eve'", "expires_at = now()"):
        with pytest.raises(asyncpg.RaiseError, match="decided once"):
            await connection.execute(f"UPDATE credit_proposal SET {change}")  # noqa: S608


async def test_every_act_is_in_the_log_with_both_names(connection: asyncpg.Connection) -> None:
    first, second, third = [await proposed(connection) for _ in range(3)]
    await approves(connection, first)
    await rejects(connection, second)
    withdrawn = await rejects(connection, third, "cli:anna")
    assert isinstance(withdrawn, Decided)
    assert withdrawn.proposal.state is ProposalState.WITHDRAWN
    acts = await list_acts(connection, subject="acme")
    assert [(act["action"], act["actor"], act["reason"]) for act in acts] == [
        ("withdraw_proposal", "cli:anna", "not agreed"),
        ("reject_proposal", "bob", "not agreed"),
        ("approve_proposal", "bob", "agreed"),
        *[("propose", "anna", "a gift")] * 3,
    ]
    [approval] = [act["after"] for act in acts if act["action"] == "approve_proposal"]
    assert approval["proposed_by"] == "anna"
    assert (approval["balance_micro"], approval["amount_micro"]) == (5_100 * CREDIT, 5_000 * CREDIT)
    with pytest.raises(Failure, match="needs a reason"):
        await reject(connection, first.proposal_id, Admin("bob", " "))
    assert await approves(connection, first) is ProposalRefusal.DECIDED


async def test_a_key_is_one_gift_proposed_or_given(connection: asyncpg.Connection) -> None:
    made = await proposed(connection, key="order-1")
    assert await proposed(connection, key="order-1") == made
    for wrong in ({"credit": 4_999}, {"priority": 1}, {"name": "other"}):
        with pytest.raises(Failure, match="stands for another grant"):
            await gives(connection, **{"credit": 5_000, "key": "order-1", **wrong})  # type: ignore[arg-type]
    decided = await approves(connection, made)
    assert isinstance(decided, Decided)
    again = await gives(connection, 5_000, key="order-1")
    assert isinstance(again, Granted)
    assert (again.repeated, again.transaction_id) == (True, decided.proposal.transaction_id)
    direct = await gives(connection, 900, key="order-2")
    await gives(connection, 100)
    repeated = await gives(connection, 900, key="order-2")
    assert isinstance(repeated, Granted)
    assert isinstance(direct, Granted)
    assert repeated.transaction_id == direct.transaction_id


async def test_a_key_at_the_same_moment_for_two_accounts_is_one_proposal(
    connection: asyncpg.Connection, pool: Pool
) -> None:
    names = [f"acct-{number}" for number in range(6)]
    for name in names:
        await account(connection, name, CREDIT)

    async def one(name: str) -> object:
        async with pool.acquire() as own:
            return await gives(own, 5_000, name=name, key="one")

    done = await asyncio.gather(*map(one, names), return_exceptions=True)
    assert sum(isinstance(each, Proposal) for each in done) == 1
    assert sum(isinstance(each, Failure) for each in done) == 5


async def test_a_coupon_counts_with_all_its_uses(connection: asyncpg.Connection) -> None:
    assert await makes(connection, "SOME", 6, 100) is None
    made = await makes(connection, "MORE", 5, 100)
    assert isinstance(made, Proposal), "together with the one before"
    endless = await makes(connection, "ENDLESS", 1, None)
    assert isinstance(endless, Proposal)
    assert await makes(connection, "OTHERS", 10, 100, "bob") is None
    percentage = NewCoupon("HALF", CouponKind.PERCENTAGE, "anna", percent_micro=50_000_000)
    assert await make_coupon_or_propose(connection, percentage, Admin("anna"), POLICY) is None
    with pytest.raises(Failure, match="taken"):
        await makes(connection, "SOME", 5_000, 1)
    assert await approves(connection, made, "anna") is ProposalRefusal.OWN
    decided = await approves(connection, made)
    assert isinstance(decided, Decided)
    assert (decided.balance_micro, decided.proposal.subject) == (None, "MORE")
    found = await connection.fetchrow("SELECT * FROM coupon WHERE code = 'MORE'")
    assert (found["amount_micro"], found["uses_max"], found["created_by"]) == (
        5 * CREDIT, 100, "anna",
    )  # fmt: skip
    assert await makes(connection, "REST", 4, 100) is None, "an approved one does not count"


async def test_of_coupons_at_once_no_more_than_the_limit_is_made(
    connection: asyncpg.Connection, pool: Pool
) -> None:
    async def one(number: int) -> object:
        async with pool.acquire() as own:
            return await makes(own, f"CODE-{number}", 100, 1)

    done = await asyncio.gather(*(one(number) for number in range(20)))
    assert done.count(None) == 10
    assert await connection.fetchval("SELECT count(*) FROM coupon") == 10
