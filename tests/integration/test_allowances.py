"""Allowances by hand: settings, refreshes that are asked for, their undoing to the last micro."""

import asyncio
import json
from collections.abc import AsyncIterator
from datetime import UTC, datetime, timedelta

import asyncpg
import pytest
from hypothesis import HealthCheck, given
from hypothesis import settings as law
from hypothesis import strategies as st

from adapters.accounts import GrantRequest, create_account, give
from adapters.allowances import (
    By,
    change_allowance,
    history,
    read_allowance,
    refresh_now,
    statistics,
    undo_refresh,
)
from adapters.audit_log import list_acts
from adapters.failures import Failure
from adapters.postgres import connect
from adapters.queries import load
from adapters.settings import Settings
from core.refresh import PERIOD, Terms
from tests.commands import report, run_tollgate
from tests.gates import CREDIT, account, assert_sound

TERMS = Terms({"free": 1_000 * CREDIT})
ROLLING = Terms({"free": 1_000 * CREDIT}, rollover_max_micro=300 * CREDIT)
BY = By("ops", "a test")


@pytest.fixture
async def connection(settings: Settings) -> AsyncIterator["asyncpg.Connection[asyncpg.Record]"]:
    made = await connect(settings, application_name="test")
    yield made
    await assert_sound(made)
    await made.close()


async def spend(connection: asyncpg.Connection, account_id: str, amount_micro: int) -> None:
    if not amount_micro:
        return
    async with connection.transaction():
        await connection.execute(load("ledger").burn_down, [account_id], [amount_micro], "test")
        await connection.execute(
            "INSERT INTO credit_transaction"
            " (account_id, type, amount_micro, balance_after_micro, actor)"
            " SELECT account_id, 'DEDUCT', -$2::bigint, balance_micro, 'test' FROM account"
            " WHERE account_id = $1",
            account_id,
            amount_micro,
        )


async def money(connection: asyncpg.Connection, account_id: str) -> tuple[int, int, int]:
    row = await connection.fetchrow(
        "SELECT balance_micro, overdraft_micro, spend_micro FROM account WHERE account_id = $1",
        account_id,
    )
    return tuple(row)


async def test_settings_hold_from_the_next_refresh_on(connection: asyncpg.Connection) -> None:
    await create_account(connection, "acme", tier="free", demo=False, welcome=None)
    found = await read_allowance(connection, "acme")
    assert (found["due_at"], found["paused"], found["preferred_day"]) == (None, False, None)
    await change_allowance(connection, "acme", {"preferred_day": 15, "custom_micro": 7}, BY)
    await change_allowance(connection, "acme", {"paused": True}, By("ops", "on leave", "r-1"))
    found = await read_allowance(connection, "acme")
    assert found["due_at"] is not None
    assert (found["paused"], found["preferred_day"], found["custom_micro"]) == (True, 15, 7)
    latest, first = await list_acts(connection, subject="acme")
    assert (latest["actor"], latest["reason"], latest["request_id"]) == ("ops", "on leave", "r-1")
    assert latest["before"] == {"custom_micro": 7, "paused": False, "preferred_day": 15}
    assert latest["after"]["paused"] is True
    assert first["before"]["preferred_day"] is None
    done = await refresh_now(connection, ["acme"], TERMS, BY)
    assert (done.refreshed, done.amount_micro) == (1, 7)


@pytest.mark.parametrize(
    ("account_id", "changes"),
    [
        ("acme", {"preferred_day": 32}),
        ("acme", {"custom_micro": -1}),
        ("acme", {"paused": None}),
        ("acme", {"due_at": None}),
        ("nobody", {"paused": True}),
    ],
)
async def test_what_is_no_setting_is_refused(
    connection: asyncpg.Connection, account_id: str, changes: dict[str, object]
) -> None:
    await create_account(connection, "acme", tier="free", demo=False, welcome=None)
    with pytest.raises(Failure):
        await change_allowance(connection, account_id, changes, BY)
    assert await list_acts(connection) == []


