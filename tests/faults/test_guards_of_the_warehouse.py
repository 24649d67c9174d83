"""Each guard of the warehouse is needed: the same crash with it passes, without it does harm."""

import signal
from contextlib import closing

import pytest

from adapters import clickhouse
from tests.faults.bench import Bench
from tests.faults.traffic import Traffic

RAW = "SELECT sum(toInt128(amount_micro)) FROM charge"
FINAL = "SELECT sum(toInt128(amount_micro)) FROM charge FINAL"
NO_WINDOW = "ALTER TABLE charge MODIFY SETTING non_replicated_deduplication_window = 0"
BY_DAY = "SELECT sum(amount_micro) FROM charge_by_day"


async def _crashed_after_its_insert(bench: Bench, traffic: Traffic) -> None:
    """The rows are in ClickHouse, nothing is marked, and more events wait."""
    bench.fleet.start()
    await bench.publish(traffic, 1_000)
    await bench.verdict.drained(60)
    warehouse = bench.fleet.start("warehouse", at=("before_mark", 1))
    assert await warehouse.ended(60) == -signal.SIGKILL
    await bench.publish(traffic, 300)
    await bench.verdict.drained(60)


async def test_with_fixed_ranges_and_tokens_a_repeated_insert_changes_nothing(bench: Bench) -> None:
    traffic = Traffic(31)
    await _crashed_after_its_insert(bench, traffic)
    bench.fleet.start("warehouse")
    await bench.exact(traffic.expected)
    total = sum(traffic.expected.values())
    assert {bench.verdict.clickhouse(query) for query in (RAW, FINAL, BY_DAY)} == {total}


@pytest.mark.parametrize("guard", ["token", "intent"])
async def test_without_it_rows_are_there_twice_and_only_final_tells(
    bench: Bench, guard: str
) -> None:
    traffic = Traffic(31)
    await _crashed_after_its_insert(bench, traffic)
    bench.fleet.start("warehouse", without=[guard])
    await bench.verdict.copied(60)
    total = sum(traffic.expected.values())
    assert bench.verdict.clickhouse(FINAL) == total
    assert bench.verdict.clickhouse(RAW) > total, "FINAL would not be needed"
    assert bench.verdict.clickhouse(BY_DAY) > total
    assert await bench.verdict.copy_findings()


@pytest.mark.parametrize("guard", [True, False])
async def test_a_table_without_a_window_for_tokens_halts_the_warehouse(
    bench: Bench, *, guard: bool
) -> None:
    traffic = Traffic(33)
    await _crashed_after_its_insert(bench, traffic)
    with closing(clickhouse.connect(bench.settings)) as client:
        client.command(NO_WINDOW)
    warehouse = bench.fleet.start("warehouse", without=[] if guard else ["window"])
    total = sum(traffic.expected.values())
    if guard:
        assert await warehouse.ended(30) == 1
        assert warehouse.said("halted (deduplication-window)")
        assert bench.verdict.clickhouse(RAW) < total
    else:
        await bench.verdict.copied(60)
        assert bench.verdict.clickhouse(RAW) > total


async def test_two_warehouses_at_once_do_the_work_of_one(bench: Bench) -> None:
    traffic = Traffic(32)
    bench.fleet.start()
    pair = [bench.fleet.start("warehouse", ship_rows_max=100) for _ in range(2)]
    for _ in range(4):
        await bench.publish(traffic, 700)
    await bench.exact(traffic.expected)
    assert [warehouse.status for warehouse in pair] == [None, None], bench.fleet.complaints()
