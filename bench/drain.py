"""How fast published events reach both stores, from the start of the workers to the last row."""

import asyncio
import time
from dataclasses import dataclass
from typing import Any

from adapters.audit import audit
from adapters.failures import Failure
from adapters.postgres import Connection, connect
from adapters.queries import load
from bench.processes import Fleet, fleet, spent
from bench.site import Place, Site

SQL = load("demo")
POLL_SECONDS = 0.1
WEIGH_SECONDS = 1.0
STALLED_SECONDS_MAX = 120.0


@dataclass(frozen=True, slots=True)
class Drain:
    """One drain: seconds from the start of the workers, processor time, peak memory, verdict."""

    records: int
    applied_seconds: float
    copied_seconds: float
    """0 without a warehouse"""
    first_seconds: float
    """until the first batch was committed: start of Python, joining the group"""
    cpu_seconds: dict[str, float]
    peak_bytes: dict[str, int]
    exact: bool | None
    """None without a warehouse"""

    @property
    def seconds(self) -> float:
        """Until the last record was in the last store."""
        return max(self.applied_seconds, self.copied_seconds)

    def document(self) -> dict[str, Any]:
        """As JSON: rates in records a second, processor time in microseconds a record."""
        share = 1e6 / self.records
        return {
            "records": self.records,
            "applied_seconds": round(self.applied_seconds, 2),
            "copied_seconds": round(self.copied_seconds, 2),
            "first_batch_seconds": round(self.first_seconds, 2),
            "records_per_second": round(self.records / self.seconds),
            "records_per_second_after_first_batch": round(
                self.records / max(0.001, self.seconds - self.first_seconds)
            ),
            "cpu_us_per_record": {
                name: round(seconds * share, 1) for name, seconds in self.cpu_seconds.items()
            },
            "peak_mib": {name: round(size / 2**20) for name, size in self.peak_bytes.items()},
            "verify_exact": self.exact,
        }


async def drain(
    site: Site, place: Place, records: int, *, raters: int = 2, warehouse: bool = True
) -> Drain:
    """Starts workers on a place where so many records wait, and waits until all are everywhere.

    Raises Failure when a worker ends, or nothing moves for two minutes.
    """
    connection = await connect(place.settings, application_name="bench", unlimited=True)
    try:
        with fleet(site.stack, site.stack.home / "bench-logs" / place.topic) as running:
            done = await _drain(running, place, connection, records, raters, warehouse=warehouse)
        exact = (await audit(place.settings)).exact if warehouse else None
    finally:
        await connection.close()
    return Drain(records, *done, running.peak_bytes, exact)


async def _drain(
    running: Fleet,
    place: Place,
    connection: Connection,
    records: int,
    raters: int,
    *,
    warehouse: bool,
) -> tuple[float, float, float, dict[str, float]]:
    before = running.cpu_seconds()
    began = moved_at = time.monotonic()
    for n in range(1, raters + 1):
        running.start(f"rater-{n}", place, "tollgate", "run", "rater")
    if warehouse:
        running.start("warehouse", place, "tollgate", "run", "warehouse")
    at = {"applied": 0.0, "copied": 0.0, "first": 0.0}
    latest, weighed_at = (0, 0), 0.0
    while latest[0] < records or (warehouse and latest[1] < records):
        await asyncio.sleep(POLL_SECONDS)
        row = await connection.fetchrow(SQL.progress, place.topic)
        assert row is not None  # noqa: S101 - SELECT without FROM gives one row
        now = time.monotonic()
        if (row["applied"], row["copied"]) != latest:
            moved_at = now
            at["first"] = at["first"] or now - began
            for n, store in enumerate(("applied", "copied")):
                if row[store] != latest[n]:
                    at[store] = now - began
            latest = (row["applied"], row["copied"])
        if now - weighed_at > WEIGH_SECONDS:
            running.weigh()
            weighed_at = now
        running.require()
        if now - moved_at > STALLED_SECONDS_MAX:
            raise Failure(f"nothing moved for {STALLED_SECONDS_MAX:.0f} s at {latest}")
    cpu_seconds = spent(before, running.cpu_seconds())
    return at["applied"], at["copied"], at["first"], cpu_seconds
