"""Waiting for other processes: nothing tells a test when they are done, so it looks."""

import asyncio
import time
from collections.abc import Awaitable, Callable

POLL_SECONDS = 0.05


async def eventually(
    check: Callable[[], Awaitable[bool] | bool], seconds_max: float, what: str
) -> None:
    """Returns once the check is true; raises TimeoutError that says `what` did not happen.

    A check is never cut off: it may have connections open. Each ends by its own time limits. It is
    asked once more when the time is over, since this process may have been stopped meanwhile.
    """
    deadline = time.monotonic() + seconds_max
    late = False
    while not await _answer(check):
        if late:
            raise TimeoutError(f"not within {seconds_max} s: {what}")
        late = time.monotonic() > deadline
        await asyncio.sleep(POLL_SECONDS)


async def _answer(check: Callable[[], Awaitable[bool] | bool]) -> bool:
    answer = check()
    return answer if isinstance(answer, bool) else await answer
