"""`python -m bench.refresh`: how long all allowances of a deployment take, and what a kill costs.

First one scheduler does a job that came as a message; nobody had an allowance before. Then every
account has a rest of it that is to be replaced, and two processes share the work, of which one is
killed in the middle and started again with the same key.
"""

import argparse
import asyncio
import json
import sys
import tempfile
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from adapters.failures import Failure
from adapters.job_stream import ask
from adapters.postgres import Connection, connect
from adapters.queries import parse
from bench.machine import machine
from bench.processes import Fleet, fleet, spent
from bench.site import Place, Site, open_site
from schemas.job_names import JobName
from schemas.jobs import Job, new_job
from stack.ports import Name

SQL = parse(Path(__file__).with_name("refresh.sql").read_text(encoding="utf-8"), "refresh.sql")
SIZES = (10_000, 1_000_000)
POLL_SECONDS = 0.1
WEIGH_SECONDS = 1.0
MADE_AT_ONCE = 50_000
SECONDS_MAX = 900.0
# PostgreSQL finds out that a process is gone, and gives its run's lock up, when its statement ends.
GIVEN_UP_SECONDS = 3.0
VICTIM = "refresh-1"


async def refresh_all(site: Site, accounts: int) -> dict[str, Any]:
    """Two rounds of a refresh of so many accounts, and whether each was refreshed once in each.

    Raises Failure when a run fails, or when an account has not exactly what it should have.
    """
    place = _in_batches(await site.new_place(f"refresh_{accounts}"), accounts)
    connection = await connect(place.settings, application_name="bench", unlimited=True)
    logs = site.stack.home / "bench-logs" / f"refresh-{accounts}"
    try:
        for first in range(1, accounts + 1, MADE_AT_ONCE):
            last = min(accounts, first + MADE_AT_ONCE - 1)
            await connection.execute(SQL.make_accounts, first, last)
        await _make_due(connection)
        with fleet(site.stack, logs) as running:
            first_round = await _by_message(running, place, connection)
        await connection.execute(SQL.spend)
        await _make_due(connection)
        with fleet(site.stack, logs) as running:
            second_round = await _by_two(running, place, connection, killed_at=3 * accounts // 2)
        verdict = dict(await connection.fetchrow(SQL.verdict, 2))
    finally:
        await connection.close()
    if any(verdict[name] for name in verdict if name.endswith("_wrong")):
        raise Failure(f"not every account was refreshed exactly once in a round: {verdict}")
    return {
        "accounts": accounts,
        "first": first_round,
        "replacing_with_a_kill": second_round,
        "each_exactly_once": True,
    }


def _in_batches(place: Place, accounts: int) -> Place:
    """A few accounts are more than a few batches, so that there is a middle to be killed in."""
    size = min(place.settings.refresh_batch, accounts // 100)
    return Place(place.settings, {**place.environment, "TOLLGATE_REFRESH_BATCH": str(size)})


async def _make_due(connection: Connection) -> None:
    await connection.execute(SQL.make_due)
    await connection.execute(SQL.vacuum)
    await connection.execute(SQL.checkpoint)


async def _by_message(running: Fleet, place: Place, connection: Connection) -> dict[str, Any]:
    """One scheduler that runs already: from the message until the run has ended."""
    running.start("scheduler", place, "tollgate", "run", "scheduler")
    # Its first job is a small one: then it has joined its group, and is connected.
    await ask(place.settings, _job("bench:warm-up", dry_run=True))
    await _until(running, connection, "bench:warm-up")
    async with _measured(running) as figures:
        await ask(place.settings, _job("bench:first"))
        await _until(running, connection, "bench:first")
    return figures


async def _by_two(
    running: Fleet, place: Place, connection: Connection, killed_at: int
) -> dict[str, Any]:
    """Two processes, each with a run of its own: from their start until both have ended."""
    async with _measured(running) as figures:
        for name in (VICTIM, "refresh-2"):
            _start(running, place, name)
        while await connection.fetchval(SQL.refreshed) < killed_at:
            running.require()
            if running.ended("refresh-2"):
                break
            await asyncio.sleep(POLL_SECONDS / 10)
        if running.ended(VICTIM):
            raise Failure("the runs ended before one of them could be killed")
        running.kill(VICTIM)
        await asyncio.sleep(GIVEN_UP_SECONDS)
        _start(running, place, VICTIM)
        while not (running.ended(VICTIM) and running.ended("refresh-2")):
            running.require()
            await asyncio.sleep(POLL_SECONDS)
    return figures


def _start(running: Fleet, place: Place, name: str) -> None:
    running.start(name, place, "tollgate", "job", "refresh", "--now", "--key", f"bench:{name}")


def _job(key: str, *, dry_run: bool = False) -> Job:
    return new_job(JobName.REFRESH, key, "bench", datetime.now(UTC), dry_run=dry_run)


async def _until(running: Fleet, connection: Connection, key: str) -> None:
    """Failure when the run of that key fails or takes too long."""
    end = time.monotonic() + SECONDS_MAX
    while (state := await connection.fetchval(SQL.state, key)) != "done":
        if state == "failed" or time.monotonic() > end:
            raise Failure(f"the run {key} is {state}")
        running.require()
        await asyncio.sleep(POLL_SECONDS)


@asynccontextmanager
async def _measured(running: Fleet) -> AsyncIterator[dict[str, Any]]:
    """Filled at the end of the block: its seconds, processor time, and peak memory by process."""
    figures: dict[str, Any] = {}
    workers, stack, began = running.workers_cpu_seconds(), running.cpu_seconds(), time.monotonic()
    weighing = asyncio.create_task(_weigh(running))
    try:
        yield figures
    finally:
        weighing.cancel()
    figures["seconds"] = round(time.monotonic() - began, 1)
    figures["cpu_seconds"] = {
        "schedulers": round(running.workers_cpu_seconds() - workers, 1),
        "postgres": round(spent(stack, running.cpu_seconds())["postgres"], 1),
    }
    figures["peak_mib"] = {
        name: round(running.peak_bytes[name] / 2**20)
        for name in sorted(running.peak_bytes)
        if name == "postgres" or name not in set(Name)
    }


async def _weigh(running: Fleet) -> None:
    while True:
        running.weigh()
        await asyncio.sleep(WEIGH_SECONDS)


def main() -> int:
    """Exit code 1, with one line, when something fails."""
    parser = argparse.ArgumentParser(prog="python -m bench.refresh", description=__doc__)
    parser.add_argument("--accounts", type=int, nargs="+", default=SIZES, help="sizes to measure")
    chosen = parser.parse_args()
    try:
        with (
            tempfile.TemporaryDirectory(prefix="tollgate-bench-") as directory,
            open_site(Path(directory) / "stack") as site,
        ):
            measured = [asyncio.run(refresh_all(site, accounts)) for accounts in chosen.accounts]
    except Failure as failure:
        print(f"bench: {failure}", file=sys.stderr)
        return 1
    print(json.dumps({"machine": machine(), "refresh": measured}, indent=2))
    return 0


if __name__ == "__main__":
    sys.exit(main())
