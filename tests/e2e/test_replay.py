"""The whole topic once more through real raters: nothing is charged again, no balance moves.

TOLLGATE_REPLAY_RECORDS sets how many records, 20,000 by default. What the command says is printed
(`-s`).
"""

import asyncio
import json
import os
import subprocess
import sys
from collections import Counter
from collections.abc import Iterator, Mapping
from datetime import UTC, datetime
from random import Random
from typing import Any

import asyncpg

from adapters.settings import Settings
from schemas.topics import USAGE_EVENTS
from tests.bad_rows import Record, good_event, to_bytes
from tests.workers import Worker, publish, wait_applied

RECORDS = int(os.environ.get("TOLLGATE_REPLAY_RECORDS", "20000"))
ACCOUNTS = 499
SECONDS_MAX = 120 + RECORDS / 1_000
STATE = (
    "SELECT md5(string_agg(t::text, ',' ORDER BY account_id)) FROM account AS t",
    "SELECT md5(string_agg(t::text, ',' ORDER BY grant_id)) FROM credit_grant AS t",
    "SELECT count(*)::text || sum(amount_micro) FROM charge",
    "SELECT count(*)::text || sum(amount_micro) FROM grant_draw",
    "SELECT count(*)::text || coalesce(sum(amount_micro), 0) FROM credit_transaction",
)


def records(count: int, found: Counter[str]) -> Iterator[Record]:
    """Usage of 499 accounts: one in 50 a repetition, one in 100 no event, one in 100 unpriced."""
    rng, now = Random(20261121), datetime.now(UTC)
    last: Record | None = None
    for number in range(count):
        event = good_event(rng, number, f"acct-{number % ACCOUNTS:04d}", now)
        key, kind = event["subject"].encode(), "charged"
        if number % 50 == 49 and last is not None:
            found["duplicate"] += 1
            yield last
            continue
        if number % 100 == 17:
            kind = "bad_json"
            yield Record(key, to_bytes(event)[:-1], kind, kind)
        elif number % 100 == 18:
            kind = "unpriced"
            data = event["data"] | {"model": "no-such-model"}
            yield Record(key, to_bytes(event | {"data": data}), kind, kind)
        else:
            last = Record(key, to_bytes(event), kind, kind)
            yield last
        found[kind] += 1


async def replayed(environment: Mapping[str, str], *options: str) -> dict[str, Any]:
    """The report of `tollgate replay --wait`; what it takes is bounded by the number of records."""
    command = [sys.executable, "-m", "tollgate.cli", "replay", "--wait", "--json", *options]
    done = await asyncio.to_thread(
        subprocess.run, command, env=dict(environment), capture_output=True, timeout=SECONDS_MAX,
        check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr.decode()
    report: dict[str, Any] = json.loads(done.stdout)
    return report


async def test_the_whole_topic_from_offset_0_makes_zero_new_charges(
    settings: Settings, topics: dict[str, str], environment: dict[str, str]
) -> None:
    found: Counter[str] = Counter()
    await publish(settings, topics[USAGE_EVENTS.name], records(RECORDS, found))
    connection = await asyncpg.connect(settings.postgres.get_secret_value())
    try:
        with Worker("rater", environment) as rater:
            await wait_applied(settings, RECORDS, seconds_max=SECONDS_MAX, worker=rater)
            before = [await connection.fetchval(statement) for statement in STATE]
            missing = await replayed(environment)
            everything = await replayed(environment, "--everything")
            after = [await connection.fetchval(statement) for statement in STATE]
    finally:
        await connection.close()
    print(json.dumps([missing, everything], indent=1))  # noqa: T201 - the figures, with -s
    assert before == after
    standings = {
        "charged": found["charged"] + found["duplicate"],
        "parked": found["unpriced"],
        "unreadable": found["bad_json"],
    }
    assert missing["standings"] == everything["standings"] == standings
    assert missing["unreadable"] == {"bad_json": found["bad_json"]}
    assert missing["sent"] == 0
    assert everything["sent"] == RECORDS - found["bad_json"]
    assert everything["outcome"]["charged"] == everything["outcome"]["others"] == 0
    assert everything["outcome"]["dead"] == found["unpriced"]
    assert everything["outcome"]["duplicate"] == standings["charged"]
    assert everything["outcome"]["balances_identical"] is True
    assert everything["outcome"]["after"]["accounts"] == ACCOUNTS