async def test_bulk_by_hand_reports_what_it_missed(connection: asyncpg.Connection) -> None:
    names = [f"a{n}" for n in range(450)]
    for name in names[:3]:
        await create_account(connection, name, tier="free", demo=False, welcome=None)
    await connection.execute(
        "INSERT INTO account (account_id, tier)"
        " SELECT name, 'free' FROM unnest($1::text[]) AS name",
        names[3:],
    )
    await connection.execute(
        "UPDATE account SET balance_micro = 9223372036854775807 WHERE account_id = 'a7'"
    )
    done = await refresh_now(connection, [*names, "nobody"], TERMS, BY)
    assert (done.refreshed, done.missed, len(done.failures)) == (449, 1, 1)
    assert done.failures[0][0] == "a7"
    await connection.execute("UPDATE account SET balance_micro = 0 WHERE account_id = 'a7'")
    [act] = await list_acts(connection, action="refresh_now")
    assert (act["subject"], act["after"]["refreshed"]) == ("451 accounts", 449)
    assert len(await history(connection, run_id=done.run_id, refreshes_max=1_000)) == 449


async def test_without_its_row_in_the_log_nothing_is_given_by_hand(
    connection: asyncpg.Connection,
) -> None:
    """As when the process dies before the last statement."""
    names = [f"a{n}" for n in range(201)]
    for name in names:
        await create_account(connection, name, tier="free", demo=False, welcome=None)
    await connection.execute(
        "ALTER TABLE audit_log ADD CONSTRAINT dies CHECK (action <> 'refresh_now') NOT VALID"
    )
    with pytest.raises(asyncpg.CheckViolationError):
        await refresh_now(connection, names, TERMS, BY)
    for table in ("refresh", "job_run", "credit_transaction"):
        assert await connection.fetchval(f"SELECT count(*) FROM {table}") == 0  # noqa: S608
    await connection.execute("ALTER TABLE audit_log DROP CONSTRAINT dies")
    assert (await refresh_now(connection, names, TERMS, BY)).refreshed == 201


async def test_by_hand_a_locked_account_is_waited_for(
    settings: Settings, connection: asyncpg.Connection
) -> None:
    await create_account(connection, "acme", tier="free", demo=False, welcome=None)
    await change_allowance(connection, "acme", {"preferred_day": 15}, BY)
    other = await connect(settings, application_name="test")
    try:
        async with other.transaction():
            await other.execute("SELECT FROM allowance FOR UPDATE")
            asked = asyncio.create_task(refresh_now(connection, ["acme"], TERMS, BY))
            await asyncio.sleep(0.2)
            assert not asked.done()
        done = await asked
    finally:
        await other.close()
    assert (done.refreshed, done.missed) == (1, 0)


async def test_by_hand_no_account_is_in_hand_while_another_is_waited_for(
    settings: Settings, connection: asyncpg.Connection
) -> None:
    """A rater that waits for the first one and the job that has the last one made a circle."""
    names = [f"a{number:03}" for number in range(201)]
    await connection.execute(
        "INSERT INTO account (account_id, tier)"
        " SELECT name, 'free' FROM unnest($1::text[]) AS name",
        names,
    )
    await change_allowance(connection, names[-1], {"preferred_day": 15}, BY)
    waits = "SELECT wait_event_type = 'Lock' FROM pg_stat_activity WHERE pid = $1"
    pid = connection.get_server_pid()
    other = await connect(settings, application_name="test")
    try:
        async with other.transaction():
            await other.execute("SELECT FROM allowance FOR UPDATE")
            asked = asyncio.create_task(refresh_now(connection, names, TERMS, BY))
            async with asyncio.timeout(20):
                while not await other.fetchval(waits, pid):
                    await asyncio.sleep(0.02)
            first = "SELECT FROM account WHERE account_id = $1 FOR NO KEY UPDATE NOWAIT"
            await other.execute(first, names[0])
        done = await asked
    finally:
        await other.close()
    assert (done.refreshed, done.missed) == (201, 0)


@law(max_examples=25, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    terms=st.sampled_from([TERMS, ROLLING]),
    other=st.sampled_from([0, 1, 500]),
    before=st.sampled_from([0, 1, 400, 999, 1_000, 1_700]),
    after=st.sampled_from([0, 1, 300, 1_000, 1_300, 2_500]),
)
async def test_an_undo_leaves_the_balance_as_without_the_refresh(
    connection: asyncpg.Connection, terms: Terms, other: int, before: int, after: int
) -> None:
    """The oracle is a twin that spends the same and is not refreshed the second time."""
    serial = await connection.fetchval("SELECT count(*) FROM account")
    names = [f"a{serial}", f"twin{serial}"]
    for name in names:
        await create_account(connection, name, tier="free", demo=False, welcome=None)
        if other:
            await give(connection, GrantRequest(name, other * CREDIT, actor="test"))
        await refresh_now(connection, [name], terms, BY)
        await spend(connection, name, before * CREDIT)
    await refresh_now(connection, names[:1], terms, BY)
    for name in names:
        await spend(connection, name, after * CREDIT)
    [latest, _] = await history(connection, account_id=names[0])
    undone = await undo_refresh(connection, latest["refresh_id"], BY)
    assert await money(connection, names[0]) == await money(connection, names[1])
    assert undone.balance_micro == (await money(connection, names[0]))[0]
    await assert_sound(connection)


