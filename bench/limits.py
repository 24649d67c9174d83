"""What each piece can do alone on this machine: the ceiling above the whole way.

Reads what a drain left behind, so that the same bytes are consumed, copied and inserted.
"""

import io
import time
from contextlib import closing
from pathlib import Path

from aiokafka import AIOKafkaConsumer

from adapters import clickhouse
from adapters.postgres import Connection, connect
from adapters.queries import load, parse
from bench.site import Place, Site

SQL = parse(Path(__file__).with_name("limits.sql").read_text(encoding="utf-8"), "limits.sql")
RANGES = load("ranges")
BATCH_RECORDS = 4_000
INSERT_ROWS_MAX = 100_000


async def raw_limits(site: Site, drained: Place, records: int) -> dict[str, int]:
    """Events a second of consuming, of COPY into `charge`, and of inserting into ClickHouse."""
    target = await site.new_place("limits")
    reading = await connect(drained.settings, application_name="bench", unlimited=True)
    try:
        ends = {part: end for part, end in await reading.fetch(SQL.ends, drained.topic)}  # noqa: C416 - Records
        consumed = await _consume(drained, records)
        copied = await _copy(reading, ends, target)
        inserted = await _insert(reading, ends, target)
    finally:
        await reading.close()
    return {"consume": consumed, "copy": copied, "insert": inserted}


async def _consume(place: Place, records: int) -> int:
    """Aiokafka alone: every record is fetched, unpacked and thrown away."""
    consumer = AIOKafkaConsumer(
        place.topic,
        bootstrap_servers=place.settings.kafka,
        group_id=None,
        auto_offset_reset="earliest",
        fetch_max_bytes=16 * 1024 * 1024,
    )
    await consumer.start()
    try:
        seen, began = 0, time.monotonic()
        while seen < records:
            batches = await consumer.getmany(timeout_ms=1_000, max_records=BATCH_RECORDS)
            seen += sum(map(len, batches.values()))
        return round(records / (time.monotonic() - began))
    finally:
        await consumer.stop()


async def _copy(reading: Connection, ends: dict[int, int], target: Place) -> int:
    """Binary COPY of the same charges into the same table with its indexes, 4,000 a transaction."""
    chunks = []
    for low in range(0, max(ends.values()), BATCH_RECORDS):
        for partition in ends:
            chunk = io.BytesIO()
            await reading.copy_from_query(
                SQL.charges_between,
                partition,
                low,
                low + BATCH_RECORDS,
                output=chunk,
                format="binary",
            )
            chunks.append(chunk)
    writing = await connect(target.settings, application_name="bench", unlimited=True)
    try:
        began, rows = time.monotonic(), 0
        for chunk in chunks:
            chunk.seek(0)
            done = await writing.copy_to_table("charge", source=chunk, format="binary")
            rows += int(done.split()[-1])
        return round(rows / (time.monotonic() - began))
    finally:
        await writing.close()


async def _insert(reading: Connection, ends: dict[int, int], target: Place) -> int:
    """The warehouse's CSV into the same tables, roll-up included, without reading PostgreSQL."""
    blocks = []
    step = INSERT_ROWS_MAX // len(ends)
    await reading.execute(RANGES.sort_in_memory)
    for low in range(0, max(ends.values()), step):
        bounds = (1, list(ends), [low] * len(ends), [low + step] * len(ends))
        blocks += [
            (await _csv(reading, *bounds, 0, month["month"]), month["row_count"])
            for month in await reading.fetch(RANGES.charge_months, *bounds)
        ]
    prepared = await reading.prepare(RANGES.charge_rows)
    columns = [attribute.name for attribute in prepared.get_attributes()]
    with closing(clickhouse.connect(target.settings)) as client:
        began, rows = time.monotonic(), 0
        for number, (data, row_count) in enumerate(blocks):
            clickhouse.insert_csv(
                client, table="charge", columns=columns, data=data, token=f"bench-{number}"
            )
            rows += row_count
        return round(rows / (time.monotonic() - began))


async def _csv(reading: Connection, *arguments: object) -> bytes:
    data = io.BytesIO()
    await reading.copy_from_query(
        RANGES.charge_rows, *arguments, output=data, format="csv", null="\\N"
    )
    return data.getvalue()
