"""ClickHouse's copy against one snapshot of PostgreSQL, and against itself."""

import asyncio
from collections.abc import AsyncIterator, Callable
from functools import partial
from typing import Any

from clickhouse_connect.driver.client import Client

from adapters.clickhouse import answers
from adapters.clickhouse_tables import ROLL_UPS
from adapters.postgres import Connection
from adapters.queries import load
from core.audit import Check, Day, Finding, Result, compare_day
from core.ranges import Stream

PG = load("verify")
CH = load("verify", "clickhouse")
EPOCH_FACTOR = 1_000_000  # as the statements compose a key of epoch and partition
# An insert reaches a table and its roll-up one after the other: a difference counts when it stays.
ROLL_UP_TRIES = 8
ROLL_UP_PAUSE_SECONDS = 0.5


Parameters = dict[str, Any]


class CopyAudit:
    """The checks of one audit. `connection` is in the audit's snapshot, of `generation`."""

    def __init__(self, connection: Connection, client: Client, generation: int) -> None:
        self._connection = connection
        self._client = client
        self._generation = generation

    async def charges(self) -> Result:
        """Per account and day, what the snapshot says is shipped: rows, sum, hash of all."""
        shipped = await self._connection.fetch(PG.shipped_charges, self._generation)
        keys = [row["epoch"] * EPOCH_FACTOR + row["partition"] for row in shipped]
        parameters = {
            "keys": keys or [-1],
            "ends": [row["next_offset"] for row in shipped] or [0],
        }
        ledger = self._connection.cursor(PG.charge_days, self._generation, prefetch=2_000)
        return await self._compare(Check.COPIED_CHARGES, ledger, CH.charge_days, parameters)

    async def credits(self) -> Result:
        """As `charges`, of credit transactions."""
        days = PG.credit_days, CH.credit_days
        return await self._compare_keyset(Check.COPIED_CREDITS, Stream.CREDIT, *days)

    async def corrections(self) -> Result:
        """As `charges`, of corrections, on the days of their charges."""
        days = PG.correction_days, CH.correction_days
        return await self._compare_keyset(Check.COPIED_CORRECTIONS, Stream.CORRECTION, *days)

    async def _compare_keyset(self, check: Check, stream: Stream, ours: str, theirs: str) -> Result:
        shipped = await self._connection.fetchrow(PG.shipped_keyset, stream, self._generation)
        tx_to, id_to = ("0", 0) if shipped is None else shipped
        ledger = self._connection.cursor(ours, tx_to, id_to, prefetch=2_000)
        return await self._compare(check, ledger, theirs, {"tx_to": int(tx_to), "id_to": id_to})

    async def _compare(
        self, check: Check, ledger: Any, statement: str, parameters: Parameters
    ) -> Result:
        """Walks both sides in step; neither is held in memory."""
        result = Result(check, 0, "accounts x days")
        copied = self._days(statement, parameters)
        theirs = await anext(copied, None)
        async for row in ledger:
            ours = _day(row)
            while theirs is not None and theirs.place < ours.place:
                result.add(compare_day(check, None, theirs))
                theirs = await anext(copied, None)
            if theirs is not None and theirs.place == ours.place:
                result.add(compare_day(check, ours, theirs))
                theirs = await anext(copied, None)
            else:
                result.add(compare_day(check, ours, None))
            result.compared += 1
        while theirs is not None:
            result.add(compare_day(check, None, theirs))
            theirs = await anext(copied, None)
        return result

    async def _days(self, statement: str, parameters: Parameters) -> AsyncIterator[Day]:
        stream = await asyncio.to_thread(self._open_stream, statement, parameters)
        with stream as blocks:

            def more() -> Any:
                with answers():
                    return next(blocks, None)

            while (block := await asyncio.to_thread(more)) is not None:
                for row in block:
                    yield _day(row)

    def _open_stream(self, statement: str, parameters: Parameters) -> Any:
        with answers():
            return self._client.query_row_block_stream(statement, parameters=parameters)

    async def _rows(self, statement: str) -> list[tuple[Any, ...]]:
        def ask() -> list[tuple[Any, ...]]:
            with answers():
                return [tuple(row) for row in self._client.query(statement).result_rows]

        return await asyncio.to_thread(ask)

    async def duplicates(self) -> Result:
        """Rows that are there twice, even where FINAL would hide them; exact while rows arrive."""
        result = Result(Check.DUPLICATES, len(Stream), "tables")
        [(surplus,)] = await self._rows(CH.raw_against_final)
        if surplus == 0:
            return result
        for statement in (CH.charge_duplicates, CH.credit_duplicates, CH.correction_duplicates):
            for account_id, day, raw, distinct in await self._rows(statement):
                subject = f"{account_id} on {day}"
                expected, found = f"{distinct} rows", f"{raw} rows"
                result.add([Finding(result.check, subject, expected, found)])
        return result

    async def roll_ups(self) -> Result:
        """Sums by day against the rows they are made of."""
        result = Result(Check.ROLL_UPS, len(ROLL_UPS), "roll-ups")
        name = partial(_charge_roll_up, "charge_by_day")
        result.add(await self._lasting(CH.charge_roll_up, name))
        result.add(await self._lasting(CH.credit_roll_up, _credit_roll_up))
        name = partial(_charge_roll_up, "charge_correction_by_day")
        return result.add(await self._lasting(CH.correction_roll_up, name))

    async def _lasting(
        self, statement: str, name: Callable[[tuple[Any, ...]], Finding]
    ) -> list[Finding]:
        off = await self._rows(statement)
        for _ in range(ROLL_UP_TRIES):
            if not off:
                return []
            await asyncio.sleep(ROLL_UP_PAUSE_SECONDS)
            again = set(await self._rows(statement))
            off = [row for row in off if row in again]
        return [name(row) for row in off]

    async def beyond(self, now: Connection, topic: str) -> Result:
        """Rows that ClickHouse has and the ledger does not, not even by now."""
        newest = await self._rows(CH.charge_ends)
        [highest] = await self._rows(CH.newest)
        ends = {(row[0], row[1]): row[2] for row in await now.fetch(PG.ends, topic)}
        result = Result(Check.BEYOND, len(newest), "partitions")
        for epoch, partition, offset in newest:
            end = ends.get((epoch, partition), 0)
            if offset >= end:
                subject = f"partition {partition} epoch {epoch}"
                expected, found = f"offsets below {end}", f"offset {offset}"
                result.add([Finding(result.check, subject, expected, found)])
        last = await now.fetchrow(PG.newest)
        subjects = "credit transactions", "corrections"
        for subject, number, end in zip(subjects, highest, last, strict=True):
            if number > end:
                expected, found = f"up to number {end}", f"number {number}"
                result.add([Finding(result.check, subject, expected, found)])
        return result


def _day(row: Any) -> Day:
    account_id, day, rows, sum_micro, content = row
    return Day(account_id, day, rows, int(sum_micro), content)


def _charge_roll_up(table: str, row: tuple[Any, ...]) -> Finding:
    day, account_id, provider, model, action, demo, events, amount, rated, meters = row
    kind = " ".join(part for part in (provider, model, action, "demo" if demo else "") if part)
    found = f"less {events} events, {amount} charged, {rated} rated micro-credits, {meters} meters"
    subject = f"{table}: {account_id} on {day}, {kind}"
    return Finding(Check.ROLL_UPS, subject, "the sums of the rows", found)


def _credit_roll_up(row: tuple[Any, ...]) -> Finding:
    day, account_id, kind, status, transactions, amount = row
    found = f"less {transactions} transactions, {amount} micro-credits"
    subject = f"credit_by_day: {account_id} on {day}, {kind} {status}"
    return Finding(Check.ROLL_UPS, subject, "the sums of the rows", found)
