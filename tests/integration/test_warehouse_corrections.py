"""Corrections in ClickHouse: each once, whatever crashes, and never before their charge."""

import asyncio
import subprocess
import sys

import pytest

from adapters import clickhouse
from adapters.clickhouse import insert_csv
from adapters.clickhouse_tables import read_tables, weak_tables
from adapters.failures import Halt
from adapters.ranges import Range
from adapters.settings import Settings
from core.ranges import Stream, token
from tests.planted_corrections import Corrections, plant_corrections, plant_every_kind
from tests.planted_ledger import Batch, connect, plant, run_sql
from tests.shipping import (
    Bench,
    ask,
    assert_copied_exactly,
    assert_net_is_one_figure,
    bench,
)

FAULTS = ("after_intent", "during_insert", "after_insert", "before_mark", "after_mark")
RAW = """SELECT (SELECT count() FROM charge_correction), sum(rated_micro), sum(events)
FROM charge_correction_by_day"""
OVER_TWO_MONTHS = Batch(2_000, occurred_from="2026-10-31 23:40+00")
_SHIP_AND_DIE = """
import asyncio
from adapters.settings import load_settings
from consumers.warehouse import run
asyncio.run(run(load_settings()))
"""


async def ship_but_corrections(settings: Settings) -> None:
    """Ships what waits of the other streams, so that the next range can only be of corrections."""
    connection = await connect(settings)
    booked = await connection.fetchval("SELECT count(*) FROM credit_transaction")
    await connection.close()
    async with bench(settings) as at:
        await at.copy.agree()
        for _ in range(600):
            for stream in (Stream.CHARGE, Stream.CREDIT):
                await at.copy.ship_next(stream)
            if ask(settings, "SELECT count() FROM credit_transaction") == [(booked,)]:
                return
            await asyncio.sleep(0.1)
    pytest.fail("the credits did not arrive")


@pytest.mark.parametrize("fault", FAULTS)
async def test_a_crash_anywhere_loses_and_doubles_no_correction(
    settings: Settings, environment: dict[str, str], fault: str
) -> None:
    await plant(settings, OVER_TWO_MONTHS)
    await plant_every_kind(settings)
    await ship_but_corrections(settings)
    crashed = await asyncio.to_thread(
        subprocess.run,
        [sys.executable, "-c", _SHIP_AND_DIE],
        env={**environment, "TOLLGATE_FAULT_POINT": fault},
        timeout=60,
        check=False,
        capture_output=True,
    )
    assert crashed.returncode == 137, crashed.stderr.decode()
    connection = await connect(settings)
    [stream] = await connection.fetch(
        "SELECT stream FROM ship_range ORDER BY range_id DESC LIMIT 1"
    )
    await connection.close()
    assert stream["stream"] == "correction"
    await plant_corrections(settings, Corrections("rerate", 3, run_id=7))
    async with bench(settings) as at:
        await at.drain_with_credits()
    assert await assert_copied_exactly(settings) == OVER_TWO_MONTHS.charges


async def open_corrections(at: Bench) -> Range:
    """The next range of corrections, once no transaction of the server can precede it any more."""
    for _ in range(600):
        opened = await at.ranges.open(Stream.CORRECTION)
        if opened is not None:
            return opened
        await asyncio.sleep(0.1)
    raise AssertionError("no range of corrections was opened")


async def test_a_token_sent_twice_adds_nothing(settings: Settings) -> None:
    """A warehouse dies before its mark; the next one sends the same months again."""
    await plant(settings, OVER_TWO_MONTHS)
    done = await plant_every_kind(settings)
    await ship_but_corrections(settings)
    async with bench(settings) as at:
        opened = await open_corrections(at)
        assert len(await at.ranges.months(opened)) == 2
        await at.copy._insert(opened)
        before = ask(settings, RAW)
        assert before[0][0] == done
        await at.drain_with_credits()
    assert ask(settings, RAW) == before
    assert await assert_copied_exactly(settings) == OVER_TWO_MONTHS.charges


@pytest.mark.parametrize("weak", ["charge_correction", "charge_correction_by_day"])
async def test_without_its_window_a_table_doubles_and_the_warehouse_refuses_it(
    settings: Settings, weak: str
) -> None:
    await plant(settings, Batch(200))
    await plant_corrections(settings, Corrections("void", 1))
    await ship_but_corrections(settings)
    async with bench(settings) as at:
        opened = await open_corrections(at)
        [month] = await at.ranges.months(opened)
        rows = await at.ranges.rows(opened, month)
    with clickhouse.connect(settings) as client:
        client.command(f"ALTER TABLE {weak} MODIFY SETTING non_replicated_deduplication_window = 0")
        assert weak_tables(read_tables(client)) == [weak]
    async with bench(settings) as at:
        with pytest.raises(Halt, match=weak):
            await at.copy.agree()
    name = token(Stream.CORRECTION, opened.generation, opened.range_id, month)
    for _ in range(2):
        with clickhouse.connect(settings) as client:
            insert_csv(
                client,
                table="charge_correction",
                columns=rows.columns,
                data=rows.csv,
                token=name,
            )
    [(corrections, _, voided)] = ask(settings, RAW)
    assert (corrections, voided) == ((400, -200) if weak == "charge_correction" else (200, -400))


async def test_a_correction_waits_for_its_charge(settings: Settings) -> None:
    """Else a day would show less than nothing until the charge is there, too."""
    await plant(settings, Batch(1_000))
    await plant_every_kind(settings)
    rounds = 0
    async with bench(settings, rows_max=150) as at:
        await at.copy.agree()
        assert await at.copy.ship_next(Stream.CORRECTION) is None
        while await at.copy.ship_next(Stream.CHARGE) is not None:
            rounds += await at.copy.ship_next(Stream.CORRECTION) is not None
            assert_net_is_one_figure(settings)
        await at.drain_with_credits()
    assert rounds > 0
    assert await assert_copied_exactly(settings) == 1_000


async def test_a_slow_transaction_is_not_skipped(settings: Settings) -> None:
    await plant(settings, Batch(10))
    slow = await connect(settings)
    transaction = slow.transaction()
    await transaction.start()
    await slow.execute("SELECT pg_current_xact_id()")
    await plant_corrections(settings, Corrections("rerate", 1))
    async with bench(settings) as at:
        await at.drain()
        assert ask(settings, "SELECT count() FROM charge_correction") == [(0,)]
        await transaction.commit()
        await at.drain_with_credits()
    assert ask(settings, "SELECT count() FROM charge_correction") == [(10,)]
    await slow.close()


async def test_a_state_that_the_ledger_lacks_halts_the_warehouse(settings: Settings) -> None:
    await plant(settings, Batch(100))
    await plant_every_kind(settings)
    await ship_but_corrections(settings)
    await run_sql(
        settings, "DELETE FROM charge_correction WHERE event_id = 'event-2' AND sequence = 1"
    )
    async with bench(settings) as at:
        await open_corrections(at)
        with pytest.raises(Halt, match="refused"):
            await at.copy.ship_next(Stream.CORRECTION)


async def test_a_ledger_restored_from_a_dump_halts_the_warehouse(settings: Settings) -> None:
    await plant(settings, Batch(100))
    await plant_every_kind(settings)
    await run_sql(settings, "UPDATE charge_correction SET tx = '9000000000'")
    async with bench(settings) as at:
        with pytest.raises(Halt, match="transactions-went-back"):
            await at.drain()
