"""A run that is killed goes on: every line once, every difference once, whatever the moment."""

from collections.abc import Mapping
from typing import Any

import pytest

from adapters.settings import Settings
from tests.batches import Desk, desk, usage
from tests.commands import report, run_tollgate
from tests.rerated import change_price
from tests.shipping import ask

GPT_4O = 3_750
DOUBLE = {"currencies": {"USD": [{"credits": "2"}]}}
EVENTS = 2_600  # of one batch: two do not fit one chunk
STRETCH = ("--from", "1d", "--to", "2999-01-01")
KILLED = 137
BOOKED = """
    SELECT count(*), count(DISTINCT (account_id, event_id)), sum(amount_change_micro)::bigint,
           (SELECT sum(amount_micro)::bigint FROM credit_transaction WHERE type = 'CORRECTION'),
           (SELECT sum(balance_micro)::bigint FROM account)
    FROM charge_correction"""


async def charged(bench: Desk) -> int:
    """Two batches of charges at half their right price; what all of it cost."""
    await bench.open()
    for batch in range(2):
        events = [usage(f"e{batch}-{n}", f"acct-{n % 7}") for n in range(EVENTS)]
        await bench.apply(*events, first=batch * EVENTS)
    await change_price(bench, **DOUBLE)
    return 2 * EVENTS * GPT_4O


async def killed(environment: Mapping[str, str], point: str, *arguments: str) -> None:
    done = await run_tollgate({**environment, "TOLLGATE_FAULT_POINT": point}, *arguments)
    assert done.returncode == KILLED, done.stderr


async def only_run(environment: Mapping[str, str]) -> Any:
    return (await report(environment, "rerate", "list"))[0]


@pytest.mark.parametrize(
    ("point", "chunks_done"),
    [("in_correction", 0), ("before_rerate_commit", 0), ("after_rerate_commit", 1)],
)
async def test_an_applied_run_books_each_difference_once(
    settings: Settings, environment: dict[str, str], point: str, chunks_done: int
) -> None:
    async with desk(settings) as bench:
        cost = await charged(bench)
        before = await bench.value("SELECT sum(balance_micro)::bigint FROM account")
        await killed(environment, point, "rerate", *STRETCH, "--apply", "--reason", "wrong")
        run = await only_run(environment)
        assert (run["finished_at"], run["events"]) == (None, chunks_done * EVENTS)
        assert await bench.value("SELECT count(*) FROM charge_correction") == chunks_done * EVENTS
        done = await report(environment, "rerate", "resume", "1")
        assert (done["run"]["events"], done["run"]["difference_micro"]) == (2 * EVENTS, cost)
        assert sum(group["difference_micro"] for group in done["groups"]) == cost
        booked = (2 * EVENTS, 2 * EVENTS, cost, -cost, before - cost)
        assert tuple(await bench.connection.fetchrow(BOOKED)) == booked
        again = await report(environment, "rerate", "resume", "1")
        assert again == done
        assert tuple(await bench.connection.fetchrow(BOOKED)) == booked


@pytest.mark.parametrize("point", ["before_rerate_commit", "after_rerate_commit"])
async def test_taking_back_goes_on_too(
    settings: Settings, environment: dict[str, str], point: str
) -> None:
    async with desk(settings) as bench:
        await charged(bench)
        balances = "SELECT json_agg(a.balance_micro ORDER BY a.account_id) FROM account a"
        before = await bench.value(balances)
        await report(environment, "rerate", *STRETCH, "--apply", "--reason", "wrong")
        await killed(environment, point, "rerate", "revert", "1", "--reason", "right")
        done = await report(environment, "rerate", "revert", "1", "--reason", "right")
        assert (done["run"]["run_id"], done["run"]["events"]) == (2, 2 * EVENTS)
        assert await bench.value(balances) == before
        assert await bench.value("SELECT count(*) FROM charge_correction") == 4 * EVENTS


async def test_a_what_if_writes_each_line_once(
    settings: Settings, environment: dict[str, str]
) -> None:
    """The chunk is in ClickHouse already, and PostgreSQL has not noted it."""
    async with desk(settings) as bench:
        cost = await charged(bench)
        await killed(environment, "before_rerate_move", "rerate", *STRETCH)
        ((there,),) = ask(settings, "SELECT count() FROM rerate_line")
        assert there == 2 * EVENTS
        assert (await only_run(environment))["events"] == 0
        done = await report(environment, "rerate", "resume", "1")
        assert (done["run"]["events"], done["run"]["difference_micro"]) == (2 * EVENTS, cost)
        counted = "SELECT count(), sum(new_micro - old_micro) FROM rerate_line"
        assert ask(settings, counted) == [(2 * EVENTS, cost)]
