"""Waiting for other processes: nothing tells a test when they are done, so it looks."""

import asyncio
from collections.abc import Awaitable, Callable

POLL_SECONDS = 0.05


async def eventually(
    check: Callable[[], Awaitable[bool] | bool], seconds_max: float, what: str = ""
) -> None:
    """Returns once the check is true; raises TimeoutError that says `what` did not happen."""
    try:
        async with asyncio.timeout(seconds_max):
            while not await _answer(check):
                await asyncio.sleep(POLL_SECONDS)
    except TimeoutError:
        raise TimeoutError(f"not within {seconds_max} s: {what}") from None


async def _answer(check: Callable[[], Awaitable[bool] | bool]) -> bool:
    answer = check()
    return answer if isinstance(answer, bool) else await answer
