"""The warehouse when the world fails: ClickHouse away, killed, mute; others at work beside it."""

import asyncio
import contextlib
import subprocess
import time
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager
from pathlib import Path

import pytest
from pydantic import SecretStr

from adapters import clickhouse
from adapters.copy import Copy
from adapters.failures import Halt
from adapters.metrics import Metrics
from adapters.postgres import open_pool
from adapters.ranges import Ranges
from adapters.settings import Settings
from consumers.progress import Progress
from consumers.warehouse import Warehouse
from core.ranges import Stream
from stack.clickhouse import answers, prepare
from stack.ports import Ports
from tests.planted_ledger import Batch, connect, plant, run_sql, topic_of
from tests.shipping import ask, assert_copied_exactly, bench

WAIT_SECONDS_MAX = 60


class OwnClickHouse:
    """A ClickHouse process that a test may kill."""

    def __init__(self, directory: Path) -> None:
        self.port = Ports.free().clickhouse
        self._directory = directory
        self._process: subprocess.Popen[bytes] | None = None

    def start(self) -> None:
        launch = prepare(self._directory, self.port)
        with (self._directory / "out.log").open("ab") as log:
            self._process = subprocess.Popen(launch.argv, stdout=log, stderr=log)
        until = time.monotonic() + WAIT_SECONDS_MAX
        while not answers(self.port):
            assert time.monotonic() < until, "ClickHouse did not start"
            time.sleep(0.05)

    def kill(self) -> None:
        if self._process:
            self._process.kill()
            self._process.wait()


@pytest.fixture
def own_clickhouse(tmp_path: Path) -> Iterator[OwnClickHouse]:
    own = OwnClickHouse(tmp_path)
    own.start()
    yield own
    own.kill()


def at_port(settings: Settings, port: int) -> Settings:
    return settings.model_copy(update={"clickhouse": SecretStr(f"http://127.0.0.1:{port}")})


@asynccontextmanager
async def running(settings: Settings) -> AsyncIterator[Warehouse]:
    """The stage's loop, as in a worker."""
    async with open_pool(settings, application_name="tests", size=3) as pool:
        ranges = Ranges(pool, topic=topic_of(settings), rows_max=settings.ship_rows_max)
        warehouse = Warehouse(settings, ranges, Metrics("warehouse"), Progress(settings))
        task = asyncio.create_task(warehouse.run())
        try:
            yield warehouse
        finally:
            warehouse.stop()
            await asyncio.wait_for(task, WAIT_SECONDS_MAX)


async def until_copied(settings: Settings, rows: int) -> None:
    """Waits until ClickHouse has that many charges and credits are there too."""
    until = time.monotonic() + WAIT_SECONDS_MAX
    while time.monotonic() < until:
        with contextlib.suppress(clickhouse.Unreachable):
            counts = await asyncio.to_thread(
                ask,
                settings,
                "SELECT (SELECT count() FROM charge), (SELECT count() FROM credit_transaction)",
            )
            if counts[0][0] == rows and counts[0][1]:
                return
        await asyncio.sleep(0.1)
    pytest.fail("the copy did not arrive")


async def test_clickhouse_away_delays_the_copy_and_nothing_else(
    settings: Settings, own_clickhouse: OwnClickHouse
) -> None:
    settings = at_port(settings, own_clickhouse.port)
    clickhouse.migrate(settings)
    await plant(settings, Batch(500))
    async with running(settings):
        await until_copied(settings, 500)
        own_clickhouse.kill()
        await plant(settings, Batch(700))
        await asyncio.sleep(1)
        own_clickhouse.start()
        await until_copied(settings, 1_200)
    assert await assert_copied_exactly(settings) == 1_200


async def test_clickhouse_killed_during_an_insert_over_two_months(
    settings: Settings, own_clickhouse: OwnClickHouse
) -> None:
    settings = at_port(settings, own_clickhouse.port)
    clickhouse.migrate(settings)
    marks = 0
    rows = 0
    for delay_ms in (20, 60, 120, 250):
        await plant(settings, Batch(20_000, occurred_from="2026-10-31 23:00+00"))
        rows += 20_000
        async with bench(settings) as at:
            await at.copy.agree()
            shipping = asyncio.create_task(at.copy.ship_next(Stream.CHARGE))
            await asyncio.sleep(delay_ms / 1000)
            own_clickhouse.kill()
            try:
                await shipping
            except clickhouse.Unreachable:
                marks += 1
        own_clickhouse.start()
        async with bench(settings) as at:
            await at.drain_with_credits()
    assert marks > 0, "no kill hit an insert"
    assert await assert_copied_exactly(settings) == rows