async def test_an_undo_is_booked_linked_and_audited(connection: asyncpg.Connection) -> None:
    await account(connection, "acme", 50 * CREDIT)
    await refresh_now(connection, ["acme"], TERMS, BY)
    await spend(connection, "acme", 200 * CREDIT)
    await refresh_now(connection, ["acme"], TERMS, BY)
    due = (await read_allowance(connection, "acme"))["due_at"]
    [latest, first] = await history(connection, account_id="acme")
    assert latest["replaced_micro"] == 800 * CREDIT
    with pytest.raises(Failure, match="undo the latest one first"):
        await undo_refresh(connection, first["refresh_id"], BY)
    done = await undo_refresh(connection, latest["refresh_id"], By("ops", "wrong tier"))
    assert (done.taken_micro, done.given_back_micro) == (1_000 * CREDIT, 800 * CREDIT)
    assert done.balance_micro == 850 * CREDIT
    booked = await connection.fetch(
        "SELECT amount_micro, balance_after_micro, grant_id, actor, reason, metadata"
        " FROM credit_transaction WHERE type = 'REVERSAL' ORDER BY transaction_id"
    )
    assert [tuple(row)[:2] for row in booked] == [
        (800 * CREDIT, 1_850 * CREDIT),
        (-1_000 * CREDIT, 850 * CREDIT),
    ]
    assert {row["reason"] for row in booked} == {"wrong tier"}
    assert json.loads(booked[0]["metadata"]) == {"refresh_id": latest["refresh_id"]}
    found = await read_allowance(connection, "acme")
    assert (found["due_at"], found["remaining_micro"]) == (due, 800 * CREDIT)
    with pytest.raises(Failure, match="was undone"):
        await undo_refresh(connection, latest["refresh_id"], BY)
    [act] = await list_acts(connection, action="undo_refresh")
    assert act["before"]["balance_micro"] == 1_050 * CREDIT
    assert act["after"] == {"balance_micro": 850 * CREDIT}
    [shown, _] = await history(connection, account_id="acme")
    assert shown["undone_by"] == "ops"
    # The next refresh replaces what was given back, as it would have.
    await refresh_now(connection, ["acme"], TERMS, BY)
    assert (await money(connection, "acme"))[0] == 1_050 * CREDIT


async def test_an_undo_spends_no_bought_credits_in_place_of_an_allowance(
    connection: asyncpg.Connection,
) -> None:
    """The next refresh replaces what is left of the allowance, and nothing that was bought."""
    for name in ("acme", "twin"):
        await account(connection, name, 500 * CREDIT)
        await refresh_now(connection, [name], TERMS, BY)
        await spend(connection, name, 600 * CREDIT)
    await refresh_now(connection, ["acme"], TERMS, BY)
    for name in ("acme", "twin"):
        await spend(connection, name, 300 * CREDIT)
    [latest, _] = await history(connection, account_id="acme")
    await undo_refresh(connection, latest["refresh_id"], BY)
    assert (await read_allowance(connection, "acme"))["remaining_micro"] == 100 * CREDIT
    for name in ("acme", "twin"):
        await refresh_now(connection, [name], TERMS, BY)
        assert (await money(connection, name))[0] == 1_500 * CREDIT


async def test_an_undo_that_began_last_month_leaves_this_months_spend(
    connection: asyncpg.Connection,
) -> None:
    """It waited at midnight for the account, which was charged in the new month meanwhile."""
    await account(connection, "acme", 500 * CREDIT)
    await refresh_now(connection, ["acme"], TERMS, BY)
    await spend(connection, "acme", 300 * CREDIT)
    await connection.execute(
        "UPDATE account SET spend_month = spend_month + interval '1 month', spend_micro = 7"
    )
    [latest] = await history(connection, account_id="acme")
    await undo_refresh(connection, latest["refresh_id"], BY)
    assert (await money(connection, "acme"))[2] == 7


