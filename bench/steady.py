"""How long one event takes to a moved balance and a ClickHouse row while others flow steadily."""

import asyncio
import json
import subprocess
import sys
import time
from dataclasses import dataclass
from typing import Any

from adapters.audit import audit
from adapters.failures import Failure
from adapters.postgres import Connection, connect
from bench.processes import Fleet, fleet
from bench.site import Place, Site
from bench.traffic import MIXED, publish
from tollgate.demo_figures import CANARY_PAUSE_SECONDS, Canary, Latencies, read_progress

WARM_UP_RECORDS = 10_000
SETTLE_SECONDS = 3.0
ARRIVE_SECONDS_MAX = 120.0


@dataclass(frozen=True, slots=True)
class Steady:
    """The latencies of single events at one rate, and whether the rate was held."""

    rate: int
    published_per_second: float
    latencies: Latencies
    exact: bool

    def document(self) -> dict[str, Any]:
        """As JSON, in seconds."""
        return {
            "events_per_second": self.rate,
            "published_per_second": round(self.published_per_second),
            "timed_events": len(self.latencies.balance_seconds),
            **self.latencies.document(),
            "verify_exact": self.exact,
        }


async def steady(site: Site, place: Place, rate: int, seconds: float, raters: int = 2) -> Steady:
    """Two raters and a warehouse under even traffic; five single events a second are timed."""
    connection = await connect(place.settings, application_name="bench", unlimited=True)
    try:
        with fleet(site.stack, site.stack.home / "bench-logs" / place.topic) as running:
            for n in range(1, raters + 1):
                running.start(f"rater-{n}", place, "tollgate", "run", "rater")
            running.start("warehouse", place, "tollgate", "run", "warehouse")
            await publish(place, MIXED, WARM_UP_RECORDS)
            await _arrival(running, connection, place)
            background = _load(place, rate, seconds + 2 * SETTLE_SECONDS)
            await asyncio.sleep(SETTLE_SECONDS)
            canary = Canary(place.settings, connection)
            latencies = await canary.fly(round(seconds / CANARY_PAUSE_SECONDS))
            output, _ = await asyncio.to_thread(background.communicate)
            await _arrival(running, connection, place)
        exact = (await audit(place.settings)).exact
    finally:
        await connection.close()
    published = json.loads(output)
    return Steady(rate, published["published"] / published["seconds"], latencies, exact)


def _load(place: Place, rate: int, seconds: float) -> "subprocess.Popen[bytes]":
    command = f"-m tollgate load --rate {rate} --duration {seconds} --steady --json"
    return subprocess.Popen(  # noqa: S603 - our own command
        [sys.executable, *command.split()],
        env=place.environment,
        stdout=subprocess.PIPE,
        start_new_session=True,
    )


async def _arrival(running: Fleet, connection: Connection, place: Place) -> None:
    deadline = time.monotonic() + ARRIVE_SECONDS_MAX
    while True:
        running.require()
        progress = await read_progress(connection, place.settings)
        if progress.copied == progress.published:
            return
        if time.monotonic() > deadline:
            raise Failure(f"not everything arrived: {progress}")
        await asyncio.sleep(0.5)
