"""The warehouse on real PostgreSQL and ClickHouse: each ledger row once, whatever crashes."""

import asyncio
import subprocess
import sys
from datetime import UTC, datetime

import pytest
from clickhouse_connect.driver.client import Client

from adapters import clickhouse
from adapters.clickhouse import insert_csv
from adapters.clickhouse_tables import read_tables, weak_tables
from adapters.failures import Halt
from adapters.queries import load
from adapters.ranges import STATEMENTS
from adapters.settings import Settings
from core.ranges import Stream, token
from tests.planted_corrections import plant_every_kind
from tests.planted_ledger import Batch, connect, plant
from tests.shipping import ask, assert_copied_exactly, bench

FAULTS = (
    "before_intent",
    "after_intent",
    "during_insert",
    "after_insert",
    "before_mark",
    "after_mark",
)


async def test_every_column_arrives_as_it_is(settings: Settings) -> None:
    await plant(settings, Batch(2_000))
    assert await plant_every_kind(settings) == 1_700
    async with bench(settings) as at:
        await at.drain_with_credits()
        assert await assert_copied_exactly(settings) == 2_000
        await plant(settings, Batch(500))
        assert await at.drain() == 1
        assert await at.drain() == 0
    assert await assert_copied_exactly(settings) == 2_500


async def test_a_range_is_cut_into_months(settings: Settings) -> None:
    await plant(settings, Batch(900, occurred_from="2026-09-30 12:00+00", step="2 hours"))
    async with bench(settings) as at:
        await at.drain_with_credits()
    assert await assert_copied_exactly(settings) == 900
    parts = ask(
        settings,
        "SELECT DISTINCT partition FROM system.parts"
        " WHERE database = currentDatabase() AND table = 'charge' AND active ORDER BY 1",
    )
    assert parts == [("202609",), ("202610",), ("202611",), ("202612",)]


async def test_ranges_are_bounded_and_cover_everything(settings: Settings) -> None:
    await plant(settings, Batch(1_000, accounts=7, partitions=4))
    async with bench(settings, rows_max=170) as at:
        await at.drain_with_credits()
    assert await assert_copied_exactly(settings) == 1_000
    connection = await connect(settings)
    assert await connection.fetchval("SELECT max(row_count) FROM ship_range") <= 170
    assert await connection.fetchval("SELECT sum(row_count) FROM ship_range") == 1_007
    await connection.close()


async def test_ranges_are_bounded_by_the_text_in_them(settings: Settings) -> None:
    """Many rows of much text would not fit into a warehouse, nor into a rebuild ever after."""
    await plant(settings, Batch(60))
    await plant_every_kind(settings)
    connection = await connect(settings)
    await connection.execute("INSERT INTO credit_transaction (account_id, type, amount_micro,"
        " balance_after_micro, actor, metadata)"
        " SELECT 'account 0', 'DEDUCT', -1, -number, 'app', repeat('x', 1_000)"
        " FROM generate_series(1, 4) AS number")  # fmt: skip
    async with bench(settings, bytes_max=1_500) as at:
        await at.drain_with_credits()
        await assert_copied_exactly(settings)
        ranges = await connection.fetch(
            "SELECT stream, epoch, partitions, from_offsets, to_offsets,"
            " tx_after::text, id_after, tx_to::text, id_to FROM ship_range"
        )
        found: dict[Stream, list[int]] = {stream: [] for stream in Stream}
        for row in ranges:
            stream = Stream(row["stream"])
            charges = row["epoch"], row["partitions"], row["from_offsets"], row["to_offsets"]
            others = row["tx_after"], row["id_after"], row["tx_to"], row["id_to"]
            bounds = charges if stream is Stream.CHARGE else others
            found[stream].append(await connection.fetchval(STATEMENTS[stream].text, *bounds))
    await connection.close()
    assert min(len(sizes) for sizes in found.values()) >= 2
    assert max(size for sizes in found.values() for size in sizes) <= 1_500


async def test_an_epoch_is_shipped_to_its_end_before_the_next(settings: Settings) -> None:
    await plant(settings, Batch(400))
    await plant(settings, Batch(300, epoch=2, occurred_from="2026-11-21 10:00+00"))
    async with bench(settings, rows_max=150) as at:
        await at.drain_with_credits()
    assert await assert_copied_exactly(settings) == 700
    connection = await connect(settings)
    epochs = await connection.fetch(
        "SELECT epoch FROM ship_range WHERE stream = 'charge' ORDER BY range_id"
    )
    assert [row["epoch"] for row in epochs] == [1, 1, 1, 2, 2]
    await connection.close()


_SHIP_AND_DIE = """
import asyncio, sys
from adapters.settings import load_settings
from consumers.warehouse import run
asyncio.run(run(load_settings()))
"""


