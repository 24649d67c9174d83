"""ClickHouse is made anew from the ledger, equal, whatever happens meanwhile."""

import asyncio
import subprocess
import sys

import pytest

from adapters import clickhouse
from adapters.audit import audit
from adapters.clickhouse import Refused, insert_csv
from adapters.clickhouse_tables import generation_of, read_tables
from adapters.failures import Failure
from adapters.metrics import Metrics
from adapters.rebuild import rebuild
from adapters.settings import Settings
from consumers.progress import Progress
from consumers.warehouse import Warehouse
from core.ranges import Stream, token
from tests.planted_corrections import plant_every_kind
from tests.planted_ledger import Batch, plant
from tests.shipping import ask, assert_copied_exactly, bench

EVERYTHING = "SELECT * EXCEPT generation FROM charge ORDER BY account_id, event_id"
ROLLED_UP = "SELECT * FROM usage_by_day ORDER BY ALL"
CORRECTIONS = "SELECT * EXCEPT generation FROM charge_correction ORDER BY correction_id"
NET = "SELECT * FROM net_usage_by_day ORDER BY ALL"
LINE = """INSERT INTO rerate_line VALUES (1, 'a', 'e', '2026-11-01 00:00:00', 'openai', 'gpt-4o',
'ai_completion', 1, 2, 10, 11, 'dearer', now())"""


async def test_a_rebuilt_copy_is_equal(settings: Settings) -> None:
    await plant(settings, Batch(3_000, occurred_from="2026-10-31 23:50+00"))
    await plant_every_kind(settings)
    async with bench(settings) as at:
        await at.drain_with_credits()
    everything = EVERYTHING, ROLLED_UP, CORRECTIONS, NET
    before = [ask(settings, statement) for statement in everything]
    assert all(before)
    with clickhouse.connect(settings) as client:
        client.command(LINE)
        client.command("TRUNCATE TABLE charge")
        client.command("TRUNCATE TABLE charge_correction")
        client.command("INSERT INTO charge_by_day SELECT * FROM charge_by_day")
    assert not (await audit(settings)).exact
    rebuilt = await rebuild(settings)
    assert (rebuilt.generation, rebuilt.resumed, rebuilt.charges) == (2, False, 3_000)
    assert [ask(settings, statement) for statement in everything] == before
    assert ask(settings, "SELECT count() FROM rerate_line") == [(1,)]
    assert (await audit(settings)).exact
    assert (await rebuild(settings)).generation == 3
    assert await assert_copied_exactly(settings) == 3_000


async def test_a_wiped_clickhouse_is_made_anew(settings: Settings) -> None:
    await plant(settings, Batch(500))
    async with bench(settings) as at:
        await at.drain_with_credits()
    with clickhouse.connect(settings, database="default") as client:
        client.command(f"DROP DATABASE `{settings.clickhouse_database}` SYNC")
    clickhouse.migrate(settings)
    await rebuild(settings)
    assert await assert_copied_exactly(settings) == 500


async def test_a_warehouse_runs_on_through_a_rebuild(settings: Settings) -> None:
    small = settings.model_copy(update={"ship_rows_max": 200, "ship_wait_ms": 20})
    await plant(settings, Batch(2_000))
    async with bench(small, rows_max=200) as at:
        warehouse = Warehouse(small, at.ranges, Metrics("warehouse"), Progress(small))
        task = asyncio.create_task(warehouse.run())
        await asyncio.sleep(0.3)
        await rebuild(small)
        await plant(settings, Batch(1_000))
        await rebuild(small)
        while await at.ranges.waiting():
            assert not task.done(), task.exception()
            await asyncio.sleep(0.05)
        warehouse.stop()
        await asyncio.wait_for(task, 30)
        await at.drain_with_credits()
    assert await assert_copied_exactly(settings) == 3_000
    assert (await audit(settings)).exact


async def test_an_insert_of_the_old_copy_is_refused_by_the_new_one(settings: Settings) -> None:
    await plant(settings, Batch(500))
    async with bench(settings) as at:
        await at.copy.agree()
        opened = await at.ranges.open(Stream.CHARGE)
        assert opened is not None
        [month] = await at.ranges.months(opened)
        rows = await at.ranges.rows(opened, month)
        await rebuild(settings)
        name = token(Stream.CHARGE, opened.generation, opened.range_id, month)
        with clickhouse.connect(settings) as client, pytest.raises(Refused):
            insert_csv(client, table="charge", columns=rows.columns, data=rows.csv, token=name)
        assert not await at.ranges.mark(opened)
    assert await assert_copied_exactly(settings) == 500


_REBUILD = """
import asyncio
from adapters.rebuild import rebuild
from adapters.settings import load_settings
print(asyncio.run(rebuild(load_settings())).resumed)
"""


@pytest.mark.parametrize("fault", ["after_intent", "after_insert", "after_mark"])
async def test_an_interrupted_rebuild_is_carried_on(
    settings: Settings, environment: dict[str, str], fault: str
) -> None:
    await plant(settings, Batch(800))
    await plant_every_kind(settings)
    small = {**environment, "TOLLGATE_SHIP_ROWS_MAX": "300"}
    command = [sys.executable, "-c", _REBUILD]
    crashed = await asyncio.to_thread(
        subprocess.run,
        command,
        env={**small, "TOLLGATE_FAULT_POINT": fault},
        capture_output=True,
        timeout=60,
        check=False,
    )
    assert crashed.returncode == 137, crashed.stderr.decode()
    carried_on = await asyncio.to_thread(
        subprocess.run, command, env=small, capture_output=True, text=True, timeout=60, check=True
    )
    assert carried_on.stdout.strip() == "True"
    async with bench(settings) as at:
        await at.drain_with_credits()
    assert await assert_copied_exactly(settings) == 800


async def test_a_rebuild_that_died_before_its_tables_were_ready_begins_again(
    settings: Settings, monkeypatch: pytest.MonkeyPatch
) -> None:
    await plant(settings, Batch(400))
    async with bench(settings) as at:
        await at.drain_with_credits()

    def die(*_: object) -> None:
        raise clickhouse.Unreachable("gone")

    with monkeypatch.context() as patch:
        patch.setattr("adapters.rebuild.make_anew", die)
        with pytest.raises(Failure, match="again"):
            await rebuild(settings)
    async with bench(settings) as at:
        with pytest.raises(Failure, match="tollgate rebuild"):
            await at.copy.agree()
    with pytest.raises(Failure, match="tollgate rebuild"):
        await audit(settings)
    await rebuild(settings)
    assert await assert_copied_exactly(settings) == 400
    with clickhouse.connect(settings) as client:
        assert generation_of(read_tables(client)) == 3


async def test_two_rebuilds_at_once_are_refused(settings: Settings) -> None:
    await plant(settings, Batch(400))
    quick = settings.model_copy(update={"lock_seconds_max": 0.1, "ship_rows_max": 10})
    results = await asyncio.gather(rebuild(quick), rebuild(quick), return_exceptions=True)
    failures = [result for result in results if isinstance(result, Failure)]
    assert len(failures) == 1
    assert "another rebuild" in str(failures[0])
    assert await assert_copied_exactly(settings) == 400
