"""Ranges of the ledger in PostgreSQL: opening one, reading its rows as CSV, marking it done.

A range is an intent that was committed before the copy: it is fixed, so that a repetition after any
crash sends the same rows under the same token. A stream has one open range at most.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Final

import asyncpg

from adapters.failures import Halt, HaltReason
from adapters.postgres import Connection, Pool
from adapters.queries import load
from core.ranges import Extent, Month, Stream, next_slice

SQL = load("ranges")
NO_PARTITION = -1
NO_EPOCH = 1
ACQUIRE_SECONDS_MAX = 10
# A warehouse holds a month of a range twice while it sends it.
BYTES_MAX: Final = 64 * 1024 * 1024


@dataclass(frozen=True, slots=True)
class Statements:
    """How a stream's ranges are read. `page` finds the next one of a stream without offsets.

    `weight`: what a row costs to read, in charges. A range stays far below the statement timeout.
    `text`: how many bytes of callers' text it holds, which no number of rows says.
    """

    months: str
    rows: str
    text: str
    page: str | None = None
    weight: int = 1


STATEMENTS: Final[Mapping[Stream, Statements]] = {
    Stream.CHARGE: Statements(SQL.charge_months, SQL.charge_rows, SQL.charge_text),
    Stream.CREDIT: Statements(SQL.credit_months, SQL.credit_rows, SQL.credit_text, SQL.credit_page),
    Stream.CORRECTION: Statements(
        SQL.correction_months,
        SQL.correction_rows,
        SQL.correction_text,
        SQL.correction_page,
        weight=4,
    ),
}


@dataclass(frozen=True, slots=True)
class Range:
    """An open range. Charges: offsets by partition. Others: from (tx, id) after to (tx, id) to."""

    range_id: int
    stream: Stream
    generation: int
    epoch: int
    partitions: Sequence[int]
    from_offsets: Sequence[int]
    to_offsets: Sequence[int]
    tx_after: str
    id_after: int
    tx_to: str
    id_to: int
    row_count: int
    sum_micro: int

    @property
    def bounds(self) -> tuple[object, ...]:
        """The parameters by which the stream's statements find exactly this range."""
        if self.stream is Stream.CHARGE:
            return self.epoch, self.partitions, self.from_offsets, self.to_offsets
        return self.tx_after, self.id_after, self.tx_to, self.id_to


@dataclass(frozen=True, slots=True)
class Rows:
    """The rows of one month of a range, as ClickHouse gets them."""

    columns: list[str]
    csv: bytes


