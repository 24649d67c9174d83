"""Streams that run side by side: nothing lost, nothing left running."""

import asyncio
from collections.abc import AsyncIterator
from contextlib import aclosing

import pytest

from consumers.side_by_side import merged


async def counting(first: int, end: int, closed: list[int]) -> AsyncIterator[int]:
    try:
        for n in range(first, end):
            await asyncio.sleep(0)
            yield n
    finally:
        closed.append(first)


async def failing(after: int) -> AsyncIterator[int]:
    for n in range(after):
        await asyncio.sleep(0)
        yield n
    raise ValueError("the third")


@pytest.mark.parametrize("streams", [0, 1, 2, 5])
async def test_every_step_of_every_stream(streams: int) -> None:
    closed: list[int] = []
    parts = [counting(100 * n, 100 * n + 10 * n, closed) for n in range(streams)]
    wanted = sorted(step for n in range(streams) for step in range(100 * n, 100 * n + 10 * n))
    assert sorted([step async for step in merged(parts)]) == wanted
    assert sorted(closed) == [100 * n for n in range(streams)]


async def test_the_first_that_raises_ends_all() -> None:
    closed: list[int] = []
    with pytest.raises(ValueError, match="the third"):
        async for _ in merged([counting(0, 10**9, closed), failing(3)]):
            pass
    assert len(asyncio.all_tasks()) == 1


async def test_who_stops_in_the_middle_leaves_nothing_running() -> None:
    async with aclosing(merged([counting(0, 10**9, []), counting(10**9, 10**10, [])])) as steps:
        async for step in steps:
            if step == 50:
                break
    assert len(asyncio.all_tasks()) == 1
