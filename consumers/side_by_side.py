"""Several streams of finished steps as one, in the order in which they come."""

import asyncio
from collections.abc import AsyncGenerator, AsyncIterator, Sequence
from dataclasses import dataclass
from typing import TypeVar

Step = TypeVar("Step")


@dataclass(frozen=True, slots=True)
class _Ended:
    error: Exception | None = None


async def merged(streams: Sequence[AsyncIterator[Step]]) -> AsyncGenerator[Step, None]:
    """Every step of every stream; the streams run at the same time, each at most a step ahead.

    The first one that raises ends all, and its exception is raised here. Closing the iterator
    cancels them and returns once they have ended.
    """
    # Each feeder waits until its step is taken: in a bounded queue one would starve the others.
    found: asyncio.Queue[tuple[Step | _Ended, asyncio.Event]] = asyncio.Queue()

    async def feed(stream: AsyncIterator[Step]) -> None:
        taken = asyncio.Event()
        try:
            async for step in stream:
                found.put_nowait((step, taken))
                await taken.wait()
                taken.clear()
        except Exception as error:  # noqa: BLE001 - raised again by whoever reads
            found.put_nowait((_Ended(error), taken))
        else:
            found.put_nowait((_Ended(), taken))

    feeding = [asyncio.create_task(feed(stream)) for stream in streams]
    left = len(feeding)
    try:
        while left:
            step, taken = await found.get()
            taken.set()
            if not isinstance(step, _Ended):
                yield step
            elif step.error is not None:
                raise step.error
            else:
                left -= 1
    finally:
        for task in feeding:
            task.cancel()
        await asyncio.gather(*feeding, return_exceptions=True)
