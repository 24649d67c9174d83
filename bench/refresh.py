"""`python -m bench.refresh`: how long all allowances of a deployment take, and what a kill costs.

Two schedulers as processes of their own share the work. In the second round every account has spent
a part of its allowance, so that there is a rest to replace, and one of the two is killed in the
middle and started again with the same key.
"""

import argparse
import asyncio
import json
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import psutil

from adapters.failures import Failure
from adapters.postgres import Connection, connect
from adapters.queries import parse
from bench.machine import machine
from bench.site import Place, Site, open_site

SQL = parse(Path(__file__).with_name("refresh.sql").read_text(encoding="utf-8"), "refresh.sql")
SIZES = (10_000, 1_000_000)
POLL_SECONDS = 0.1
MADE_AT_ONCE = 50_000
SECONDS_MAX = 900.0
# PostgreSQL finds out that a process is gone, and gives its run's lock up, when its statement ends.
GIVEN_UP_SECONDS = 3.0


class Workers:
    """Processes that do a refresh job each, and the most memory that any of them took."""

    def __init__(self, place: Place) -> None:
        self._place = place
        self._running: dict[str, subprocess.Popen[bytes]] = {}
        self.peak_bytes = 0

    def start(self, key: str) -> None:
        """One more, at work on the run of that key."""
        self._running[key] = subprocess.Popen(  # noqa: S603 - our own command
            [sys.executable, "-m", "tollgate", "job", "refresh", "--now", "--key", key],
            env=self._place.environment,
            stdout=subprocess.DEVNULL,
        )

    def kill(self, key: str) -> None:
        """At once, in the middle of whatever it does."""
        self._running[key].kill()
        self._running.pop(key).wait()

    def working(self) -> bool:
        """Whether one has not ended; takes a look at their memory. Failure when one failed."""
        for key, child in self._running.items():
            if child.poll():
                raise Failure(f"the run {key} ended with status {child.returncode}")
        alive = [child.pid for child in self._running.values() if child.poll() is None]
        for pid in alive:
            if psutil.pid_exists(pid):
                self.peak_bytes = max(self.peak_bytes, psutil.Process(pid).memory_info().rss)
        return bool(alive)

    def end(self) -> None:
        """None is left behind."""
        for child in self._running.values():
            child.kill()
            child.wait()


async def refresh_all(site: Site, accounts: int, processes: int = 2) -> dict[str, Any]:
    """Two rounds of a refresh of so many accounts, and whether each was refreshed once in each.

    Raises Failure when a run fails, or when an account has not exactly what it should have.
    """
    place = await site.new_place(f"refresh_{accounts}")
    connection = await connect(place.settings, application_name="bench", unlimited=True)
    try:
        for first in range(1, accounts + 1, MADE_AT_ONCE):
            last = min(accounts, first + MADE_AT_ONCE - 1)
            await connection.execute(SQL.make_accounts, first, last)
        seconds, peak_bytes = [], 0
        for number in (1, 2):
            if number == 2:
                await connection.execute(SQL.spend)
            await connection.execute(SQL.make_due)
            await connection.execute(SQL.vacuum)
            workers = Workers(place)
            try:
                keys = [f"round-{number}-{n}" for n in range(processes)]
                victim = keys[0] if number == 2 else None
                half = accounts * number - accounts // 2
                seconds.append(await _round(connection, workers, keys, victim, half))
            finally:
                workers.end()
            peak_bytes = max(peak_bytes, workers.peak_bytes)
        verdict = dict(await connection.fetchrow(SQL.verdict, 2))
    finally:
        await connection.close()
    if any(verdict[name] for name in verdict if name.endswith("_wrong")):
        raise Failure(f"not every account was refreshed exactly once in a round: {verdict}")
    return {
        "accounts": accounts,
        "processes": processes,
        "first_seconds": round(seconds[0], 1),
        "replacing_with_a_kill_seconds": round(seconds[1], 1),
        "accounts_per_second": round(accounts / max(seconds)),
        "peak_mib": round(peak_bytes / 2**20),
        "each_exactly_once": True,
    }


async def _round(
    connection: Connection, workers: Workers, keys: list[str], victim: str | None, half: int
) -> float:
    """Seconds from the start of the processes to the end of the last one."""
    began = time.monotonic()
    for key in keys:
        workers.start(key)
    while workers.working():
        await asyncio.sleep(POLL_SECONDS)
        if victim is not None and await connection.fetchval(SQL.refreshed) > half:
            workers.kill(victim)
            await asyncio.sleep(GIVEN_UP_SECONDS)
            workers.start(victim)
            victim = None
        if time.monotonic() - began > SECONDS_MAX:
            raise Failure(f"a refresh took longer than {SECONDS_MAX:.0f} s")
    if victim is not None:
        raise Failure("the runs ended before one of them could be killed")
    return time.monotonic() - began


def main() -> int:
    """Exit code 1, with one line, when something fails."""
    parser = argparse.ArgumentParser(prog="python -m bench.refresh", description=__doc__)
    parser.add_argument("--accounts", type=int, nargs="+", default=SIZES, help="sizes to measure")
    parser.add_argument("--processes", type=int, default=2, help="schedulers that share the work")
    chosen = parser.parse_args()
    try:
        with (
            tempfile.TemporaryDirectory(prefix="tollgate-bench-") as directory,
            open_site(Path(directory) / "stack") as site,
        ):
            document = {"machine": machine()}
            for accounts in chosen.accounts:
                done = asyncio.run(refresh_all(site, accounts, chosen.processes))
                document[f"refresh_{accounts}"] = done
    except Failure as failure:
        print(f"bench: {failure}", file=sys.stderr)
        return 1
    print(json.dumps(document, indent=2))
    return 0


if __name__ == "__main__":
    sys.exit(main())
