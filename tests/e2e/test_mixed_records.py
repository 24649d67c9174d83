"""100,000 records, one in ten bad, through real Kafka and a real rater: each as foretold."""

import re
from collections import Counter
from datetime import UTC, datetime

import asyncpg

from adapters.settings import Settings
from schemas.topics import USAGE_EVENTS
from tests.bad_records import Record, mixed_records
from tests.workers import Worker, publish, wait_applied

RECORDS = 100_000
# Half of the silence after which the shortest session that Kafka may be given is lost; on a machine
# with nothing else to do it is 0.05 s.
STALL_SECONDS_MAX = 1.0


async def test_every_record_ends_as_the_oracle_says(
    settings: Settings, topics: dict[str, str], environment: dict[str, str]
) -> None:
    topic = topics[USAGE_EVENTS.name]
    records = mixed_records(20261121, RECORDS, 0.1, now=datetime.now(UTC))
    await publish(settings, topic, records)
    with Worker("rater", environment) as rater:
        await wait_applied(settings, RECORDS, seconds_max=120, worker=rater)
        metrics = rater.metrics()
    connection = await asyncpg.connect(settings.postgres.get_secret_value())
    try:
        assert await _outcomes(connection) == Counter(str(record.expected) for record in records)
        await _charges_are_the_expected_ones(connection, records)
    finally:
        await connection.close()
    stall = re.search(r"tollgate_loop_stall_seconds_max\{.*\} (\S+)", metrics)
    assert stall is not None
    assert float(stall.group(1)) < STALL_SECONDS_MAX


async def _outcomes(connection: "asyncpg.Connection[asyncpg.Record]") -> Counter[str]:
    row = await connection.fetchrow(
        "SELECT sum(charged) AS charged, sum(duplicate) AS duplicate FROM batch_outcome"
    )
    dead = await connection.fetch("SELECT reason, count(*) AS n FROM dead_letter GROUP BY reason")
    found = Counter({entry["reason"]: entry["n"] for entry in dead})
    found.update(charged=row["charged"], duplicate=row["duplicate"])
    return found


async def _charges_are_the_expected_ones(
    connection: "asyncpg.Connection[asyncpg.Record]", records: list[Record]
) -> None:
    rows = await connection.fetch("SELECT account_id, event_id FROM charge")
    charged = {(row["account_id"], row["event_id"]) for row in rows}
    pattern = re.compile(rb'"id"\s*:\s*"([^"]+)"')
    expected = set()
    for record in records:
        if record.expected == "charged":
            found = pattern.search(record.value or b"")
            assert found is not None
            assert record.key is not None
            expected.add((record.key.decode(), found.group(1).decode()))
    assert charged == expected
