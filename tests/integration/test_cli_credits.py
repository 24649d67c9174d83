"""Accounts, coupons, holds and the audit log as an operator types them."""

import asyncio
from collections.abc import AsyncIterator, Mapping

import asyncpg
import pytest

from adapters.accounts import GrantRequest, give
from adapters.adjustments import Adjustment, adjust
from adapters.command_keys import once_by_command
from adapters.gate import HoldRequest
from adapters.gate_account import Spending
from adapters.idempotency import Reply
from adapters.postgres import connect
from adapters.settings import Settings
from tests.batches import desk, usage
from tests.commands import report, run_tollgate
from tests.gates import CREDIT, account, assert_sound, gate

Environment = Mapping[str, str]


@pytest.fixture
async def connection(settings: Settings) -> AsyncIterator["asyncpg.Connection[asyncpg.Record]"]:
    made = await connect(settings, application_name="test")
    await account(made, "acme", 100 * CREDIT)
    yield made
    await assert_sound(made)
    await made.close()


async def said(environment: Environment, *arguments: str) -> str:
    """What a command said that did its work."""
    done = await run_tollgate(environment, *arguments)
    assert done.returncode == 0, done.stderr
    return done.stdout


async def refused(environment: Environment, status: int, *arguments: str) -> str:
    """The one line of a command that did nothing."""
    done = await run_tollgate(environment, *arguments)
    assert (done.returncode, done.stdout, done.stderr.count("\n")) == (status, "", 1), done.stderr
    return done.stderr


async def test_history_a_page_at_a_time(
    settings: Settings, environment: Environment, connection: asyncpg.Connection
) -> None:
    async with gate(settings) as the_gate, desk(settings) as rater:
        await the_gate.hold(HoldRequest("acme", 10 * CREDIT, "app", "job-1"))
        await the_gate.hold(HoldRequest("acme", 10 * CREDIT, "app", "job-2"))
        await the_gate.settle("job-2", Spending("acme", "app", 3 * CREDIT))
        await rater.open()
        await rater.apply(*[usage(f"e{n}", "acme") for n in range(4)])
    first = await report(environment, "account", "history", "acme", "--limit", "5")
    assert [e["type"] for e in first["entries"]] == ["USAGE"] * 4 + ["SETTLE"]
    rest = await report(environment, "account", "history", "acme", "--before", first["next"])
    assert [e["type"] for e in rest["entries"]] == ["HOLD", "GRANT"]
    assert rest["next"] is None
    shown = await said(environment, "account", "history", "acme", "--limit", "5")
    assert f"older entries: --before {first['next']}\n" in shown
    pending = await said(environment, "account", "history", "acme", "--status", "pending")
    assert "job-1" in pending
    assert "older" not in pending
    kinds = ("--type", "settle", "--type", "grant", "--since", "1h")
    some = await report(environment, "account", "history", "acme", *kinds)
    assert [e["type"] for e in some["entries"]] == ["SETTLE", "GRANT"]
    late = ("--until", "2026-01-01")
    assert await said(environment, "account", "history", "acme", *late) == "no entries\n"
    assert "no account 'nobody'" in await refused(environment, 1, "account", "history", "nobody")
    assert "no status" in await refused(environment, 2, "account", "history", "acme", "--status=X")
    assert "cursor" in await refused(environment, 1, "account", "history", "acme", "--before=x")


async def test_a_cap_is_set_shown_held_and_taken_away(
    settings: Settings, environment: Environment, connection: asyncpg.Connection
) -> None:
    told = await said(environment, "account", "set", "acme", "--monthly-cap", "20")
    assert told == "acme: tier free, charged, monthly cap 20.000000\n"
    async with gate(settings) as the_gate:
        await the_gate.deduct(Spending("acme", "app", 15 * CREDIT))
        assert not (await the_gate.check("acme", 6 * CREDIT)).sufficient
        await connection.execute(
            "INSERT INTO allowance (account_id, due_at, preferred_day, custom_micro)"
            " VALUES ('acme', '2026-12-07 08:00+00', 7, 500000)"
        )
        shown = await said(environment, "account", "show", "acme")
        assert "this month 15.000000 spent, cap 20.000000\n" in shown
        assert "allowance  0.500000, due 2026-12-07 08:00:00 UTC, on day 7, last -\n" in shown
        changed = await report(environment, "account", "set", "acme", "--no-cap")
        assert changed["monthly_cap_micro"] is None
        assert (await the_gate.check("acme", 80 * CREDIT)).sufficient
    both = ("--no-cap", "--monthly-cap", "1")
    assert "either" in await refused(environment, 2, "account", "set", "acme", *both)
    assert "say what" in await refused(environment, 2, "account", "set", "acme")
    assert "no account" in await refused(environment, 1, "account", "set", "x", "--no-cap")
    acts = await report(environment, "audit-log", "--action", "set_account")
    assert [
        (act["before"]["monthly_cap_micro"], act["after"]["monthly_cap_micro"]) for act in acts
    ] == [(20 * CREDIT, None), (None, 20 * CREDIT)]