async def test_two_undo_at_once_one_does(
    settings: Settings, connection: asyncpg.Connection
) -> None:
    await account(connection, "acme", 50 * CREDIT)
    await refresh_now(connection, ["acme"], TERMS, BY)
    [latest] = await history(connection, account_id="acme")
    rivals = [await connect(settings, application_name=f"rival{n}") for n in range(8)]
    outcomes = await asyncio.gather(
        *(undo_refresh(rival, latest["refresh_id"], BY) for rival in rivals),
        return_exceptions=True,
    )
    for rival in rivals:
        await rival.close()
    assert sum(not isinstance(outcome, Exception) for outcome in outcomes) == 1
    assert sum(isinstance(outcome, Failure) for outcome in outcomes) == 7
    assert (await money(connection, "acme"))[0] == 50 * CREDIT


async def test_on_the_command_line(
    settings: Settings, environment: dict[str, str], connection: asyncpg.Connection
) -> None:
    await account(connection, "acme", 50 * CREDIT)
    await account(connection, "late", 50 * CREDIT)
    set_ = await report(
        environment, "refresh", "set", "acme", "--day", "31", "--amount", "5", "--reason", "asked"
    )
    assert (set_["preferred_day"], set_["custom_micro"]) == (31, 5 * CREDIT)
    cleared = ("--amount", "tier", "--day", "0", "--pause", "--reason", "asked")
    set_ = await report(environment, "refresh", "set", "acme", *cleared)
    assert (set_["preferred_day"], set_["custom_micro"], set_["paused"]) == (None, None, True)
    dry = await report(environment, "refresh", "now", "acme", "late", "--dry-run")
    assert dry == {"dry_run": True, "accounts": 2, "amount_micro": 2_000 * CREDIT}
    refused = await run_tollgate(environment, "refresh", "now", "acme")
    assert (refused.returncode, refused.stderr) == (
        1,
        "tollgate: a reason is needed, in printable text\n",
    )
    done = await run_tollgate(environment, "refresh", "now", "acme", "none", "--reason", "paid")
    assert "1 accounts got 1,000.000000 credits" in done.stdout
    assert "1 are no accounts" in done.stdout
    [row] = await report(environment, "refresh", "history", "--account", "acme")
    assert (row["balance_after_micro"], row["reason"]) == (1_050 * CREDIT, "paid")
    number = str(row["refresh_id"])
    undone = await run_tollgate(environment, "refresh", "undo", number, "--reason", "mistake")
    assert "1,000.000000 credits taken back" in undone.stdout
    await connection.execute("UPDATE allowance SET due_at = now(), paused = false")
    [tier] = await report(environment, "refresh", "due")
    assert tier == {"tier": "free", "accounts": 1, "amount_micro": 1_000 * CREDIT}
    await report(environment, "job", "refresh", "--now")
    stats = await report(environment, "refresh", "stats")
    assert (stats["enrolled"], stats["runs"], stats["success_percent"]) == (2, 1, 100.0)
    assert (stats["refreshes"], stats["undone"], stats["due"]) == (2, 1, 0)
    shown = await run_tollgate(environment, "refresh", "show", "acme")
    assert "due at" in shown.stdout


async def test_a_command_with_a_key_refreshes_once(
    environment: dict[str, str], connection: asyncpg.Connection
) -> None:
    await account(connection, "acme", 50 * CREDIT)
    once = ("refresh", "now", "acme", "--reason", "paid", "--key", "invoice-7")
    first, again = [await report(environment, *once) for _ in "12"]
    assert (first.pop("repeated"), again.pop("repeated")) == (False, True)
    assert first == again
    assert "before, with this key" in (await run_tollgate(environment, *once)).stdout
    other = await run_tollgate(environment, *once, "late")
    assert "stands for another command" in other.stderr
    [act] = await list_acts(connection, action="refresh_now")
    assert (act["request_id"], act["after"]["refreshed"]) == ("invoice-7", 1)
    assert len(await history(connection)) == 1


async def test_statistics_before_anything(connection: asyncpg.Connection) -> None:
    found = await statistics(connection)
    assert (found["enrolled"], found["runs"], found["success_percent"]) == (0, 0, None)
    await create_account(connection, "acme", tier="free", demo=False, welcome=None)
    await refresh_now(connection, ["acme"], TERMS, BY)
    due_at = await connection.fetchval("SELECT due_at FROM allowance")
    assert due_at - datetime.now(UTC) > PERIOD - timedelta(minutes=1)
    assert (await statistics(connection))["next_due_at"] == due_at
