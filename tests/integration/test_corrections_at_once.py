"""Corrections beside raters, beside each other, by the thousand, and cut off in the middle."""

import asyncio
import json
import os
import subprocess
import sys
from collections.abc import Mapping
from contextlib import AsyncExitStack

import pytest

from adapters.charges import amend, void
from adapters.corrections import Change, Kind, charges_in_force, post
from adapters.failures import Failure
from adapters.postgres import connect
from adapters.settings import Settings
from core.rating import Rated
from core.recorded import recorded_event
from tests.batches import Desk, desk, usage
from tests.corrected import ledger, request, wrong

WELCOME = 1_000_000_000
GPT_4O = 3_750


async def _changes(
    bench: Desk, identities: list[tuple[str, str]], rated_micro: int, kind: Kind = Kind.RERATE
) -> list[Change]:
    standing = await charges_in_force(bench.connection, identities)
    return [
        Change(
            account_id,
            event_id,
            kind,
            voided=False,
            event=recorded_event(row),
            rated=Rated(rated_micro, 1, "tests"),
            based_on=row["sequence"],
        )
        for (account_id, event_id), row in standing.items()
    ]


async def test_thousands_of_changes_are_one_call_and_a_second_call_changes_nothing(
    settings: Settings,
) -> None:
    async with desk(settings) as bench:
        await bench.open()
        identities = [(f"a{n % 7}", f"e{n}") for n in range(3_000)]
        await bench.apply(*[usage(event_id, account_id) for account_id, event_id in identities])
        changes = await _changes(bench, identities, 1_000)
        async with bench.connection.transaction():
            posted = await post(
                bench.connection, changes, actor="tests", reason="cheaper", run_id=1
            )
        assert (posted.corrections, posted.stale) == (3_000, ())
        assert posted.amount_change_micro == 3_000 * (1_000 - GPT_4O)
        assert await wrong(bench) == []
        before = await ledger(bench)
        async with bench.connection.transaction():
            again = [Change(*_fields(change), based_on=None) for change in changes]
            posted = await post(bench.connection, again, actor="tests", reason="again", run_id=2)
        assert (posted.corrections, posted.amount_change_micro) == (0, 0)
        assert await ledger(bench) == before


def _fields(change: Change) -> tuple[object, ...]:
    return (
        change.account_id,
        change.event_id,
        change.kind,
        change.voided,
        change.event,
        change.rated,
    )


async def test_a_change_of_a_state_that_is_gone_is_not_made(settings: Settings) -> None:
    async with desk(settings) as bench:
        await bench.open()
        await bench.apply(usage("e1"), usage("e2"))
        changes = await _changes(bench, [("acct", "e1"), ("acct", "e2")], 1_000)
        await amend(bench.connection, request("e1"), {"tokens": {"input": 2_000}})
        async with bench.connection.transaction():
            posted = await post(bench.connection, changes, actor="tests", reason="r", run_id=1)
        assert (posted.corrections, posted.stale) == (1, (changes[0],))
        amounts = await charges_in_force(bench.connection, [("acct", "e1"), ("acct", "e2")])
        assert [row["amount_micro"] for row in amounts.values()] == [2 * GPT_4O, 1_000]
        assert await wrong(bench) == []


async def test_a_change_of_no_charge_appends_nothing(settings: Settings) -> None:
    async with desk(settings) as bench:
        await bench.open()
        await bench.apply(usage("e1"))
        (change,) = await _changes(bench, [("acct", "e1")], 1_000)
        stray = Change("acct", "e9", *_fields(change)[2:])
        before = await ledger(bench)
        with pytest.raises(Failure, match="never charged"):
            async with bench.connection.transaction():
                await post(bench.connection, [change, stray], actor="t", reason="r", run_id=1)
        assert await ledger(bench) == before


async def test_of_many_corrections_at_once_each_sees_the_one_before(settings: Settings) -> None:
    async with desk(settings) as bench, AsyncExitStack() as stack:
        await bench.open()
        await bench.apply(usage("e1"))
        connections = []
        for _ in range(6):
            connection = await connect(settings, application_name="tests")
            stack.push_async_callback(connection.close)
            connections.append(connection)
        answers = await asyncio.gather(
            *[
                amend(connection, request("e1"), {"tokens": {"input": 1_000 * (n + 2)}})
                for n, connection in enumerate(connections[:3])
            ],
            *[void(connection, request("e1")) for connection in connections[3:]],
        )
        made = [answer for answer in answers if answer.changed]
        assert sorted(answer.sequence for answer in made) == list(range(1, len(made) + 1))
        # However they followed one another, no two voids were made without an amendment between.
        assert sum(answer.voided for answer in made) <= 4
        last = max(made, key=lambda answer: answer.sequence)
        balance = await bench.value("SELECT balance_micro FROM account")
        assert balance == WELCOME - last.amount_micro
        assert await wrong(bench) == []


