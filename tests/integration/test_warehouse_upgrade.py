"""A copy made by the release before corrections goes on, with its rows, after the migration."""

from pathlib import Path

import pytest

from adapters import clickhouse, ranges
from adapters.audit import audit
from adapters.clickhouse_tables import generation_of, read_tables
from adapters.failures import Halt
from adapters.ranges import Statements
from adapters.settings import Settings
from core.ranges import Stream
from tests.planted_corrections import plant_every_kind
from tests.planted_ledger import Batch, plant, run_sql
from tests.shipping import ask, assert_copied_exactly, bench

NEW_COLUMNS = """ service_tier, billed_currency, billed_pico, counter, counter_units,
       counter_before,"""
# What a ledger is like right after its own migration.
WITHOUT_NEWS = (
    """UPDATE charge SET service_tier = 'standard', billed_currency = '', billed_pico = 0,
       counter = '', counter_units = 0, counter_before = 0""",
    "DELETE FROM usage_counter",
)
OLD_GENERATION = """ALTER TABLE {table} DROP CONSTRAINT shipped_generation,
    ADD CONSTRAINT shipped_generation CHECK generation = 1"""


@pytest.fixture
async def old_copy(settings: Settings, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Settings:
    """600 charges as the release before copied them, the last range sent and not marked done."""
    with clickhouse.connect(settings, database="default") as client:
        client.command(f"DROP DATABASE `{settings.clickhouse_database}` SYNC")
    first = clickhouse.MIGRATIONS / "0001_copy_of_the_ledger.sql"
    (tmp_path / first.name).write_text(first.read_text())
    old_rows = ranges.SQL.charge_rows.replace(NEW_COLUMNS, "")
    assert old_rows != ranges.SQL.charge_rows
    await plant(settings, Batch(600))
    await run_sql(settings, *WITHOUT_NEWS)
    with monkeypatch.context() as old:
        old.setattr(clickhouse, "MIGRATIONS", tmp_path)
        old.setitem(
            ranges.STATEMENTS,
            Stream.CHARGE,
            Statements(ranges.SQL.charge_months, old_rows, ranges.SQL.charge_text),
        )
        assert clickhouse.migrate(settings) == ["0001_copy_of_the_ledger"]
        with clickhouse.connect(settings) as client:
            for table in ("charge", "credit_transaction"):
                client.command(OLD_GENERATION.format(table=table))
        async with bench(settings, rows_max=400) as at:
            assert await at.ranges.generation() == 1
            assert await at.copy.ship_next(Stream.CHARGE) is not None
            opened = await at.ranges.open(Stream.CHARGE)
            assert opened is not None
            await at.copy._insert(opened)
    return settings


async def test_a_copy_with_rows_goes_on_after_the_migration(old_copy: Settings) -> None:
    async with bench(old_copy) as at:
        with pytest.raises(Halt, match="tollgate migrate"):
            await at.copy.agree()
    assert clickhouse.migrate(old_copy) == [
        "0002_corrections",
        "0003_credit_metadata",
    ]
    assert ask(old_copy, "SELECT DISTINCT service_tier FROM usage") == [("standard",)]
    async with bench(old_copy) as at:
        await at.drain_with_credits()
        assert (await audit(old_copy)).exact
        await plant(old_copy, Batch(500))
        await plant_every_kind(old_copy)
        await at.drain_with_credits()
    assert await assert_copied_exactly(old_copy) == 1_100
    assert (await audit(old_copy)).exact
    with clickhouse.connect(old_copy) as client:
        assert generation_of(read_tables(client)) == 1
    assert clickhouse.migrate(old_copy) == []


async def test_a_table_that_was_emptied_is_not_taken_for_a_new_one(old_copy: Settings) -> None:
    """Only a stream of which nothing was shipped may begin with an empty table."""
    clickhouse.migrate(old_copy)
    async with bench(old_copy) as at:
        await plant_every_kind(old_copy)
        await at.drain_with_credits()
        with clickhouse.connect(old_copy) as client:
            client.command("DROP TABLE charge_correction SYNC")
            client.command("TRUNCATE TABLE schema_migration")
        clickhouse.migrate(old_copy)
        with pytest.raises(Halt, match="tollgate rebuild"):
            await at.copy.agree()