async def test_what_has_expired_is_not_available(
    environment: Environment, connection: asyncpg.Connection
) -> None:
    await give(connection, GrantRequest("acme", 7 * CREDIT, actor="test"))
    await connection.execute("UPDATE credit_grant SET expires_at = now() WHERE amount_micro < 9e6")
    shown = await said(environment, "account", "show", "acme")
    assert "expired    7.000000, not booked yet\n" in shown
    assert "available  100.000000\n" in shown


async def test_adjustments_up_and_down(
    environment: Environment, connection: asyncpg.Connection
) -> None:
    why = ("--reason", "a wrong grant")
    up = await said(environment, "account", "adjust", "acme", "2.5", *why)
    assert up == "acme: 2.500000 credits given; balance 102.500000\n"
    down = await said(environment, "account", "adjust", "acme", "-110.000001", *why)
    assert down == "acme: 110.000001 credits taken; balance -7.500001\n"
    for status, line, arguments in (
        (2, "Missing option '--reason'", ("acme", "1")),
        (2, "is not an amount", ("acme", "--1", *why)),
        (2, "'2,5' is not an amount", ("acme", "2,5", *why)),
        (2, "decimals follow a point", ("acme", "-2,5", *why)),
        (1, "not 0", ("acme", "0", *why)),
        (1, "needs a reason", ("acme", "1", "--reason", " ")),
        (1, "no account 'nobody'", ("nobody", "1", *why)),
    ):
        assert line in await refused(environment, status, "account", "adjust", *arguments)


async def test_the_life_of_a_coupon(
    environment: Environment, connection: asyncpg.Connection
) -> None:
    made = await said(
        environment, "coupon", "create", "WELCOME100", "--credits", "100", "--uses", "1"
    )
    assert made == "coupon WELCOME100: 100.000000 credits, 1 use in all, 1 by one account\n"
    part = await report(environment, "coupon", "create", "SAVE50", "--percent", "50", "--days", "9")
    assert (part["kind"], part["percent_micro"], part["grant_days"]) == (
        "percentage", 50_000_000, 9,
    )  # fmt: skip
    given = await said(environment, "coupon", "redeem", "WELCOME100", "acme")
    assert given == "acme: 100.000000 credits by coupon WELCOME100; balance 200.000000\n"
    for status, line, arguments in (
        (1, "the coupon was used as often as it may be", ("redeem", "WELCOME100", "acme")),
        (1, "use it with a top-up", ("redeem", "SAVE50", "acme")),
        (1, "no account", ("redeem", "SAVE50", "nobody")),
        (1, "is taken", ("create", "SAVE50", "--credits", "1")),
        (2, "either --credits or --percent", ("create", "BOTH", "--credits=1", "--percent=1")),
        (1, "3 to 64", ("create", "x", "--credits", "1")),
        (1, "no coupon 'NEVER'", ("disable", "NEVER")),
    ):
        assert line in await refused(environment, status, "coupon", *arguments)
    usable = (await report(environment, "coupon", "list", "--usable"))["coupons"]
    assert [coupon["code"] for coupon in usable] == ["SAVE50"]
    assert await said(environment, "coupon", "disable", "SAVE50") == "coupon SAVE50: withdrawn\n"
    assert await said(environment, "coupon", "list", "--usable") == "no coupons\n"
    assert "50.000000 % of a purchase" in await said(environment, "coupon", "list")
    acts = await report(environment, "audit-log")
    assert [(act["action"], act["subject"]) for act in acts] == [
        ("disable_coupon", "SAVE50"),
        ("redeem_coupon", "acme"),
        ("create_coupon", "SAVE50"),
        ("create_coupon", "WELCOME100"),
    ]


