"""PostgreSQL, Kafka and ClickHouse killed, restarted, away, or losing a reply."""

import asyncio
import signal
import time

from stack.local import Stack
from tests.faults.bench import Bench
from tests.faults.lossy_proxy import LossyProxy
from tests.faults.traffic import Traffic

PER_SECOND = 300


async def _flowing(bench: Bench, traffic: Traffic, seconds: float) -> None:
    end = time.monotonic() + seconds
    await bench.publisher.flow(traffic, per_second=PER_SECOND, until=lambda: time.monotonic() > end)


async def test_postgres_crashes_in_mid_stream(bench: Bench, stack: Stack) -> None:
    traffic = Traffic(6)
    workers = [bench.fleet.start(), bench.fleet.start(), bench.fleet.start("warehouse")]
    flow = asyncio.create_task(_flowing(bench, traffic, 8))
    await bench.charged(300)
    for _ in range(2):
        await asyncio.to_thread(stack.kill, "postgres")
        assert stack.running("postgres") is None
        await asyncio.sleep(0.5)
        await asyncio.to_thread(stack.start, "postgres")
        await asyncio.sleep(1)
    await flow
    await bench.exact(traffic.expected)
    assert [worker.status for worker in workers] == [None] * 3, bench.fleet.complaints()
    assert any(worker.said("is tried again") or worker.said("waiting") for worker in workers)


async def test_kafka_crashes_in_mid_stream(bench: Bench, stack: Stack) -> None:
    traffic = Traffic(7)
    workers = [bench.fleet.start(), bench.fleet.start(), bench.fleet.start("warehouse")]
    flow = asyncio.create_task(_flowing(bench, traffic, 10))
    await bench.charged(300)
    await asyncio.to_thread(stack.kill, "kafka")
    assert stack.running("kafka") is None
    await asyncio.sleep(1)
    await asyncio.to_thread(stack.start, "kafka")
    await flow
    await bench.publish(traffic, 500)
    await bench.exact(traffic.expected, seconds_max=90)
    assert all(rater.said("Unable connect") for rater in workers[:2]), "the fault had no effect"
    assert [worker.status for worker in workers] == [None] * 3, bench.fleet.complaints()


async def test_clickhouse_dies_during_an_insert_over_two_months(bench: Bench, stack: Stack) -> None:
    traffic = Traffic(8)
    rater = bench.fleet.start(batch_records=2_000)
    hits = 0
    for nth in (1, 2, 1):
        await bench.publish(traffic, 3_000)
        await bench.verdict.drained(60)
        warehouse = bench.fleet.start(
            "warehouse", at=("during_insert", nth), do="SIGSTOP", ship_rows_max=100_000
        )
        await warehouse.frozen(60)
        await asyncio.to_thread(stack.kill, "clickhouse")
        hits += 1
        warehouse.signal(signal.SIGCONT)
        await asyncio.to_thread(stack.start, "clickhouse")
        await bench.exact(traffic.expected)
        assert warehouse.status is None, bench.fleet.complaints()
        warehouse.signal(signal.SIGTERM)
        assert await warehouse.ended(20) == 0
    months = bench.verdict.clickhouse("SELECT uniqExact(toYYYYMM(occurred_at)) FROM charge")
    assert months == 2
    assert hits == 3
    assert rater.status is None


async def test_balances_go_on_while_clickhouse_is_away(bench: Bench, stack: Stack) -> None:
    traffic = Traffic(9)
    bench.fleet.start()
    warehouse = bench.fleet.start("warehouse")
    await bench.publish(traffic, 1_000)
    await bench.exact(traffic.expected)
    await asyncio.to_thread(stack.stop, "clickhouse")
    try:
        for _ in range(4):
            await bench.publish(traffic, 500)
            await bench.verdict.drained(30)
            await asyncio.sleep(1)
        findings = await bench.verdict.ledger_findings(traffic.expected)
        assert not findings, findings
        assert warehouse.said("Unreachable")
    finally:
        await asyncio.to_thread(stack.start, "clickhouse")
    await bench.exact(traffic.expected)
    assert warehouse.status is None


async def test_a_lost_reply_to_commit_charges_nothing_twice(bench: Bench) -> None:
    traffic = Traffic(10)
    proxy = LossyProxy(bench.settings.postgres.get_secret_value())
    await proxy.open()
    try:
        rater = bench.fleet.start(batch_records=50, postgres=proxy.dsn)
        bench.fleet.start("warehouse")
        proxy.loses_charges, proxy.loses_others = True, 0.25
        await bench.publish(traffic, 1_000)
        await bench.verdict.drained(60)
    finally:
        await proxy.close()
    await bench.exact(traffic.expected)
    assert proxy.lost_of_charges >= 10
    assert rater.status is None, bench.fleet.complaints()
    print(f"\n{proxy.lost} of {proxy.commits} replies to COMMIT lost")  # noqa: T201
