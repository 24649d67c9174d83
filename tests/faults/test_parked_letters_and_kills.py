"""A rater dies between sending parked letters again and marking them: each is charged once."""

import json
import signal
from datetime import UTC, datetime
from typing import Any

import asyncpg

from adapters.topics import offsets
from tests.counted import publish_counted
from tests.faults.bench import Bench
from tests.faults.traffic import Sent
from tests.faults.waiting import eventually

LETTERS = 500
DEATHS = 3
FIVE_MICRO = 5_000_000


def _waiting(number: int) -> Sent:
    account_id = f"acct-{number % 7}"
    event: dict[str, Any] = {
        "specversion": "1.0",
        "id": f"e-{number}",
        "source": "tests/faults",
        "type": "tollgate.usage.v1",
        "subject": account_id,
        "time": datetime.now(UTC).isoformat(),
        "data": {"action": "brand_new"},
    }
    return account_id.encode(), json.dumps(event).encode()


async def test_letters_that_were_sent_and_not_marked_are_charged_once(bench: Bench) -> None:
    first = bench.fleet.start()
    await bench.publisher.send([_waiting(n) for n in range(LETTERS)])
    await bench.verdict.drained(60)
    first.signal(signal.SIGKILL)
    await first.ended(60)
    connection = await asyncpg.connect(bench.settings.postgres.get_secret_value())
    try:
        await publish_counted(connection, brand_new={"credits": "5"})
    finally:
        await connection.close()
    for _ in range(DEATHS):
        dying = bench.fleet.start(at=("after_requeue", 1))
        assert await dying.ended(30) == -signal.SIGKILL, dying.log.read_text()
    for _ in range(2):
        bench.fleet.start()

    async def all_marked() -> bool:
        [row] = await bench.verdict.fetch(
            "SELECT count(*) AS n FROM dead_letter WHERE requeued_at IS NULL"
        )
        return row["n"] == 0

    await eventually(all_marked, 60, "all letters are marked")
    event = {(f"acct-{n % 7}", f"e-{n}"): FIVE_MICRO for n in range(LETTERS)}
    await bench.ledger_is_exact(event)
    log = await offsets(bench.settings, bench.verdict.topic)
    sent_again = sum(end for _, end in log.values()) - LETTERS
    assert sent_again > LETTERS, "the deaths must have sent some letters twice"
    assert bench.fleet.marks()["after_requeue"] == DEATHS
