"""Applied runs that do not come to their end: refused, taken back meanwhile, or suspended."""

import asyncio
import os
import signal
import subprocess
import sys
from collections.abc import Mapping
from typing import Any

import pytest

from adapters import rerate, rerate_runs
from adapters.failures import Failure
from adapters.postgres import connect
from adapters.rerate_runs import RunKind
from adapters.settings import Settings
from tests.batches import NOW, desk, usage
from tests.commands import report
from tests.rerated import change_price, new_run, revert, run

APPLY = RunKind.APPLY
DOUBLE: dict[str, Any] = {"currencies": {"USD": [{"credits": "2"}]}}
GRADUATED = {
    "charge": "graduated",
    "steps": [{"up_to": "10", "credits": "1"}, {"credits": "0.5"}],
}
SUSPENDED = """
import os, runpy, signal
import adapters.rerate
def reached(name):
    if name == "before_rerate_commit":
        os.kill(os.getpid(), signal.SIGSTOP)
adapters.rerate.reached = reached
runpy.run_module("tollgate.cli", run_name="__main__", alter_sys=True)
"""
BALANCE = "SELECT balance_micro FROM account WHERE account_id = $1"


async def test_a_run_that_is_refused_on_its_way_is_taken_back(
    settings: Settings, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Each event is a chunk: the first is booked, the second counts in a month that is open."""
    monkeypatch.setattr(rerate, "APPLY_OFFSETS", 1)
    plain: dict[str, Any] = {"action": "plain", "model": "", "tokens": {}}
    counted = plain | {"action": "counted"}
    stretch = {"since": NOW.replace(day=1, hour=0, minute=0, second=0)}
    async with desk(settings) as bench:
        await change_price(bench, actions={"counted": {"credits": "1"}, "plain": {"credits": "1"}})
        await bench.open()
        await bench.apply(usage("p", **plain), usage("c", quantity=6, **counted))
        before = await bench.value(BALANCE, "acct")
        await change_price(bench, actions={"counted": GRADUATED, "plain": {"credits": "3"}})
        with pytest.raises(Failure, match="`tollgate rerate revert 1` takes it back"):
            await run(bench, APPLY, **stretch)
        assert await bench.value(BALANCE, "acct") == before - 2_000_000
        with pytest.raises(Failure, match="`tollgate rerate revert 1` takes back what it booked"):
            await run(bench, APPLY, **stretch)
        back = await revert(bench, 1)
        assert (back.reverts, back.tally.changed) == (1, 1)
        assert await bench.value(BALANCE, "acct") == before
        await change_price(bench, actions={"counted": {"credits": "2"}, "plain": {"credits": "3"}})
        assert (await run(bench, APPLY, **stretch)).tally.changed == 2


async def test_who_is_at_work_on_a_run_that_is_taken_back_stops(settings: Settings) -> None:
    async with desk(settings) as bench:
        await bench.open()
        await bench.apply(usage("e1"))
        await change_price(bench, **DOUBLE)
        started = await rerate.start(bench.connection, settings, await new_run(bench, APPLY))
        assert started is not None
        other = await connect(settings, application_name="tests")
        async with other.transaction():
            await rerate_runs.lock(other, started.run_id, 0)
            await bench.connection.execute("SET lock_timeout = '50ms'")
            with pytest.raises(Failure, match="run 1 is at work elsewhere"):
                await revert(bench, started.run_id)
        await other.close()
        await revert(bench, started.run_id)
        before = await bench.state()
        with pytest.raises(Failure, match="at work elsewhere: this process stops"):
            await rerate.go_on(bench.connection, settings, started, lambda _: None)
        assert await bench.state() == before


def _suspended(environment: Mapping[str, str], *arguments: str) -> "subprocess.Popen[str]":
    """The command, as it stands still with its chunk booked and not committed."""
    begun = subprocess.Popen(
        [sys.executable, "-c", SUSPENDED, *arguments],
        env=dict(environment),
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )
    _, status = os.waitpid(begun.pid, os.WUNTRACED)
    assert os.WIFSTOPPED(status), status
    return begun


async def test_a_run_that_is_suspended_gives_its_locks_back(
    settings: Settings, environment: dict[str, str]
) -> None:
    """Ctrl-Z, or a laptop that sleeps: a rater waits for the idle limit and no longer."""
    async with desk(settings) as bench:
        await bench.open()
        await bench.apply(usage("e1"))
        await change_price(bench, **DOUBLE)
        command = ("rerate", "--from", "1d", "--to", "2999-01-01", "--apply", "--reason", "wrong")
        limited = {**environment, "TOLLGATE_IDLE_TRANSACTION_SECONDS_MAX": "0.5"}
        begun = await asyncio.to_thread(_suspended, limited, *command)
        try:
            assert (await bench.apply(usage("e2"), first=1)).charged == 1
        finally:
            begun.send_signal(signal.SIGCONT)
            _, said = await asyncio.to_thread(begun.communicate, timeout=30)
        assert begun.returncode == 1
        assert "`tollgate rerate resume 1` goes on from where it was" in said
        done = await report(environment, "rerate", "resume", "1")
        assert (done["run"]["events"], done["run"]["changed"]) == (1, 1)
