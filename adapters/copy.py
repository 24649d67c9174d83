"""ClickHouse's copy of the ledger, as the warehouse sees it: one range in, or a reason why not."""

import asyncio
from collections.abc import Awaitable, Callable
from functools import partial
from typing import TypeVar

from clickhouse_connect.driver.client import Client

from adapters.clickhouse import Refused, connect, insert_csv
from adapters.clickhouse_tables import (
    NOTHING_COPIED,
    TABLE_OF,
    accept_generation,
    generation_of,
    generations_of,
    read_tables,
    weak_tables,
)
from adapters.failures import Halt, HaltReason
from adapters.faultpoints import reached
from adapters.ranges import Range, Ranges
from adapters.settings import Settings
from core.ranges import Stream, token

REQUEST_UNDER_WAY_SECONDS = 0.005
INSERT_SECONDS_MAX = 45  # shorter than the watchdog's patience: a mute ClickHouse is no stall
Result = TypeVar("Result")


class WrongGeneration(Exception):  # noqa: N818 - a state that a rebuild passes through
    """ClickHouse holds another making of the copy than PostgreSQL wants; a rebuild is at work."""


class Copy:
    """Ships ranges into ClickHouse. One request at a time; connects when it is first needed."""

    def __init__(self, settings: Settings, ranges: Ranges) -> None:
        self._settings = settings
        self._ranges = ranges
        self._client: Client | None = None

    async def agree(self) -> int:
        """The generation that PostgreSQL wants and ClickHouse takes.

        A fresh copy is opened for it, and so is a single table that a migration added.

        Raises WrongGeneration while a rebuild is at work, Halt when the tables are missing, of
        another generation, emptied behind our back, or could keep a repeated insert, and
        Unreachable.
        """
        wanted = await self._ranges.generation()
        try:
            tables = await asyncio.to_thread(self._with_client, read_tables)
        except Refused as refusal:
            raise Halt(HaltReason.REFUSED, f"ClickHouse does not let us in: {refusal}") from refusal
        held = generation_of(tables)
        if held == wanted:
            if weak := weak_tables(tables):
                raise Halt(
                    HaltReason.DEDUPLICATION_WINDOW,
                    f"{', '.join(weak)} would keep a repeated insert: set "
                    "non_replicated_deduplication_window = 10000 on it",
                )
            return wanted
        # The order matters: a rebuild that ended in between has raised the generation before.
        if await self._ranges.rebuild_runs() or await self._ranges.generation() != wanted:
            raise WrongGeneration(f"ClickHouse holds generation {held}, wanted is {wanted}")
        if held is None:
            raise Halt(
                HaltReason.NOT_MIGRATED,
                "ClickHouse has no tables to copy to: run `tollgate migrate`",
            )
        generations = generations_of(tables)
        fresh = {stream for stream, taken in generations.items() if taken == NOTHING_COPIED}
        others = {generations[stream] for stream in generations.keys() - fresh}
        if others <= {wanted} and not fresh & await self._ranges.shipped_streams(wanted):
            accept = partial(accept_generation, generation=wanted)
            await asyncio.to_thread(self._with_client, accept)
            return wanted
        raise Halt(
            HaltReason.GENERATION,
            f"ClickHouse's copy is of generation {held}, PostgreSQL shipped generation {wanted}: "
            "the copy was replaced, or a rebuild was interrupted; run `tollgate rebuild`",
        )

    async def ship_next(self, stream: Stream) -> Range | None:
        """Ships the stream's open range, or opens the next; None when nothing waits.

        After any crash or exception a repetition sends the same bytes under the same tokens.
        Raises WrongGeneration when a rebuild came in between, Halt when ClickHouse refuses the
        rows, and what PostgreSQL and ClickHouse raise when they are away.
        """
        reached("before_intent")
        opened = await self._ranges.open(stream)
        if opened is None:
            return None
        reached("after_intent")
        try:
            await self._insert(opened)
        except Refused as refusal:
            if await self.agree() != opened.generation:
                raise WrongGeneration("a rebuild threw this range away") from refusal
            raise Halt(
                HaltReason.REFUSED,
                f"ClickHouse refused range {opened.range_id} of {stream}: {refusal}",
            ) from refusal
        reached("before_mark")
        await self._ranges.mark(opened)
        reached("after_mark")
        return opened

    async def _insert(self, opened: Range) -> None:
        for month in await self._ranges.months(opened):
            rows = await self._ranges.rows(opened, month)
            name = token(opened.stream, opened.generation, opened.range_id, month)
            insert = partial(
                insert_csv,
                table=TABLE_OF[opened.stream],
                columns=rows.columns,
                data=rows.csv,
                token=name,
            )
            await self._during(asyncio.to_thread(self._with_client, insert))
            reached("after_insert")

    async def _during(self, insert: Awaitable[None]) -> None:
        """Awaits the insert; a test may end the process while the request is on its way."""
        under_way = asyncio.ensure_future(insert)
        await asyncio.wait({under_way}, timeout=REQUEST_UNDER_WAY_SECONDS)
        reached("during_insert")
        await under_way

    def _with_client(self, work: Callable[[Client], Result]) -> Result:
        """Runs the work with a client; one that failed is not used again."""
        client, self._client = self._client, None
        if client is None:
            client = connect(self._settings, answer_seconds_max=INSERT_SECONDS_MAX)
        try:
            answer = work(client)
        except BaseException:
            client.close()
            raise
        self._client = client
        return answer
