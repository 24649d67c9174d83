"""One run of the demo: feed, drain, a calm stretch to time single events, and the audit."""

import asyncio
import sys
import time
from dataclasses import asdict
from typing import Any

from adapters.audit import audit
from adapters.failures import Failure
from adapters.postgres import Connection
from adapters.settings import Settings
from tollgate.demo_credits import CreditsAct
from tollgate.demo_figures import (
    SQL,
    Canary,
    Progress,
    read_analytics,
    read_progress,
    read_totals,
)
from tollgate.demo_screen import Screen
from tollgate.demo_workers import Command, Workers, workers
from tollgate.output import remark

POLL_SECONDS = 0.25
STALLED_SECONDS_MAX = 120.0
CALM_RATE = 2_000
CALM_SECONDS = 10
CANARIES = 45


class Run:
    """What the demo does once the stack is up and migrated."""

    def __init__(
        self, settings: Settings, connection: Connection, feed: list[str], raters: int
    ) -> None:
        self._settings = settings
        self._connection = connection
        self._feed = feed
        self._raters = raters

    async def report(self) -> dict[str, Any]:
        """Runs everything and returns what the summary shows; see demo_summary.py.

        Raises Failure when a worker ends by itself or nothing moves for two minutes.
        """
        with workers(self._settings.home / "demo-logs", self._raters) as running:
            remark("an account, a grant and two streams, over HTTP")
            act = CreditsAct(running)
            await act.open()
            before = await read_totals(self._connection, self._settings)
            drained = await self._drain(running)
            after = await read_totals(self._connection, self._settings)
            latencies = await self._calm(running)
            remark("the monthly allowance, and a reconciliation of what was left behind")
            credits_act = await act.close()
            await self._wait_copied(running)
            remark("checking every invariant in all three stores")
            verdict = await audit(self._settings)
        analytics = await asyncio.to_thread(read_analytics, self._settings)
        letters = await self._connection.fetch(SQL.dead_letters_since, before["last_letter"])
        outcome = {name: after[name] - before[name] for name in before if name != "last_letter"}
        return {
            **drained,
            "credits": credits_act,
            "outcome": outcome,
            "as_expected": _as_expected(drained["published"], outcome, list(map(dict, letters))),
            "dead_letters": [dict(row) for row in letters],
            "latency_seconds": latencies,
            "analytics": analytics,
            "verify": {
                "exact": verdict.exact,
                "waiting": verdict.waiting.total,
                "checks": [asdict(result) for result in verdict.results],
            },
        }

    async def _drain(self, running: Workers) -> dict[str, Any]:
        """Feeds, and waits until everything that was published is in both stores."""
        before = await read_progress(self._connection, self._settings)
        began = time.monotonic()
        command = Command(*self._feed)
        applied_seconds = copied_seconds = 0.0
        with Screen(command.line, sys.stderr) as screen:
            moved_at, latest = began, Progress(0, 0, 0)
            while True:
                feeding = command.running
                progress = (await read_progress(self._connection, self._settings)).since(before)
                now = time.monotonic()
                if progress != latest:
                    moved_at, latest = now, progress
                screen.show(progress, now - began)
                if progress.applied < progress.published or feeding:
                    applied_seconds = now - began
                if progress.copied < progress.published or feeding:
                    copied_seconds = now - began
                elif progress.published:
                    break
                running.require()
                if not feeding and now - moved_at > STALLED_SECONDS_MAX:
                    raise Failure(f"nothing moved for {STALLED_SECONDS_MAX:.0f} s: {progress}")
                await asyncio.sleep(POLL_SECONDS)
        return {
            "command": command.line,
            "published": command.result(),
            "records": latest.published,
            "applied_seconds": round(applied_seconds, 2),
            "copied_seconds": round(copied_seconds, 2),
        }

    async def _calm(self, running: Workers) -> dict[str, Any]:
        """Steady traffic, and single events that are timed on their way."""
        remark(f"timing single events while {CALM_RATE:,} others a second flow")
        background = Command(
            "load", "--rate", str(CALM_RATE), "--duration", str(CALM_SECONDS), "--steady"
        )
        await asyncio.sleep(1)
        latencies = await Canary(self._settings, self._connection).fly(CANARIES)
        await asyncio.to_thread(background.result)
        await self._wait_copied(running)
        return {"events": CANARIES, "rate": CALM_RATE, **latencies.document()}

    async def _wait_copied(self, running: Workers) -> None:
        began = time.monotonic()
        while True:
            progress = await read_progress(self._connection, self._settings)
            if progress.copied == progress.published:
                return
            running.require()
            if time.monotonic() - began > STALLED_SECONDS_MAX:
                raise Failure(f"not everything arrived: {progress}")
            await asyncio.sleep(POLL_SECONDS)


def _as_expected(
    published: dict[str, Any], outcome: dict[str, int], letters: list[dict[str, Any]]
) -> bool:
    """Whether the stores hold what the feed says must come of it.

    A trace names no outcome per record: there, all of its events must be charged, duplicates of an
    earlier run of the same file, or dead letters with a reason.
    """
    if "unique" not in published:
        booked = outcome["charged"] + outcome["duplicate"] + outcome["dead"]
        return bool(booked == published["published"])
    found = {letter["reason"]: letter["letters"] for letter in letters}
    return bool(
        outcome["charged"] == published["unique"]
        and outcome["duplicate"] == published["duplicates"]
        and found == {reason: count for reason, count in published["poison"].items() if count}
    )
