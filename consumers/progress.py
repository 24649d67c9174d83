"""Whether a worker gets on: the truth behind /healthz, and the watchdog of one that hangs."""

import asyncio
import os
import sys
import threading
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, suppress

import structlog

from adapters.settings import Settings

TICK_SECONDS = 0.5
# When even the watchdog slept longer, the process was suspended (SIGSTOP, a frozen machine); see
# `suspended_seconds`.
SUSPENDED_SECONDS = 5.0
WATCHDOG_STATUS = 70


class Progress:
    """What a stage has finished and what waits; written by its event loop, read by any thread.

    Alive means: nothing waits, or something was finished within `stalled_seconds_max`, and the
    event loop turned within a third of Kafka's session timeout.
    """

    def __init__(self, settings: Settings) -> None:
        now = time.monotonic()
        self.ready = False  # the stage sets it once it has its partitions or its connection
        self.records = 0
        self._lag = 0
        self._moved_at = now
        self._ticked_at = now
        self._stalled_seconds_max = settings.stalled_seconds_max
        self._silent_seconds_max = settings.session_timeout_ms / 3000

    def batch_done(self, records: int) -> None:
        """Something was finished and committed just now."""
        self.records += records
        self._moved_at = time.monotonic()

    @property
    def lag(self) -> int:
        """How many records or rows wait."""
        return self._lag

    @lag.setter
    def lag(self, waiting: int) -> None:
        if self._lag == 0 and waiting > 0:
            self._moved_at = time.monotonic()  # an idle hour is not a stall
        self._lag = waiting

    @property
    def suspended_seconds(self) -> float:
        """After how long a sleep of its own the watchdog takes the process for one that was
        suspended: always before the loop's silence would count, which that sleep brought about.
        """
        return min(
            SUSPENDED_SECONDS, max(2 * TICK_SECONDS, self._silent_seconds_max - TICK_SECONDS)
        )

    def tick(self) -> None:
        """The event loop turned."""
        self._ticked_at = time.monotonic()

    def resumed(self) -> None:
        """Nothing could be finished until now, for no fault of this process: that is no stall."""
        self._moved_at = self._ticked_at = time.monotonic()

    def slept(self, seconds: float) -> None:
        """The whole process was stopped for so long: the time away is no stall, the rest is."""
        now = time.monotonic()
        self._moved_at = min(now, self._moved_at + seconds)
        self._ticked_at = min(now, self._ticked_at + seconds)

    def idle_seconds(self, now: float) -> float:
        """How long nothing was finished although something waits; 0 when nothing waits."""
        return max(0.0, now - self._moved_at) if self._lag > 0 else 0.0

    def loop_silent_seconds(self, now: float) -> float:
        """How long the event loop has not turned."""
        return max(0.0, now - self._ticked_at)

    def alive(self, now: float) -> bool:
        """False when the worker should be restarted; `now` is time.monotonic()."""
        return self.stall(now) is None

    def stall(self, now: float) -> str | None:
        """Why the worker is not alive, in one line, or None."""
        idle, silent = self.idle_seconds(now), self.loop_silent_seconds(now)
        if idle > self._stalled_seconds_max:
            return f"{self._lag} wait and nothing was finished for {idle:.0f} s"
        if silent > self._silent_seconds_max:
            return f"the event loop did not turn for {silent:.0f} s"
        return None


@asynccontextmanager
async def watchdog(progress: Progress) -> AsyncIterator[None]:
    """Ends the process with 70 when it is not alive, from a thread that a blocked loop cannot stop.

    A worker that hangs keeps its partitions and its locks: dying gives both back, and every batch
    it had not committed is applied by the next one.
    """
    stopped = threading.Event()
    thread = threading.Thread(target=_watch, args=(progress, stopped), name="watchdog", daemon=True)
    ticking = asyncio.create_task(_tick(progress), name="watchdog-tick")
    thread.start()
    try:
        yield
    finally:
        stopped.set()
        ticking.cancel()
        with suppress(asyncio.CancelledError):
            await ticking


async def _tick(progress: Progress) -> None:
    while True:
        progress.tick()
        await asyncio.sleep(TICK_SECONDS)


def _watch(progress: Progress, stopped: threading.Event) -> None:
    looked_at = time.monotonic()
    while not stopped.wait(TICK_SECONDS):
        now = time.monotonic()
        if now - looked_at > progress.suspended_seconds:
            progress.slept(now - looked_at)
        looked_at = now
        stall = progress.stall(now)
        if stall is not None:
            structlog.get_logger().error("watchdog", stall=stall, exit_status=WATCHDOG_STATUS)
            sys.stderr.flush()
            os._exit(WATCHDOG_STATUS)