async def test_one_key_from_many_sides_corrects_once(settings: Settings) -> None:
    async with desk(settings) as bench, AsyncExitStack() as stack:
        await bench.open()
        await bench.apply(usage("e1"))
        work = []
        for _ in range(5):
            connection = await connect(settings, application_name="tests")
            stack.push_async_callback(connection.close)
            patch = {"tokens": {"input": 2_000}}
            work.append(amend(connection, request("e1", key="k1"), patch))
        answers = await asyncio.gather(*work)
        assert [answer.repeated for answer in answers].count(False) == 1
        assert {(answer.sequence, answer.balance_after_micro) for answer in answers} == {
            (1, WELCOME - 2 * GPT_4O)
        }
        assert await bench.value("SELECT count(*) FROM charge_correction") == 1


async def test_accounts_are_corrected_while_a_rater_charges_them(settings: Settings) -> None:
    rounds, accounts = 12, 5
    async with desk(settings) as bench:
        await bench.open()
        names = [f"a{n}" for n in range(accounts)]
        await bench.apply(*[usage("first", name) for name in names])
        connection = await connect(settings, application_name="tests")

        async def charge() -> None:
            for turn in range(rounds):
                first = accounts * (turn + 1)
                await bench.apply(*[usage(f"e{turn}", name) for name in names], first=first)

        async def correct() -> None:
            for turn in range(rounds):
                for name in reversed(names):
                    patch = {"tokens": {"input": 1_000 + turn}}
                    await amend(connection, request("first", name), patch)

        try:
            await asyncio.gather(charge(), correct())
        finally:
            await connection.close()
        assert await bench.value("SELECT count(*) FROM charge") == accounts * (rounds + 1)
        assert await bench.value("SELECT count(*) FROM charge_correction") == accounts * (
            rounds - 1
        )
        balances = "SELECT array_agg(DISTINCT balance_micro) FROM account"
        last = round((1_000 + rounds - 1) * GPT_4O / 1_000)
        assert await bench.value(balances) == [WELCOME - rounds * GPT_4O - last]
        assert await wrong(bench) == []


async def test_many_accounts_are_corrected_in_one_call_while_a_rater_charges_them(
    settings: Settings,
) -> None:
    rounds, accounts = 12, 5
    async with desk(settings) as bench:
        await bench.open()
        identities = [(f"a{n}", "first") for n in range(accounts)]
        await bench.apply(*[usage("first", name) for name, _ in identities])
        connection = await connect(settings, application_name="tests")

        async def charge() -> None:
            for turn in range(rounds):
                values = [usage(f"e{turn}", name) for name, _ in identities]
                await bench.apply(*values, first=accounts * (turn + 1))

        async def correct() -> None:
            for turn in range(rounds):
                changes = await _changes(bench, identities, turn)
                async with connection.transaction():
                    await post(
                        connection, changes[::-1], actor="tests", reason="r", run_id=turn + 1
                    )

        try:
            await asyncio.gather(charge(), correct())
        finally:
            await connection.close()
        balances = "SELECT array_agg(DISTINCT balance_micro) FROM account"
        assert await bench.value(balances) == [WELCOME - rounds * GPT_4O - (rounds - 1)]
        assert await wrong(bench) == []


_CUT_OFF = """
import asyncio, json, sys
from adapters.corrections import Change, Kind, charges_in_force, post
from adapters.postgres import connect
from adapters.settings import load_settings
from core.rating import Rated
from core.recorded import recorded_event

async def main():
    connection = await connect(load_settings(), application_name="tests")
    identities = [tuple(pair) for pair in json.load(sys.stdin)]
    standing = await charges_in_force(connection, identities)
    changes = [
        Change(*identity, Kind.RERATE, False, recorded_event(row), Rated(1, 1, "tests"))
        for identity, row in standing.items()
    ]
    async with connection.transaction():
        await post(connection, changes, actor="tests", reason="cut off", run_id=1)

asyncio.run(main())
"""


@pytest.mark.parametrize("place", ["in_correction", "before_moving"])
async def test_a_kill_in_the_middle_leaves_nothing(
    settings: Settings, environment: Mapping[str, str], place: str
) -> None:
    async with desk(settings) as bench:
        await bench.open()
        identities = [(f"a{n % 3}", f"e{n}") for n in range(600)]
        await bench.apply(*[usage(event_id, account_id) for account_id, event_id in identities])
        before = await ledger(bench)

        def run(fault_point: str) -> int:
            done = subprocess.run(
                [sys.executable, "-c", _CUT_OFF],
                input=json.dumps(identities),
                env={**os.environ, **environment, "TOLLGATE_FAULT_POINT": fault_point},
                text=True,
                timeout=60,
                check=False,
            )
            return done.returncode

        assert await asyncio.to_thread(run, place) == 137
        assert await ledger(bench) == before
        assert await asyncio.to_thread(run, "") == 0
        assert await bench.value("SELECT count(*) FROM charge_correction") == 600
        assert await wrong(bench) == []