class Ranges:
    """The ranges of every stream; `topic` is the real name of the usage topic.

    A range has at most `rows_max` rows and, unless it is one row, `bytes_max` of callers' text.
    """

    def __init__(
        self, pool: Pool, *, topic: str, rows_max: int, bytes_max: int = BYTES_MAX
    ) -> None:
        self._pool = pool
        self._topic = topic
        self._rows_max = rows_max
        self._bytes_max = bytes_max

    async def generation(self) -> int:
        """The making of the copy that is wanted now; 1 in a new deployment."""
        async with self._pool.acquire(timeout=ACQUIRE_SECONDS_MAX) as connection:
            await connection.execute(SQL.ensure_generation)
            generation: int = await connection.fetchval(SQL.read_generation)
        return generation

    async def shipped_streams(self, generation: int) -> set[Stream]:
        """The streams of which a range of this generation was ever done."""
        async with self._pool.acquire(timeout=ACQUIRE_SECONDS_MAX) as connection:
            rows = await connection.fetch(SQL.shipped_streams, generation)
        return {Stream(row["stream"]) for row in rows}

    async def rebuild_runs(self) -> bool:
        """Whether a rebuild is at work right now."""
        async with self._pool.acquire(timeout=ACQUIRE_SECONDS_MAX) as connection:
            runs: bool = await connection.fetchval(SQL.rebuild_runs)
        return runs

    async def waiting(self) -> list[Extent]:
        """The charges that are committed and not shipped, as extents of offsets."""
        async with self._pool.acquire(timeout=ACQUIRE_SECONDS_MAX) as connection:
            generation = await connection.fetchval(SQL.read_generation)
            return await self._extents(connection, generation)

    async def oldest_waiting(self, waiting: Sequence[Extent]) -> datetime | None:
        """When the oldest of these charges was posted; None when there is none."""
        if not waiting:
            return None
        epoch = waiting[0].epoch
        parts = [extent for extent in waiting if extent.epoch == epoch]
        async with self._pool.acquire(timeout=ACQUIRE_SECONDS_MAX) as connection:
            oldest: datetime | None = await connection.fetchval(
                SQL.oldest_waiting,
                epoch,
                [extent.partition for extent in parts],
                [extent.next_offset for extent in parts],
            )
        return oldest

    async def _extents(self, connection: Connection, generation: int) -> list[Extent]:
        rows = await connection.fetch(SQL.charge_extents, self._topic, generation)
        return [Extent(*row) for row in rows]

    async def open(self, stream: Stream) -> Range | None:
        """The stream's open range; if there is none, the next one, committed. None: nothing waits.

        Idempotent: two callers get the same range. The commit waits for its flush.
        """
        async with self._pool.acquire(timeout=ACQUIRE_SECONDS_MAX) as connection:
            if not await self._work_waits(connection, stream):
                return None
            async with connection.transaction(isolation="read_committed"):
                await connection.execute(SQL.durable_commit)
                generation = await connection.fetchval(SQL.lock_generation)
                row = await connection.fetchrow(SQL.open_range, stream)
                if row is None:
                    bounds = await self._next_fitting(connection, stream, generation)
                    if bounds is None:
                        return None
                    await _insert(connection, stream, generation, bounds)
                    row = await connection.fetchrow(SQL.open_range, stream)
        return None if row is None else _range(stream, row)

    async def _work_waits(self, connection: Connection, stream: Stream) -> bool:
        """A look without a lock, so that an idle warehouse disturbs nobody."""
        if await connection.fetchrow(SQL.open_range, stream) is not None:
            return True
        generation = await connection.fetchval(SQL.read_generation)
        bounds = await self._next_bounds(connection, stream, generation, self._rows_max)
        return bounds is not None

    async def _next_fitting(
        self, connection: Connection, stream: Stream, generation: int
    ) -> Range | None:
        """As `_next_bounds`, of fewer rows where the text in them would be too much."""
        rows_max = self._rows_max
        while True:
            bounds = await self._next_bounds(connection, stream, generation, rows_max)
            if bounds is None or rows_max == 1:
                return bounds
            text_bytes = await connection.fetchval(STATEMENTS[stream].text, *bounds.bounds)
            if text_bytes <= self._bytes_max:
                return bounds
            rows_max = max(1, min(rows_max // 2, rows_max * self._bytes_max // text_bytes))

    async def _next_bounds(
        self, connection: Connection, stream: Stream, generation: int, rows_max: int
    ) -> Range | None:
        """The next range, its number and figures not yet known; None: nothing waits."""
        if STATEMENTS[stream].page is not None:
            return await self._next_page(connection, stream, generation, rows_max)
        slices = next_slice(await self._extents(connection, generation), rows_max)
        if not slices:
            return None
        return Range(
            range_id=0,
            stream=stream,
            generation=generation,
            epoch=slices[0].epoch,
            partitions=[extent.partition for extent in slices],
            from_offsets=[extent.next_offset for extent in slices],
            to_offsets=[extent.end_offset for extent in slices],
            tx_after="0",
            id_after=0,
            tx_to="0",
            id_to=0,
            row_count=0,
            sum_micro=0,
        )

    async def _next_page(
        self, connection: Connection, stream: Stream, generation: int, rows_max: int
    ) -> Range | None:
        """The next rows in the order (tx, id), of transactions that nothing can precede."""
        shipped = await connection.fetchrow(SQL.keyset_position, stream, generation)
        tx_after, id_after = ("0", 0) if shipped is None else shipped
        how = STATEMENTS[stream]
        rows = max(1, rows_max // how.weight)
        page = await connection.fetchrow(how.page, tx_after, id_after, rows)
        if page is None:
            if await connection.fetchval(SQL.transactions_went_back):
                raise Halt(
                    HaltReason.TRANSACTIONS_WENT_BACK,
                    "ledger rows carry transaction numbers that this PostgreSQL has yet to reach: "
                    "it was restored from a dump; see docs/operations.md",
                )
            return None
        return Range(
            range_id=0,
            stream=stream,
            generation=generation,
            epoch=NO_EPOCH,
            partitions=[NO_PARTITION],
            from_offsets=[0],
            to_offsets=[0],
            tx_after=tx_after,
            id_after=id_after,
            tx_to=page["tx_to"],
            id_to=page["id_to"],
            row_count=0,
            sum_micro=0,
        )

    async def months(self, opened: Range) -> list[Month]:
        """What the range holds by month, compared with its intent.

        Raises Halt when the ledger no longer holds what the intent says: PostgreSQL lost or changed
        committed rows.
        """
        async with self._pool.acquire(timeout=ACQUIRE_SECONDS_MAX) as connection:
            months = await _months(connection, opened)
        if _figures(months) != (opened.row_count, opened.sum_micro):
            raise Halt(
                HaltReason.LEDGER_CHANGED,
                f"range {opened.range_id} was opened with {opened.row_count} rows and now has "
                f"{sum(month.rows for month in months)}: see docs/operations.md",
            )
        return months

    async def rows(self, opened: Range, month: Month) -> Rows:
        """The rows of one month as CSV, made by PostgreSQL, in the order of their positions."""
        statement = STATEMENTS[opened.stream].rows
        parts: list[bytes] = []

        async def keep(data: bytes) -> None:
            parts.append(data)

        async with (
            self._pool.acquire(timeout=ACQUIRE_SECONDS_MAX) as connection,
            connection.transaction(readonly=True),
        ):
            await connection.execute(SQL.sort_in_memory)
            prepared = await connection.prepare(statement)
            columns = [attribute.name for attribute in prepared.get_attributes()]
            await connection.copy_from_query(
                statement,
                *opened.bounds,
                opened.generation,
                month.start,
                output=keep,
                format="csv",
                null="\\N",
            )
        return Rows(columns, b"".join(parts))

    async def mark(self, opened: Range) -> bool:
        """Marks the range done and moves the positions, in one transaction.

        False when it was marked by somebody else, or given up by a rebuild: nothing changed.
        """
        async with (
            self._pool.acquire(timeout=ACQUIRE_SECONDS_MAX) as connection,
            connection.transaction(isolation="read_committed"),
        ):
            await connection.fetchval(SQL.lock_generation)
            return bool(await connection.fetch(SQL.close_range, opened.range_id))


async def _insert(connection: Connection, stream: Stream, generation: int, bounds: Range) -> None:
    await connection.execute(SQL.sort_in_memory)
    rows, sum_micro = _figures(await _months(connection, bounds))
    await connection.execute(
        SQL.insert_range,
        stream,
        generation,
        bounds.epoch,
        bounds.partitions,
        bounds.from_offsets,
        bounds.to_offsets,
        bounds.tx_after,
        bounds.id_after,
        bounds.tx_to,
        bounds.id_to,
        rows,
        sum_micro,
    )


async def _months(connection: Connection, bounds: Range) -> list[Month]:
    rows = await connection.fetch(STATEMENTS[bounds.stream].months, *bounds.bounds)
    return [Month(*row) for row in rows]


def _figures(months: Sequence[Month]) -> tuple[int, int]:
    """Rows and sum of a range. The sum is folded into 63 bits: compared, never read as money."""
    return (
        sum(month.rows for month in months),
        sum(month.sum_micro for month in months) % (2**63 - 1),
    )


def _range(stream: Stream, row: asyncpg.Record) -> Range:
    return Range(stream=stream, **dict(row))
