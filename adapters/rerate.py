"""Re-rating runs: a stretch priced again, as a what-if or booked as corrections.

A what-if writes a line for each event into ClickHouse and moves no credits. An applied run posts
the differences as corrections, a chunk in one transaction with the run's position, so that it can
be killed anywhere: resumed, it books the rest, and nothing twice.
"""

import asyncio
import json
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from dataclasses import replace
from datetime import UTC, datetime
from typing import NamedTuple

import asyncpg
import stamina

from adapters import rerate_ledger, rerate_runs, rerate_topic
from adapters.corrections import post
from adapters.failures import Failure
from adapters.faultpoints import reached
from adapters.postgres import Connection
from adapters.price_store import load_history
from adapters.replay_log import open_log
from adapters.rerate_ledger import Chunk
from adapters.rerate_lines import Lines, open_client
from adapters.rerate_runs import SQL, NewRun, Run, RunKind, Source
from adapters.settings import Settings
from core.document import BookError
from core.prices import PriceHistory, parse_book
from core.rating import AccountFacts, rate, rate_with
from core.rerating import (
    CounterKey,
    Found,
    InsideMonthError,
    OpenMonthError,
    Rating,
    Stretch,
    clash_in_force,
    compare,
    counter_keys,
    in_their_units,
    price_all,
    refuse_open_months,
    resolve,
)
from schemas.events import VALUE_BYTES_MAX, UsageEvent

WHAT_IF_OFFSETS = 10_000
APPLY_OFFSETS = 4_000  # as a batch of the rater: its accounts are locked while it is booked
ATTEMPTS_MAX = 10
_EPOCH = datetime(2020, 1, 1, tzinfo=UTC)

OnProgress = Callable[[int], None]
Price = Callable[[UsageEvent, AccountFacts], Rating]


class Pricing(NamedTuple):
    """How a run prices an event, and the versions by which events were charged."""

    price: Price
    charged: PriceHistory


class _Stale(Exception):  # noqa: N818 - a state of the world, not an error
    """A charge was corrected by somebody else between our look and our lock."""


# What passes by itself: a batch of the rater holds the accounts, or a charge changed under us.
_AGAIN = (
    _Stale,
    asyncpg.exceptions.LockNotAvailableError,
    asyncpg.exceptions.TransactionRollbackError,
)


async def start(connection: Connection, settings: Settings, new: NewRun) -> Run | None:
    """Notes a run over the stretch as it is now; None: no charge can be in it.

    Published versions count up to those that are there once the batches in flight are over.

    Raises Failure for an account that does not exist, when a chosen version's volume price must
    not be booked, and when another run that moves credits is not finished.
    """
    if new.account_ids is not None:
        missing = await connection.fetch(SQL.missing_accounts, list(new.account_ids))
        if missing:
            raise Failure(f"there is no account {missing[0]['wanted']}")
    if new.source is Source.LEDGER:
        extent = await rerate_ledger.find_extent(connection, settings, new.since, new.until)
        begin = rerate_ledger.begin
    else:
        async with open_log(settings, VALUE_BYTES_MAX) as consumer:
            extent = await rerate_topic.find_extent(
                connection, consumer, settings, new.since, new.until
            )
        begin = rerate_topic.begin
    if extent is None:
        return None
    if new.kind is RunKind.APPLY:
        await _refuse_clash(connection, new)
    # Not before the wait: a batch of the extent may be priced by a version that came during it.
    newest = int(await connection.fetchval(SQL.newest_version))
    new = replace(new, book=replace(new.book, newest_version=newest))
    return await rerate_runs.add(connection, new, extent, begin(extent))


async def _refuse_clash(connection: Connection, new: NewRun) -> None:
    if new.book.price_version is None:
        return
    history = await load_history(connection)
    chosen = history.numbered(new.book.price_version)
    if chosen and (found := clash_in_force(chosen, history, new.since, new.until)):
        raise Failure(
            f"{found}: a volume price would give back what nobody paid. Publish the prices with"
            " another `counter:`, and book that version"
        )


def steps_of(run: Run) -> int:
    """How many steps of progress the whole run is."""
    if run.source is Source.LEDGER:
        return rerate_ledger.steps_of(run.extent)
    return rerate_topic.steps_of(run.extent)


async def go_on(
    connection: Connection, settings: Settings, run: Run, on_progress: OnProgress
) -> Run:
    """Does what is left of a what-if or of an applied run and returns it finished.

    Idempotent: a finished run is left as it is. Raises Failure when a book cannot be read, when a
    count of the month cannot be known, or when another process is at work on the run.
    """
    if run.finished_at is not None:
        return run
    history = await load_history(connection)
    pricing = Pricing(_price(run, history), history)
    try:
        if run.kind is RunKind.APPLY:
            await _apply(connection, run, pricing, on_progress)
        else:
            await _what_if(connection, settings, run, pricing, on_progress)
    except (InsideMonthError, OpenMonthError) as error:
        raise await _refused(connection, run, str(error)) from None
    await rerate_runs.finish(connection, run.run_id)
    return await rerate_runs.read(connection, run.run_id)


async def _refused(connection: Connection, run: Run, why: str) -> Failure:
    """A run that booked nothing is over; one that booked some of it waits to be taken back."""
    if run.kind is not RunKind.APPLY:
        return Failure(why)
    if (await rerate_runs.read(connection, run.run_id)).chunks == 0:
        await rerate_runs.finish(connection, run.run_id)
        return Failure(f"{why}. Run {run.run_id} booked nothing")
    return Failure(
        f"{why}. Run {run.run_id} stopped there, and what it booked before stays until"
        f" `tollgate rerate revert {run.run_id}` takes it back"
    )


