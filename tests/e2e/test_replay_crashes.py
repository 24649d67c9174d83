"""A replay that is killed in the middle goes on from its state, and nothing is charged twice."""

import asyncio
import json
import signal
import subprocess
import sys
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from adapters.settings import Settings
from tests.batches import desk, usage
from tests.commands import report, run_tollgate
from tests.replayed import Sent, apply_all, read
from tests.workers import Worker, publish, wait_applied

RECORDS = 6_000
RATE = 1_000


def value(number: int) -> bytes:
    return json.dumps(usage(f"e-{number}", f"acct-{number % 40}")).encode()


def started(environment: Mapping[str, str], *options: str) -> "subprocess.Popen[bytes]":
    """With SIGINT as a terminal gives it; in the background of a shell it is ignored."""
    command = [sys.executable, "-m", "tollgate.cli", "replay", *options]
    ours = signal.signal(signal.SIGINT, signal.default_int_handler)
    try:
        return subprocess.Popen(
            command, env=dict(environment), stdout=subprocess.DEVNULL, stderr=subprocess.PIPE
        )
    finally:
        signal.signal(signal.SIGINT, ours)


def in_the_middle(path: Path, replaying: "subprocess.Popen[bytes] | None" = None) -> dict[str, Any]:
    """Until the state says that something was sent; returns the state."""
    began = time.monotonic()
    while True:
        assert time.monotonic() - began < 120
        assert replaying is None or replaying.poll() is None, replaying.communicate()
        state: dict[str, Any] = json.loads(path.read_text()) if path.exists() else {}
        if state and state["tally"]["sent"]:
            return state
        time.sleep(0.02)


async def test_killed_in_the_middle_it_goes_on_and_every_event_is_charged_once(
    settings: Settings, topics: dict[str, str], environment: dict[str, str], tmp_path: Path
) -> None:
    """The records were never applied, as after an accepted loss, so a replay must bring them."""
    path = tmp_path / "replay.json"
    options = ("--state", str(path), "--rate", str(RATE))
    async with desk(settings) as at:
        records = [Sent(value(n), f"acct-{n % 40}".encode()) for n in range(RECORDS)]
        await publish(settings, at.topic, records)
        await at.ledger.positions(dict.fromkeys(range(8), 0))
        ends = {tp.partition: len(run) for tp, run in (await read(settings, at.topic)).items()}
        for partition, end in ends.items():
            await at.connection.execute(
                "UPDATE stream_position SET next_offset = $1, first_offset = $1"
                " WHERE partition = $2",
                end,
                partition,
            )
        first = started(environment, *options)
        kept = await asyncio.to_thread(in_the_middle, path, first)
        first.send_signal(signal.SIGKILL)
        first.communicate()
        assert 0 < kept["tally"]["sent"] < RECORDS
        done = await report(environment, "replay", *options)
        assert done["resumed"] is True
        assert done["read"] == done["sent"] == RECORDS
        assert {s["partition"]: s["to_offset"] for s in done["stretches"]} == {
            partition: end for partition, end in ends.items() if end
        }
        appended = sum(len(run) for run in (await read(settings, at.topic)).values()) - RECORDS
        assert RECORDS <= appended <= RECORDS + RATE  # one second's worth may be sent once more
        with Worker("rater", environment) as rater:
            await wait_applied(settings, appended, seconds_max=60, worker=rater)
        assert await at.value("SELECT count(*) FROM charge") == RECORDS
        assert await at.value("SELECT count(DISTINCT event_id) FROM charge") == RECORDS
        again = await report(environment, "replay", *options)
        assert (again["sent"], again["resumed"]) == (RECORDS, True)
        other = await run_tollgate(environment, "replay", "--state", str(path), "--everything")
        assert other.returncode == 1
        assert "another --everything" in other.stderr


async def test_it_holds_the_rate_and_tells_where_it_stopped(
    settings: Settings, topics: dict[str, str], environment: dict[str, str], tmp_path: Path
) -> None:
    path = tmp_path / "replay.json"
    async with desk(settings) as at:
        await publish(settings, at.topic, [Sent(value(0), b"acct-0")] * RECORDS)
        await apply_all(at)
        began = time.monotonic()
        slow = started(environment, "--everything", "--rate", "100", "--state", str(path))
        await asyncio.to_thread(in_the_middle, path, slow)
        await asyncio.sleep(2)
        slow.send_signal(signal.SIGINT)
        _, said = await asyncio.to_thread(slow.communicate)
        assert slow.returncode == 130
        sent = sum(len(run) for run in (await read(settings, at.topic)).values()) - RECORDS
        assert 0 < sent <= 100 * (time.monotonic() - began)
        assert "The same command goes on from there" in said.decode()
        assert len(said.decode().strip().splitlines()) == 1


async def test_it_waits_for_the_raters_and_tells_others_traffic_apart(
    settings: Settings, topics: dict[str, str], environment: dict[str, str], tmp_path: Path
) -> None:
    path = tmp_path / "replay.json"
    async with desk(settings) as at:
        first = [Sent(value(n), f"acct-{n % 40}".encode()) for n in range(RECORDS)]
        await publish(settings, at.topic, first)
        with Worker("rater", environment) as rater:
            await wait_applied(settings, RECORDS, seconds_max=60, worker=rater)
            options = ("--everything", "--wait", "--rate", str(RATE), "--state", str(path))
            replaying = asyncio.create_task(report(environment, "replay", *options))
            await asyncio.to_thread(in_the_middle, path)
            others = [
                Sent(value(RECORDS + n), b"acct-%d" % ((RECORDS + n) % 40)) for n in range(500)
            ]
            await publish(settings, at.topic, others)
            found: dict[str, Any] = await replaying
            assert rater.process.poll() is None
        outcome = found["outcome"]
        assert (outcome["charged"], outcome["duplicate"], outcome["dead"]) == (0, RECORDS, 0)
        assert (outcome["others"], outcome["charged_in_all"]) == (500, 500)
        assert outcome["balances_identical"] is False