@pytest.mark.parametrize("fault", FAULTS)
async def test_a_crash_anywhere_loses_and_doubles_nothing(
    settings: Settings, environment: dict[str, str], fault: str
) -> None:
    await plant(settings, Batch(6_000, occurred_from="2026-10-31 22:00+00", step="3 seconds"))
    crashed = await asyncio.to_thread(
        subprocess.run,
        [sys.executable, "-c", _SHIP_AND_DIE],
        env={**environment, "TOLLGATE_FAULT_POINT": fault},
        timeout=60,
        check=False,
        capture_output=True,
    )
    assert crashed.returncode == 137, crashed.stderr.decode()
    await plant(settings, Batch(1_000))
    async with bench(settings) as at:
        await at.drain_with_credits()
    assert await assert_copied_exactly(settings) == 7_000


async def repeat_an_insert(settings: Settings) -> None:
    """Ships a range and stops before its mark; then a second warehouse ships it."""
    async with bench(settings) as at:
        await at.copy.agree()
        opened = await at.ranges.open(Stream.CHARGE)
        assert opened is not None
        for month in await at.ranges.months(opened):
            rows = await at.ranges.rows(opened, month)
            with clickhouse.connect(settings) as client:
                insert_csv(
                    client,
                    table="charge",
                    columns=rows.columns,
                    data=rows.csv,
                    token=token(Stream.CHARGE, opened.generation, opened.range_id, month),
                )
        await at.drain_with_credits()


async def test_a_repeated_insert_changes_nothing(settings: Settings) -> None:
    await plant(settings, Batch(1_000, occurred_from="2026-10-31 23:55+00"))
    await repeat_an_insert(settings)
    assert await assert_copied_exactly(settings) == 1_000


async def test_without_its_window_a_table_doubles_and_the_warehouse_refuses_it(
    settings: Settings,
) -> None:
    await plant(settings, Batch(1_000))
    async with bench(settings) as at:
        await at.copy.agree()
    for table in ("charge", "charge_by_day"):
        with clickhouse.connect(settings) as client:
            client.command(
                f"ALTER TABLE {table} MODIFY SETTING non_replicated_deduplication_window = 0"
            )
            assert weak_tables(read_tables(client)) == [table]
        async with bench(settings) as at:
            with pytest.raises(Halt, match=table):
                await at.copy.agree()
            opened = await at.ranges.open(Stream.CHARGE)
        assert opened is not None
        with clickhouse.connect(settings) as client:
            _insert_by_hand(client, await _csv(settings), table)
        with clickhouse.connect(settings) as client:
            client.command(
                f"ALTER TABLE {table} MODIFY SETTING non_replicated_deduplication_window = 10000"
            )


async def _csv(settings: Settings) -> tuple[list[str], bytes, str]:
    async with bench(settings) as at:
        opened = await at.ranges.open(Stream.CHARGE)
        assert opened is not None
        [month] = await at.ranges.months(opened)
        rows = await at.ranges.rows(opened, month)
        return rows.columns, rows.csv, token(Stream.CHARGE, 1, opened.range_id, month)


def _insert_by_hand(client: Client, made: tuple[list[str], bytes, str], weak: str) -> None:
    """Twice the same insert: the weak table keeps both, which is what the window is there for."""
    columns, csv, name = made
    before = _raw_rows(client)
    for _ in range(2):
        insert_csv(client, table="charge", columns=columns, data=csv, token=f"{name}:{weak}")
    after = _raw_rows(client)
    grown = {table: after[table] - before[table] for table in after}
    strong = "charge_by_day" if weak == "charge" else "charge"
    assert grown == {weak: 2_000, strong: 1_000}


def _raw_rows(client: Client) -> dict[str, int]:
    counts = "SELECT (SELECT count() FROM charge), (SELECT sum(events) FROM charge_by_day)"
    [(charges, events)] = client.query(counts).result_rows
    return {"charge": charges, "charge_by_day": events}


async def test_a_range_is_found_by_its_index_however_large_the_ledger_is(
    settings: Settings,
) -> None:
    await plant(settings, Batch(20_000))
    connection = await connect(settings)
    await connection.execute("ANALYZE charge")
    statements = load("ranges")
    bounds = (1, [0, 1, 2], [100, 100, 100], [200, 200, 200])
    for statement, more in (
        (statements.charge_months, ()),
        (statements.charge_rows, (1, datetime(2026, 11, 1, tzinfo=UTC))),
    ):
        plan = await connection.fetch(f"EXPLAIN {statement}", *bounds, *more)
        text = "\n".join(line for (line,) in plan)
        assert "Index Scan using charge_position" in text
        assert "Seq Scan on charge" not in text
    await connection.close()


async def test_the_stage_ships_until_it_is_told_to_stop(
    settings: Settings, environment: dict[str, str]
) -> None:
    await plant(settings, Batch(500))
    stage = await asyncio.create_subprocess_exec(
        sys.executable, "-c", _SHIP_AND_DIE, env=environment, stderr=asyncio.subprocess.DEVNULL
    )
    try:
        for _ in range(300):
            if ask(settings, "SELECT count() FROM charge") == [(500,)]:
                break
            await asyncio.sleep(0.1)
        stage.terminate()
        assert await asyncio.wait_for(stage.wait(), 30) == 0
    finally:
        if stage.returncode is None:
            stage.kill()
            await stage.wait()
    async with bench(settings) as at:
        await at.drain_with_credits()
    assert await assert_copied_exactly(settings) == 500