def _price(run: Run, history: PriceHistory) -> Price:
    book = run.book
    if book.document is not None:
        try:
            parsed = parse_book(json.loads(book.document), version=0, effective_from=_EPOCH)
        except BookError as error:
            raise Failure(f"the price book of run {run.run_id} is not valid: {error}") from None
        return lambda event, facts: rate_with(event, parsed, facts)
    if book.price_version is not None:
        version = history.numbered(book.price_version)
        if version is None:
            raise Failure(f"there is no price version {book.price_version}")
        return lambda event, facts: rate_with(event, version, facts)
    versions = (history.numbered(number) for number in range(1, book.newest_version + 1))
    published = PriceHistory([version for version in versions if version])
    return lambda event, facts: rate(event, published, facts)


async def _priced(
    connection: Connection, run: Run, chunk: Chunk, pricing: Pricing
) -> tuple[Found, dict[CounterKey, int]]:
    """What becomes of a chunk's events, and the counts of the run after them."""
    items = in_their_units(chunk.items, pricing.charged)
    ratings = price_all(items, pricing.price)
    counts = await rerate_runs.read_counts(
        connection, run.run_id, sorted(counter_keys(items, ratings))
    )
    resolved = resolve(items, ratings, counts, Stretch(run.since, run.until, run.started_at))
    if run.kind is RunKind.APPLY:
        refuse_open_months(items, resolved, run.started_at)
    return compare(items, resolved), counts


async def _what_if(
    connection: Connection, settings: Settings, run: Run, pricing: Pricing, on_progress: OnProgress
) -> None:
    """ClickHouse takes the lines of one chunk while PostgreSQL or Kafka hands out the next."""
    with open_client(settings) as client:
        lines = Lines(client, run.run_id, run.started_at)
        if run.chunks == 0:
            await asyncio.to_thread(lines.forget_namesakes)
        done = run.chunks
        async with _chunks(connection, settings, run) as reading:
            chunk = await anext(reading, None)
            while chunk is not None:
                found, counts = await _priced(connection, run, chunk, pricing)
                insert = asyncio.create_task(asyncio.to_thread(lines.insert, done, found.lines))
                try:
                    upcoming = await anext(reading, None)
                finally:
                    await asyncio.wait({insert})
                insert.result()
                reached("before_rerate_move")
                async with connection.transaction(isolation="read_committed"):
                    await rerate_runs.lock(connection, run.run_id, done)
                    await rerate_runs.write_counts(connection, run.run_id, counts)
                    await rerate_runs.move(connection, run.run_id, chunk.position, found.tally)
                done += 1
                on_progress(chunk.steps)
                chunk = upcoming
        noted = (await rerate_runs.read(connection, run.run_id)).tally.events
        if (there := await asyncio.to_thread(lines.count)) != noted:
            raise Failure(
                f"run {run.run_id} wrote {noted:,} lines and ClickHouse has {there:,}: its table"
                " was emptied or replaced meanwhile; begin a new run"
            )


@asynccontextmanager
async def _chunks(
    connection: Connection, settings: Settings, run: Run
) -> AsyncIterator[AsyncIterator[Chunk]]:
    if run.source is Source.LEDGER:
        yield _ledger_chunks(connection, run)
        return
    async with open_log(settings, VALUE_BYTES_MAX) as consumer:
        yield rerate_topic.chunks(connection, consumer, settings, run)


async def _ledger_chunks(connection: Connection, run: Run) -> AsyncIterator[Chunk]:
    position = run.position
    while chunk := await rerate_ledger.next_chunk(connection, run, position, WHAT_IF_OFFSETS):
        yield chunk
        position = chunk.position


async def _apply(
    connection: Connection, run: Run, pricing: Pricing, on_progress: OnProgress
) -> None:
    while chunk := await _book_next(connection, run, pricing):
        run = replace(run, position=chunk.position, chunks=run.chunks + 1)
        on_progress(chunk.steps)


async def _book_next(connection: Connection, run: Run, pricing: Pricing) -> Chunk | None:
    """Books the chunk at the run's position in one transaction; None: nothing is left.

    It is priced before its accounts are locked. A charge that somebody corrects in between makes
    its change stale: then nothing of the chunk is booked, and it is read and priced anew.
    """
    async for attempt in stamina.retry_context(on=_AGAIN, attempts=ATTEMPTS_MAX, timeout=None):
        with attempt:
            chunk = await rerate_ledger.next_chunk(connection, run, run.position, APPLY_OFFSETS)
            if chunk is None:
                return None
            found, counts = await _priced(connection, run, chunk, pricing)
            async with connection.transaction(isolation="read_committed"):
                await rerate_runs.lock(connection, run.run_id, run.chunks)
                posted = await post(
                    connection, found.changes, actor=run.actor, reason=run.reason, run_id=run.run_id
                )
                if posted.stale:
                    raise _Stale
                await rerate_runs.write_counts(connection, run.run_id, counts)
                await rerate_runs.move(connection, run.run_id, chunk.position, found.tally)
                reached("before_rerate_commit")
            reached("after_rerate_commit")
            return chunk
    raise AssertionError("the last attempt returns or raises")
