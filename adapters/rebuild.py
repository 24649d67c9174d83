"""ClickHouse's copy made anew from the ledger, while everything else goes on."""

import asyncio
from collections.abc import Callable, Mapping
from dataclasses import dataclass

import asyncpg

from adapters import clickhouse
from adapters.clickhouse import Refused, Unreachable
from adapters.clickhouse_tables import generation_of, make_anew, read_tables
from adapters.copy import Copy, WrongGeneration
from adapters.failures import Failure
from adapters.postgres import TRANSIENT, Connection, connect, open_pool
from adapters.ranges import SQL, Ranges
from adapters.settings import Settings
from core.ranges import Extent, Stream
from schemas.topics import USAGE_EVENTS

OnProgress = Callable[[int, int], None]
POOL_SIZE = 2
TROUBLE: tuple[type[Exception], ...] = (Refused, Unreachable, WrongGeneration, *TRANSIENT)


@dataclass(frozen=True, slots=True)
class Rebuilt:
    """A finished rebuild; `resumed`: an earlier one that was interrupted was carried on."""

    generation: int
    resumed: bool
    charges: int


async def rebuild(
    settings: Settings, on_progress: OnProgress = lambda _done, _all: None
) -> Rebuilt:
    """Empties ClickHouse and copies the ledger from zero, by the code that the warehouse runs.

    Ends when everything is copied that was committed when the copying began; a running warehouse
    helps and carries on. Interrupted, it is repeated: copying goes on where it was. Raises Failure
    when another rebuild is at work, or a store goes away.
    """
    try:
        lock = await connect(settings, application_name="rebuild", unlimited=True)
    except (OSError, TimeoutError, asyncpg.PostgresError) as error:
        raise Failure(f"PostgreSQL does not answer: {error}") from error
    try:
        return await _locked(settings, lock, on_progress)
    except asyncpg.exceptions.LockNotAvailableError as error:
        raise Failure("another rebuild is at work: wait for it") from error
    except TROUBLE as error:
        raise Failure(f"interrupted: {error}; run `tollgate rebuild` again to go on") from error
    finally:
        await lock.close()


async def _locked(settings: Settings, lock: Connection, on_progress: OnProgress) -> Rebuilt:
    await lock.execute(SQL.lock_rebuild)
    generation, resumed = await _start(settings, lock)
    topic = settings.topic_prefix + USAGE_EVENTS.name
    async with open_pool(settings, application_name="rebuild", size=POOL_SIZE) as pool:
        ranges = Ranges(pool, topic=topic, rows_max=settings.ship_rows_max)
        charges = await _copy_all(ranges, Copy(settings, ranges), on_progress)
    await lock.execute(SQL.finish_rebuild)
    return Rebuilt(generation, resumed, charges)


async def _start(settings: Settings, lock: Connection) -> tuple[int, bool]:
    """A new generation with empty tables; or the interrupted one, if its tables were ready."""
    client = await asyncio.to_thread(clickhouse.connect, settings)
    try:
        held = generation_of(await asyncio.to_thread(read_tables, client))
        unfinished = await lock.fetchval(SQL.unfinished_rebuild)
        if unfinished is not None and unfinished == held:
            return unfinished, True
        async with lock.transaction():
            await lock.execute(SQL.ensure_generation)
            generation = 1 + int(await lock.fetchval(SQL.lock_generation))
            await lock.execute(SQL.raise_generation, generation)
        await asyncio.to_thread(make_anew, client, generation)
        return generation, False
    finally:
        client.close()


async def _copy_all(ranges: Ranges, copy: Copy, on_progress: OnProgress) -> int:
    ends = {(e.epoch, e.partition): e.end_offset for e in await ranges.waiting()}
    total = left = _left(await ranges.waiting(), ends)
    await copy.agree()
    while left > 0:
        on_progress(total - left, total)
        await copy.ship_next(Stream.CHARGE)
        left = _left(await ranges.waiting(), ends)
    for stream in (Stream.CREDIT, Stream.CORRECTION):
        while await copy.ship_next(stream) is not None:
            on_progress(total, total)
    return total


def _left(waiting: list[Extent], ends: Mapping[tuple[int, int], int]) -> int:
    """How many offsets of those that were committed at the start are still to be copied."""
    counted = (ends.get((e.epoch, e.partition), 0) - e.next_offset for e in waiting)
    return sum(max(0, offsets) for offsets in counted)
