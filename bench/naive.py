"""The naive design, to compare with: one transaction per event, nothing for ClickHouse.

Same decoding, same prices, same tables, as many processes. It is given its accounts beforehand,
accounts for no offset, commits to Kafka in the background, and forgets what it can not charge.
"""

import asyncio
import time
from pathlib import Path

import uvloop
from aiokafka import AIOKafkaConsumer, ConsumerRecord

from adapters.postgres import Connection, connect
from adapters.price_store import load_history
from adapters.queries import parse
from adapters.settings import Settings, load_settings
from bench.processes import fleet
from bench.site import Place, Site
from core.batch import PLAIN_COLUMNS, Charge, Entry, charge_row
from core.prices import PriceHistory
from core.rating import AccountFacts, Rated, rate
from schemas.events import Rejected, TimeWindow, decode, payload_hash
from schemas.topics import USAGE_EVENTS

SQL = parse(Path(__file__).with_name("naive.sql").read_text(encoding="utf-8"), "naive.sql")
FACTS = AccountFacts("free", demo=False)
POLL_SECONDS = 0.1


async def naive_rate(site: Site, place: Place, unique: int, accounts: int, workers: int) -> int:
    """Events a second until so many unique events are charged; counted from the first charge."""
    connection = await connect(place.settings, application_name="bench", unlimited=True)
    try:
        for n in range(1, accounts + 1):
            await connection.execute(SQL.open_account, f"acct-{n:05d}", FACTS.tier)
        with fleet(site.stack, site.stack.home / "bench-logs" / place.topic) as running:
            for n in range(workers):
                running.start(f"naive-{n}", place, "bench.naive")
            began, first = 0.0, 0
            while (charged := await connection.fetchval(SQL.charged)) < unique:
                running.require()
                if charged and not began:
                    began, first = time.monotonic(), charged
                await asyncio.sleep(POLL_SECONDS)
            return round((unique - first) / (time.monotonic() - began))
    finally:
        await connection.close()


async def work(settings: Settings) -> None:
    """Charges events one by one until the process is stopped."""
    connection = await connect(settings, application_name="naive", unlimited=True)
    history = await load_history(connection)
    consumer = AIOKafkaConsumer(
        settings.topic_prefix + USAGE_EVENTS.name,
        bootstrap_servers=settings.kafka,
        group_id=f"{settings.topic_prefix}naive",
        auto_offset_reset="earliest",
    )
    await consumer.start()
    try:
        async for record in consumer:
            await _charge(connection, record, history)
    finally:
        await consumer.stop()


async def _charge(connection: Connection, record: ConsumerRecord, history: PriceHistory) -> None:
    event = decode(record.value, record.key, record.timestamp, TimeWindow())
    if isinstance(event, Rejected):
        return
    rated = rate(event, history, FACTS)
    if not isinstance(rated, Rated):
        return
    entry = Entry(record, event, payload_hash(event))
    charge = Charge(entry, rated, FACTS, rated.rated_micro, 0)
    row = charge_row(charge, 1)[: len(PLAIN_COLUMNS)]
    async with connection.transaction():
        if await connection.fetchval(SQL.charge, *row) is not None:
            await connection.execute(SQL.draw, event.subject, rated.rated_micro)
            await connection.execute(SQL.move_balance, event.subject, rated.rated_micro)


if __name__ == "__main__":
    uvloop.run(work(load_settings()))
