"""Applied runs that do not come to their end: refused, taken back meanwhile, or suspended."""

import pytest

from adapters import rerate, rerate_runs
from adapters.failures import Failure
from adapters.postgres import connect
from adapters.rerate_runs import RunKind
from adapters.settings import Settings
from tests.batches import NOW, desk, usage
from tests.rerated import change_price, new_run, revert, run

APPLY = RunKind.APPLY
DOUBLE = {"currencies": {"USD": [{"credits": "2"}]}}
GRADUATED = {
    "charge": "graduated",
    "steps": [{"up_to": "10", "credits": "1"}, {"credits": "0.5"}],
}
BALANCE = "SELECT balance_micro FROM account WHERE account_id = $1"


async def test_a_run_that_is_refused_on_its_way_is_taken_back(
    settings: Settings, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Each event is a chunk: the first is booked, the second counts in a month that is open."""
    monkeypatch.setattr(rerate, "APPLY_OFFSETS", 1)
    plain, counted = ({"action": name, "model": "", "tokens": {}} for name in ("plain", "counted"))
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