class MuteProxy:
    """Passes requests on to ClickHouse and drops the replies to the inserts it is told to."""

    def __init__(self, port: int) -> None:
        self._port = port
        self.drops = 0
        self.dropped = 0

    @asynccontextmanager
    async def serve(self) -> AsyncIterator[int]:
        server = await asyncio.start_server(self._pass_on, "127.0.0.1", 0)
        try:
            yield server.sockets[0].getsockname()[1]
        finally:
            server.close()

    async def _pass_on(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        there_reader, there_writer = await asyncio.open_connection("127.0.0.1", self._port)
        inserting = False

        async def requests() -> None:
            nonlocal inserting
            while data := await reader.read(65_536):
                inserting = inserting or b"insert_deduplication_token" in data
                there_writer.write(data)
                await there_writer.drain()

        task = asyncio.create_task(requests())
        try:
            while data := await there_reader.read(65_536):
                if inserting and self.dropped < self.drops:
                    self.dropped += 1
                    break
                inserting = False
                writer.write(data)
                await writer.drain()
        finally:
            task.cancel()
            there_writer.close()
            writer.close()


@pytest.mark.parametrize("drops", [1, 2, 4])
async def test_a_lost_reply_doubles_nothing(settings: Settings, drops: int) -> None:
    await plant(settings, Batch(1_000))
    proxy = MuteProxy(int(settings.clickhouse.get_secret_value().rsplit(":", 1)[1]))
    proxy.drops = drops
    async with proxy.serve() as port, bench(at_port(settings, port)) as at:
        done = False
        while not done:
            try:
                await at.drain_with_credits()
                done = True
            except clickhouse.Unreachable:
                continue
    assert proxy.dropped == drops
    assert await assert_copied_exactly(settings) == 1_000


async def test_two_warehouses_at_once_are_harmless(settings: Settings) -> None:
    small = settings.model_copy(update={"ship_rows_max": 400})
    async with running(small), running(small), running(small):
        for _ in range(4):
            await plant(settings, Batch(1_000))
        await until_copied(settings, 4_000)
    assert await assert_copied_exactly(settings) == 4_000


async def test_a_stopped_warehouse_that_wakes_up_late_adds_nothing(settings: Settings) -> None:
    await plant(settings, Batch(500))
    async with bench(settings) as sleeper, bench(settings) as other:
        await sleeper.copy.agree()
        opened = await sleeper.ranges.open(Stream.CHARGE)
        assert opened is not None
        await other.drain_with_credits()
        await plant(settings, Batch(500))
        await other.drain_with_credits()
        await sleeper.copy._insert(opened)
        assert not await sleeper.ranges.mark(opened)
    assert await assert_copied_exactly(settings) == 1_000


async def test_a_slow_transaction_is_not_skipped(settings: Settings) -> None:
    """Numbers are given out before rows become visible: the later number commits first here."""
    await plant(settings, Batch(10))
    insert = (
        "INSERT INTO credit_transaction"
        " (account_id, type, amount_micro, balance_after_micro, actor)"
        " VALUES ('account 1', 'ADJUSTMENT', 5, 0, $1)"
    )
    slow, fast = await connect(settings), await connect(settings)
    transaction = slow.transaction()
    await transaction.start()
    await slow.execute(insert, "slow")
    await fast.execute(insert, "fast")
    arrived = "SELECT actor FROM credit_transaction WHERE type = 'ADJUSTMENT' ORDER BY actor"
    async with bench(settings) as at:
        await at.drain()
        assert ask(settings, arrived) == []
        await transaction.commit()
        await at.drain_with_credits()
    assert ask(settings, arrived) == [("fast",), ("slow",)]
    await slow.close()
    await fast.close()


async def test_a_ledger_that_lost_rows_halts_the_warehouse(settings: Settings) -> None:
    await plant(settings, Batch(100))
    async with bench(settings) as at:
        await at.copy.agree()
        assert await at.ranges.open(Stream.CHARGE) is not None
        await run_sql(settings, "DELETE FROM charge WHERE event_id = 'event-7'")
        with pytest.raises(Halt, match="ledger-changed"):
            await at.copy.ship_next(Stream.CHARGE)


async def test_rows_that_clickhouse_refuses_halt_the_warehouse(settings: Settings) -> None:
    await plant(settings, Batch(100))
    async with bench(settings) as at:
        await at.copy.agree()
        with clickhouse.connect(settings) as client:
            client.command("ALTER TABLE charge DROP COLUMN rule")
        with pytest.raises(Halt, match="refused"):
            await at.copy.ship_next(Stream.CHARGE)


async def test_a_replaced_clickhouse_is_noticed(settings: Settings) -> None:
    await plant(settings, Batch(100))
    async with bench(settings) as at:
        await at.drain_with_credits()
        with clickhouse.connect(settings, database="default") as client:
            client.command(f"DROP DATABASE `{settings.clickhouse_database}` SYNC")
        clickhouse.migrate(settings)
        with pytest.raises(Halt, match="tollgate rebuild"):
            await at.copy.agree()


async def test_copies_agree_on_the_generation_only_once(settings: Settings) -> None:
    """Several warehouses at the first start of a deployment."""
    async with open_pool(settings, application_name="tests", size=8) as pool:
        ranges = Ranges(pool, topic=topic_of(settings), rows_max=1_000)
        copies = [Copy(settings, ranges) for _ in range(4)]
        assert await asyncio.gather(*(copy.agree() for copy in copies)) == [1, 1, 1, 1]


async def test_a_ledger_restored_from_a_dump_halts_the_warehouse(settings: Settings) -> None:
    await plant(settings, Batch(10))
    await run_sql(settings, "UPDATE credit_transaction SET tx = '9000000000'")
    async with bench(settings) as at:
        with pytest.raises(Halt, match="transactions-went-back"):
            await at.drain()
