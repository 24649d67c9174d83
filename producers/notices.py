"""Notices: telling the app, in the background thread, what could not be delivered."""

import asyncio
import logging
import time
from collections import deque
from collections.abc import Callable
from typing import Final

from producers.stats import Undelivered

NOTICES_MAX: Final = 1_000
LOG_EVERY_SECONDS: Final = 60.0

log = logging.getLogger("tollgate.producers")


class Notices:
    """Passes notices from any thread to the callback, in the loop's thread.

    Neither the callback's time nor its errors reach the caller. When more than 1,000 wait, the
    oldest are left out: the counts of `Stats` stay exact. One log line a minute at most.
    """

    def __init__(
        self,
        loop: asyncio.AbstractEventLoop,
        on_undelivered: Callable[[Undelivered], None] | None,
    ) -> None:
        self._loop = loop
        self._on_undelivered = on_undelivered
        self._waiting: deque[Undelivered] = deque(maxlen=NOTICES_MAX)
        self._due = False
        self._log_after = 0.0
        self._unlogged = 0

    def tell(self, notice: Undelivered) -> None:
        """Hands a notice over; never blocks, never raises."""
        self._waiting.append(notice)
        if self._due:
            return
        self._due = True
        try:
            self._loop.call_soon_threadsafe(self.pass_on)
        except RuntimeError:  # the loop is closed: the counts alone tell
            self._due = False

    def pass_on(self) -> None:
        """Calls the callback for what waits; runs in the loop's thread."""
        self._due = False
        while self._waiting:
            notice = self._waiting.popleft()
            self._write_log(notice)
            if self._on_undelivered is None:
                continue
            try:
                self._on_undelivered(notice)
            except Exception:
                log.exception("the on_undelivered callback failed; tracking goes on")

    def _write_log(self, notice: Undelivered) -> None:
        self._unlogged += 1
        if time.monotonic() < self._log_after:
            return
        log.warning(
            "usage not delivered (%s): %s; %d since the last such line, exact counts in stats()",
            notice.cause.value,
            notice.detail,
            self._unlogged,
        )
        self._unlogged = 0
        self._log_after = time.monotonic() + LOG_EVERY_SECONDS
