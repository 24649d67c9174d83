"""What became of every tracking call, as exact counts and, for a sample, as notices."""

import threading
import time
from dataclasses import dataclass, fields
from enum import StrEnum


class Cause(StrEnum):
    """Why a usage event could not be delivered."""

    INVALID = "invalid"
    DROPPED = "dropped"
    FAILED = "failed"


@dataclass(frozen=True, slots=True)
class Undelivered:
    """One usage event that will not reach Kafka, for the `on_undelivered` callback.

    `account_id` and `event_id` are what the caller gave, `value` is the encoded event when there
    was one, so that the app can keep it somewhere else.
    """

    cause: Cause
    detail: str
    account_id: str
    event_id: str
    value: bytes | None


@dataclass(frozen=True, slots=True)
class Stats:
    """Counts of one client since it was made, from one consistent snapshot.

    calls = accepted + dropped + invalid, and
    accepted + recovered = delivered + failed + buffered + spilled.
    """

    accepted: int = 0
    """taken over by the client"""
    delivered: int = 0
    """acknowledged by Kafka"""
    failed: int = 0
    """accepted, but given up: refused by Kafka for its size, or unsent and unspilled at close"""
    dropped: int = 0
    """refused because the buffer was full or the client closed"""
    invalid: int = 0
    """refused because an argument is outside its limits"""
    recovered: int = 0
    """found on disk, left behind by an earlier process"""
    buffered: int = 0
    """in memory now, in flight included"""
    spilled: int = 0
    """on disk now"""

    @property
    def calls(self) -> int:
        """How often something was to be tracked."""
        return self.accepted + self.dropped + self.invalid

    @property
    def tracked_ratio(self) -> float:
        """Share of calls that were accepted; 1.0 before the first call."""
        return self.accepted / self.calls if self.calls else 1.0

    @property
    def failed_ratio(self) -> float:
        """Share of calls whose event is known to be lost; 0.0 before the first call."""
        lost = self.dropped + self.invalid + self.failed
        return lost / self.calls if self.calls else 0.0


class Tally:
    """The counts behind `Stats`, safe to change from any thread."""

    def __init__(self) -> None:
        self._changed = threading.Condition(threading.Lock())
        self._counts = dict.fromkeys((field.name for field in fields(Stats)), 0)

    def move(self, **deltas: int) -> None:
        """Adds to the counts in one step, so that every snapshot adds up."""
        with self._changed:
            for name, delta in deltas.items():
                self._counts[name] += delta
            if "delivered" in deltas or "failed" in deltas:
                self._changed.notify_all()

    def accept(self) -> None:
        """One more event accepted and buffered."""
        with self._changed:
            self._counts["accepted"] += 1
            self._counts["buffered"] += 1

    def snapshot(self) -> Stats:
        """All counts at one moment."""
        with self._changed:
            return Stats(**self._counts)

    def wait_settled(self, timeout_seconds: float) -> bool:
        """Waits until all that was accepted before the call is delivered or failed.

        False when the time is over first. Events are settled in order, so the counts tell.
        """
        deadline = time.monotonic() + timeout_seconds
        with self._changed:
            goal = self._counts["accepted"] + self._counts["recovered"]
            while self._counts["delivered"] + self._counts["failed"] < goal:
                remaining = deadline - time.monotonic()
                if remaining <= 0:
                    return False
                self._changed.wait(remaining)
            return True
