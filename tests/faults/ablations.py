"""Guards switched off, one each, in a worker process of a test. Never in the product.

Each function puts in place of one guard what a careless implementation would do there.
"""

import asyncio
import random
import time
import uuid
from collections.abc import Callable, Sequence
from itertools import groupby
from typing import Any

from aiokafka import ConsumerRecord, TopicPartition

import adapters.copy
import adapters.kafka
import adapters.postgres
import adapters.ranges
import consumers.progress
import consumers.rater
from adapters.kafka import LastRecords, Positions
from adapters.ledger import SQL, Account, BatchTransaction, Ledger
from adapters.ranges import Range, Ranges
from core.ranges import Stream
from core.rating import AccountFacts

ABLATIONS: dict[str, Callable[[], None]] = {}


def _guard(off: Callable[[], None]) -> Callable[[], None]:
    ABLATIONS[off.__name__] = off
    return off


def _replace(owner: Any, name: str, by: Any) -> None:
    assert hasattr(owner, name), f"{name} has moved: this ablation is void"
    setattr(owner, name, by)


@_guard
def fence() -> None:
    """Positions are neither locked nor compared."""

    async def lock_positions(
        transaction: BatchTransaction, spans: Sequence[Any], epoch: int
    ) -> list[Any]:
        transaction.epoch = epoch
        return list(spans)

    _replace(BatchTransaction, "lock_positions", lock_positions)


@_guard
def claim() -> None:
    """Nobody asks whether an event was charged before."""

    async def find_claims(_transaction: BatchTransaction, _entries: object) -> dict[int, int]:
        return {}

    _replace(BatchTransaction, "find_claims", find_claims)


@_guard
def copies() -> None:
    """Nobody looks for a COPY whose client has stopped."""

    async def end_overdue_copies(_ledger: Ledger, _seconds_max: float) -> int:
        return 0

    _replace(Ledger, "end_overdue_copies", end_overdue_copies)


@_guard
def seek() -> None:
    """The group's offsets in Kafka say where to begin."""

    async def resume(where: Positions, partitions: Sequence[TopicPartition]) -> None:
        stands = await where._read_positions({tp.partition: 0 for tp in partitions})
        for tp in partitions:
            where.next[tp] = stands[tp.partition].next_offset

    def admit(
        where: Positions, records: Sequence[ConsumerRecord]
    ) -> dict[TopicPartition, list[ConsumerRecord]]:
        runs = groupby(records, key=lambda record: TopicPartition(record.topic, record.partition))
        return {tp: list(run) for tp, run in runs}

    _replace(Positions, "resume", resume)
    _replace(Positions, "admit", admit)


@_guard
def digest() -> None:
    """The last applied record is not read again."""

    async def check(_last: LastRecords, _positions: object, _seconds_max: float = 0) -> None:
        return

    _replace(LastRecords, "check", check)


@_guard
def gap() -> None:
    """A log that begins later, and records that do not continue, are taken as they are.

    Only what is behind is left out: records fetched before the seek come a second time after it,
    and who took those again would fall over them, not over a gap.
    """

    def admit(
        where: Positions, records: Sequence[ConsumerRecord]
    ) -> dict[TopicPartition, list[ConsumerRecord]]:
        runs: dict[TopicPartition, list[ConsumerRecord]] = {}
        for record in records:
            tp = TopicPartition(record.topic, record.partition)
            if tp in where.next and record.offset >= where.next[tp]:
                runs.setdefault(tp, []).append(record)
        return runs

    _replace(adapters.kafka, "check_log", lambda *_: None)
    _replace(Positions, "admit", admit)


@_guard
def token() -> None:
    """Every insert has a name of its own, a repeated one too."""
    _replace(adapters.copy, "token", lambda *_: uuid.uuid4().hex)


@_guard
def window() -> None:
    """Nobody asks whether ClickHouse remembers the names of inserts."""
    _replace(adapters.copy, "weak_tables", lambda *_: [])


