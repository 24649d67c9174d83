"""Work with PostgreSQL that nobody waits for longer than was said."""

import asyncio
from collections.abc import Coroutine
from typing import Any, TypeVar

from adapters.postgres import TRANSIENT

Result = TypeVar("Result")


class Unavailable(Exception):  # noqa: N818 - an answer: it could not be established
    """PostgreSQL did not answer in time. Whether a change was made is not known: ask again with the
    same idempotency key.
    """


def unavailable(error: Exception) -> Unavailable:
    """What a caller is told of trouble: that the answer is not known, and the reason."""
    return Unavailable(f"{type(error).__name__}: {error}"[:300])


class Patience:
    """Runs work for at most `seconds_max`. Safe to share by any number of requests of one loop."""

    def __init__(self, seconds_max: float) -> None:
        self._seconds_max = seconds_max
        self._at_work: set[asyncio.Task[Any]] = set()

    async def within(
        self, work: Coroutine[None, None, Result], spent_seconds: float = 0.0
    ) -> Result:
        """What the work returns or raises; Unavailable when it takes longer, or trouble stops it.

        `spent_seconds` of the time are gone already.

        The work has a task of its own, because giving a connection up waits for the server too,
        and a server that is frozen would keep the caller waiting for seconds.
        """
        task = asyncio.create_task(work)
        self._at_work.add(task)
        task.add_done_callback(self._ended)
        done, _ = await asyncio.wait({task}, timeout=max(0.0, self._seconds_max - spent_seconds))
        if not done:
            task.cancel()
            raise Unavailable(f"no answer from PostgreSQL within {self._seconds_max} s")
        try:
            return task.result()
        except TRANSIENT as error:
            raise unavailable(error) from error

    def _ended(self, task: "asyncio.Task[Any]") -> None:
        """Nobody may ask any more for what it raised; whoever does has it from the task."""
        self._at_work.discard(task)
        if not task.cancelled():
            task.exception()