async def test_an_operator_frees_what_an_app_left_behind(
    settings: Settings, environment: Environment, connection: asyncpg.Connection
) -> None:
    assert await said(environment, "hold", "list") == "no holds\n"
    await account(connection, "other", 100 * CREDIT)
    async with gate(settings) as the_gate:
        for name, hold in (("acme", "job-1"), ("other", "job-2"), ("acme", "job-3")):
            await the_gate.hold(HoldRequest(name, 10 * CREDIT, "app", hold))
        await the_gate.extend("acme", "job-1", 0)
    every = (await report(environment, "hold", "list"))["holds"]
    assert [hold["hold_id"] for hold in every] == ["job-2", "job-3", "job-1"]
    why = ("--reason", "the app is gone")
    freed = await said(environment, "hold", "release", "acme", "job-3", *why)
    assert freed == "acme job-3: 10.000000 credits are free again\n"
    for line, arguments in (
        ("closed already", ("acme", "job-3")),
        ("no such hold", ("acme", "job-2")),
        ("no such account", ("x", "y")),
    ):
        assert line in await refused(environment, 1, "hold", "release", *arguments, *why)
    assert "--account" in await refused(environment, 2, "hold", "list", "--all")
    mine = (await report(environment, "hold", "list", "--account", "acme"))["holds"]
    assert [hold["hold_id"] for hold in mine] == ["job-1"]
    shown = await said(environment, "hold", "list", "--account", "acme", "--all")
    assert "released" in shown
    [act] = await report(environment, "audit-log", "--subject", "acme", "--limit", "1")
    assert (act["action"], act["reason"]) == ("release_hold", "the app is gone")
    assert act["before"] == {"hold_id": "job-3", "state": "open", "amount_micro": 10 * CREDIT}
    assert act["after"] == {**act["before"], "state": "released"}


async def test_every_act_is_in_the_log_once(
    settings: Settings, environment: Environment, connection: asyncpg.Connection
) -> None:
    await said(environment, "account", "create", "fresh", "--tier", "pro")
    for _ in range(2):
        await said(environment, "grant", "fresh", "5", "--key", "k", "--reason", "a gift")
    await said(environment, "account", "set", "fresh", "--demo", "--reason", "a trial")
    await said(environment, "account", "adjust", "fresh", "-1", "--reason", "too much")
    acts = await report(environment, "audit-log", "--subject", "fresh")
    assert [act["action"] for act in acts] == ["adjust", "set_account", "grant", "create_account"]
    assert {act["actor"].partition(":")[0] for act in acts} == {"cli"}
    assert acts[2]["before"] == {"balance_micro": 1_000 * CREDIT}
    assert acts[2]["after"]["balance_micro"] == 1_005 * CREDIT
    page = await said(environment, "audit-log", "--subject", "fresh", "--limit", "2")
    assert "demo: false -> true" in page
    assert f"older acts: --before {acts[1]['audit_id']}\n" in page
    older = await report(environment, "audit-log", "--before", str(acts[1]["audit_id"]))
    assert older == acts[2:]
    assert await said(environment, "audit-log", "--actor", "nobody") == "no acts\n"


async def test_a_command_that_is_run_again_with_its_key_does_nothing_again(
    environment: Environment, connection: asyncpg.Connection
) -> None:
    taken = ("account", "adjust", "acme", "-2.5", "--reason", "ticket 42")
    first = await report(environment, *taken, "--key", "ticket-42")
    again = await report(environment, *taken, "--key", "ticket-42")
    assert (first.pop("repeated"), again.pop("repeated")) == (False, True)
    assert again == first
    assert "taken before, with this key" in await said(environment, *taken, "--key", "ticket-42")
    other = ("account", "adjust", "acme", "-3", "--reason", "ticket 42")
    assert "stands for another command" in await refused(
        environment, 1, *other, "--key", "ticket-42"
    )
    await said(environment, "coupon", "create", "TWICE", "--credits", "5", "--account-uses", "2")
    redeem = ("coupon", "redeem", "TWICE", "acme", "--key", "case-1")
    assert [(await report(environment, *redeem))["repeated"] for _ in "12"] == [False, True]
    assert "stands for another command" in await refused(
        environment, 1, "coupon", "redeem", "OTHER", "acme", "--key", "case-1"
    )
    entries = await connection.fetchval("SELECT count(*) FROM credit_transaction")
    acts = await connection.fetchval("SELECT count(*) FROM audit_log")
    assert (entries, acts) == (3, 3)


async def test_of_commands_with_one_key_at_once_one_has_an_effect(
    settings: Settings, connection: asyncpg.Connection
) -> None:
    wanted = Adjustment("acme", -CREDIT, "cli:anna", "once", "k")

    async def run() -> Reply:
        own = await connect(settings, application_name="test", unlimited=True)

        async def work() -> str:
            done = await adjust(own, wanted)
            assert done is not None
            return str(done.transaction_id)

        try:
            return await once_by_command(own, "k", "account adjust", ("acme", -CREDIT), work)
        finally:
            await own.close()

    replies = await asyncio.gather(*(run() for _ in range(4)))
    assert len({reply.text for reply in replies}) == 1
    assert [reply.repeated for reply in replies].count(False) == 1
    assert await connection.fetchval("SELECT balance_micro FROM account") == 99 * CREDIT