@_guard
def intent() -> None:
    """A range under way is forgotten, and a new one is cut: what waits now."""
    open_range = Ranges.open

    async def reopen(ranges: Ranges, stream: Stream) -> Range | None:
        async with ranges._pool.acquire() as connection:
            await connection.execute("DELETE FROM ship_range WHERE done_at IS NULL")
        return await open_range(ranges, stream)

    _replace(Ranges, "open", reopen)


@_guard
def lock_order() -> None:
    """Accounts are locked in any order."""

    async def lock(transaction: BatchTransaction, account_ids: list[str]) -> dict[str, Any]:
        found: dict[str, Any] = {}
        for account_id in random.sample(account_ids, len(account_ids)):
            rows = await transaction.connection.fetch(SQL.lock_accounts, [account_id])
            await asyncio.sleep(0.005)  # a quick machine needs time to come in between
            found |= {
                name: Account(AccountFacts(tier, demo), balance_micro)
                for name, tier, demo, balance_micro in rows
            }
        return found

    _replace(BatchTransaction, "_lock_accounts", lock)


@_guard
def account_lock() -> None:
    """Accounts are read and not locked."""
    text = SQL.lock_accounts.replace("FOR NO KEY UPDATE", "")
    assert text != SQL.lock_accounts

    async def lock(transaction: BatchTransaction, account_ids: list[str]) -> dict[str, Any]:
        rows = await transaction.connection.fetch(text, account_ids)
        return {
            name: Account(AccountFacts(tier, demo), balance_micro)
            for name, tier, demo, balance_micro in rows
        }

    read = BatchTransaction.read_counters

    async def read_counters(transaction: BatchTransaction, wanted: Any) -> dict[Any, int]:
        found = await read(transaction, wanted)
        await asyncio.sleep(0.02)  # a quick machine needs time to come in between
        return found

    _replace(BatchTransaction, "_lock_accounts", lock)
    _replace(BatchTransaction, "read_counters", read_counters)


@_guard
def counter() -> None:
    """A worker reads each counter once, outside of any lock, and counts on by itself."""
    known: dict[Any, int] = {}
    read, post = BatchTransaction.read_counters, BatchTransaction.post

    async def read_counters(transaction: BatchTransaction, wanted: Any) -> dict[Any, int]:
        unknown = [key for key in wanted if key not in known]
        known.update(dict.fromkeys(unknown, 0) | await read(transaction, unknown))
        return known

    async def post_and_remember(transaction: BatchTransaction, verdict: Any, number: int) -> None:
        await post(transaction, verdict, number)
        for key, units in verdict.counted.items():
            known[key] += units

    _replace(BatchTransaction, "read_counters", read_counters)
    _replace(BatchTransaction, "post", post_and_remember)


@_guard
def timeouts() -> None:
    """A session may sit in its transaction for ever."""
    limited = adapters.postgres.session_parameters

    def unlimited(*arguments: Any) -> dict[str, str]:
        return {**limited(*arguments), "idle_in_transaction_session_timeout": "0"}

    _replace(adapters.postgres, "session_parameters", unlimited)


@_guard
def watchdog() -> None:
    """Nobody looks whether the worker gets on."""
    _replace(consumers.progress, "_watch", lambda *_: None)


@_guard
def dead_letter_cap() -> None:
    """Any share of dead letters is fine."""
    _replace(consumers.rater.DeadLetterCap, "check", lambda *_: None)


@_guard
def stuck() -> None:
    """No guard, but the fault that the watchdog is for: a batch that never comes back."""

    async def lock_positions(_transaction: BatchTransaction, *_: object) -> Any:
        await asyncio.sleep(3_600)

    _replace(BatchTransaction, "lock_positions", lock_positions)


@_guard
def blocked() -> None:
    """No guard either: a batch that does not let the event loop turn."""

    async def lock_positions(_transaction: BatchTransaction, *_: object) -> Any:
        time.sleep(3_600)  # noqa: ASYNC251 - that is the fault

    _replace(BatchTransaction, "lock_positions", lock_positions)
