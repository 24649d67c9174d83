"""The ledger in PostgreSQL: one batch of usage events, one transaction.

Every method of `BatchTransaction` is one round trip for the whole batch, in the order in which
sql/postgres/queries/ledger.sql lists the statements. Nothing here decides anything: core/batch.py
does, on what these methods read.
"""

import hashlib
from collections.abc import AsyncIterator, Iterable, Mapping, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass
from datetime import UTC, datetime

from adapters.bounded_records import Oversized
from adapters.faultpoints import reached
from adapters.postgres import Connection, Pool
from adapters.queries import load
from core.batch import (
    Charge,
    CounterKey,
    Dead,
    Entry,
    Verdict,
    charge_rows,
    settlements_micro,
    totals_micro,
)
from core.rating import AccountFacts
from schemas.events import Reason
from schemas.names import USER_EVENT_PREFIX

SQL = load("ledger")
PAYLOAD_BYTES_MAX = 64 * 1024
GIVEN_BACK, GIVEN_BACK_BY = "given_back", "rater"
"""Source and giver of the grant for a month's usage that became cheaper as a whole."""


@dataclass(frozen=True, slots=True)
class Position:
    """Where a partition stands: the next offset to apply, in which life of the topic."""

    epoch: int
    next_offset: int
    first_offset: int
    last_digest: int | None


@dataclass(frozen=True, slots=True)
class Span:
    """The offsets of one partition in a batch; `to_offset` is exclusive."""

    partition: int
    from_offset: int
    to_offset: int
    digest: int


@dataclass(frozen=True, slots=True)
class NewAccounts:
    """What an account that is met for the first time gets; None in its place: none is created."""

    tier: str
    demo: bool
    welcome_micro: int


@dataclass(frozen=True, slots=True)
class Account:
    """A locked account: what its price depends on, and its balance."""

    facts: AccountFacts
    balance_micro: int


@dataclass(frozen=True, slots=True)
class Outcome:
    """What a batch did with one partition."""

    span: Span
    charged: int
    duplicate: int
    dead: int


@dataclass(frozen=True, slots=True)
class Seen:
    """What became of an earlier record of an event: charged, or first appended as a dead letter."""

    charged: bool
    appended_at: datetime | None


class PositionMoved(Exception):  # noqa: N818 - an event in the life of a stream, not an error
    """PostgreSQL stands elsewhere than this worker believed: another one applied the records.

    The answer is to forget the batch and to read the position again; nothing was changed.
    """


class BatchTransaction:
    """The statements of one open transaction; see the module."""

    def __init__(self, connection: Connection, topic: str) -> None:
        self._connection = connection
        self._topic = topic
        self.epoch = 0
        self.price_version = 0
        self.accounts_created = 0
        self.moved = False

    @property
    def connection(self) -> Connection:
        """For reads that belong into this transaction."""
        return self._connection

    async def lock_positions(self, spans: Sequence[Span], epoch: int) -> list[Span]:
        """Fences: returns the spans that start exactly where PostgreSQL stands.

        A span that was applied already (the reply to an earlier COMMIT was lost) is left out.
        Raises PositionMoved for anything else, another epoch of the topic included.
        """
        partitions = [span.partition for span in spans]
        rows = await self._connection.fetch(SQL.lock_positions, self._topic, partitions)
        stands = {row["partition"]: row["next_offset"] for row in rows}
        epochs = {row["epoch"] for row in rows}
        if len(stands) != len(spans) or epochs != {epoch}:
            raise PositionMoved(f"{self._topic} is in epoch {sorted(epochs)}, not {epoch}")
        self.epoch = epoch
        todo = []
        for span in spans:
            next_offset = stands[span.partition]
            if next_offset == span.from_offset:
                todo.append(span)
            elif next_offset < span.to_offset:
                raise PositionMoved(
                    f"{self._topic}/{span.partition} stands at {next_offset}, "
                    f"the batch begins at {span.from_offset}"
                )
        return todo

    async def newest_price_version(self) -> int:
        """The newest published price version, so that no batch is priced with a stale book."""
        self.price_version = await self._connection.fetchval(SQL.newest_price_version)
        return self.price_version

    async def lock_accounts(
        self, account_ids: Iterable[str], new: NewAccounts | None
    ) -> dict[str, Account]:
        """Locks the accounts in order, creating unknown ones when `new` says how."""
        wanted = sorted(set(account_ids))
        accounts = await self._lock_accounts(wanted)
        missing = [account_id for account_id in wanted if account_id not in accounts]
        if missing and new is not None:
            self.accounts_created += await self._connection.fetchval(
                SQL.create_accounts, missing, new.tier, new.demo, new.welcome_micro
            )
            accounts |= await self._lock_accounts(missing)
        return accounts

    async def _lock_accounts(self, account_ids: list[str]) -> dict[str, Account]:
        rows = await self._connection.fetch(SQL.lock_accounts, account_ids)
        return {
            account_id: Account(AccountFacts(tier, demo), balance_micro)
            for account_id, tier, demo, balance_micro in rows
        }

    async def find_claims(self, entries: Sequence[Entry]) -> dict[int, int]:
        """By index into `entries`: the payload hash under which the event was charged before."""
        rows = await self._connection.fetch(
            SQL.find_claims,
            [entry.event.subject for entry in entries],
            [entry.event.id for entry in entries],
        )
        return {n: payload_hash for n, payload_hash in rows}  # noqa: C416 - Records, not tuples

    async def read_counters(self, wanted: Iterable[CounterKey]) -> dict[CounterKey, int]:
        """What these counters stand at; one that was never used is left out.

        True until the transaction ends, once the accounts are locked. Nothing wanted: no round
        trip.
        """
        keys = list(wanted)
        if not keys:
            return {}
        rows = await self._connection.fetch(SQL.read_counters, *_columns(keys))
        return {(account_id, counter, month): units for account_id, counter, month, units in rows}

    async def post(self, verdict: Verdict, batch_id: int) -> None:
        """Writes the charges and moves counters, holds, grants and balances by their totals.

        A claim that the account's lock did not prevent violates charge's primary key: the whole
        transaction fails with UniqueViolationError and a second run sees the claim.
        """
        charges = verdict.charges
        if not charges:
            return
        columns, rows = charge_rows(charges, self.epoch)
        await self._connection.copy_records_to_table("charge", columns=columns, records=rows)
        reached("after_claim")
        if verdict.counted:
            added = [(*key, units) for key, units in verdict.counted.items()]
            await self._connection.execute(SQL.add_to_counters, *_columns(added))
        await self._settle(charges)
        await self._move_balances(totals_micro(charges), batch_id)

    async def _settle(self, charges: Sequence[Charge]) -> None:
        settlements = settlements_micro(charges)
        if settlements:
            await self._connection.execute(
                SQL.settle_holds,
                [hold_id for hold_id, _ in settlements],
                [account_id for _, account_id in settlements],
                list(settlements.values()),
            )

    async def _move_balances(self, totals_micro: Mapping[str, int], batch_id: int) -> None:
        spent = {account_id: total for account_id, total in totals_micro.items() if total > 0}
        back = {account_id: -total for account_id, total in totals_micro.items() if total < 0}
        if spent:
            cause = f"batch:{batch_id}"
            await self._connection.execute(SQL.burn_down, list(spent), list(spent.values()), cause)
        if back:
            await self._connection.execute(
                SQL.give_back, list(back), list(back.values()), GIVEN_BACK, GIVEN_BACK_BY
            )

    async def next_batch_id(self) -> int:
        """A number that names this batch in draws and outcomes."""
        batch_id: int = await self._connection.fetchval(SQL.next_batch_id)
        return batch_id

    async def book(self, batch_id: int, outcomes: Sequence[Outcome], dead: Sequence[Dead]) -> None:
        """Books the dead letters, accounts for every offset and moves the positions."""
        if dead:
            await self._connection.execute(
                SQL.book_dead_letters,
                self._topic,
                self.epoch,
                *_columns(_dead_row(item, self.price_version) for item in dead),
            )
        booked = [
            (o.span.partition, o.span.from_offset, o.span.to_offset, o.charged, o.duplicate, o.dead)
            for o in outcomes
        ]
        await self._connection.execute(
            SQL.book_outcomes, batch_id, self._topic, self.epoch, *_columns(booked)
        )
        self.moved = True
        moved = [(o.span.partition, o.span.to_offset, o.span.digest) for o in outcomes]
        await self._connection.execute(SQL.move_positions, self._topic, *_columns(moved))


def _columns(rows: Iterable[tuple[object, ...]]) -> list[list[object]]:
    return [list(column) for column in zip(*rows, strict=True)]


def _dead_row(dead: Dead, price_version: int) -> tuple[object, ...]:
    record, rejected = dead.record, dead.rejected
    value = record.value or b""
    size, digest = len(value), hashlib.sha256(value).digest()
    if isinstance(record, Oversized):
        size, digest = record.value_bytes, record.value_sha256
    return (
        record.partition,
        record.offset,
        rejected.reason.value,
        rejected.detail,
        rejected.account_id,
        rejected.event_id,
        None if record.key is None else record.key[:1024],
        value[:PAYLOAD_BYTES_MAX],
        size,
        digest,
        datetime.fromtimestamp(record.timestamp / 1000, UTC),
        rejected.model,
        price_version if rejected.reason is Reason.UNPRICED else 0,
    )


class Ledger:
    """Batches of one topic, and where its partitions stand."""

    def __init__(self, pool: Pool, topic: str, event_age_days_max: int) -> None:
        self._pool = pool
        self._topic = topic
        self._event_age_days_max = event_age_days_max

    @asynccontextmanager
    async def transaction(self) -> AsyncIterator[BatchTransaction]:
        """One transaction that commits when the block ends well and leaves no trace otherwise.

        READ COMMITTED: each statement sees what others committed before it began, which is what
        makes a claim visible once its account is locked.
        """
        async with (
            self._pool.acquire(timeout=10) as connection,
            connection.transaction(isolation="read_committed"),
        ):
            transaction = BatchTransaction(connection, self._topic)
            yield transaction
            if transaction.moved:
                reached("before_commit")
        if transaction.moved:
            reached("after_commit")

    async def end_overdue_copies(self, seconds_max: float) -> int:
        """Gives back the locks of workers that were frozen in the middle of a COPY, older than a
        statement may be; returns how many there were. To be asked again and again.
        """
        async with self._pool.acquire(timeout=10) as connection:
            ended: int = await connection.fetchval(SQL.end_overdue_copies, seconds_max)
        return ended

    async def recent_outcomes(self) -> list[tuple[int, int]]:
        """Records and dead letters of the latest batches, whoever applied them, oldest first; dead
        letters of what users published left out.
        """
        async with self._pool.acquire(timeout=10) as connection:
            rows = await connection.fetch(SQL.recent_outcomes, self._topic, USER_EVENT_PREFIX)
        return [(row["records"], row["dead"]) for row in reversed(rows)]

    async def first_seen(self, dead: Sequence[Dead]) -> list[Seen]:
        """What is known of each of these records, in their order: a copy is as old as it was the
        first time. Needs no lock: a record is sent again only after its first fate was committed.
        """
        rejected = [item.rejected for item in dead]
        digests = [hashlib.sha256(item.record.value or b"").digest() for item in dead]
        async with self._pool.acquire(timeout=10) as connection:
            rows = await connection.fetch(
                SQL.first_seen,
                [claimed.account_id for claimed in rejected],
                [claimed.event_id for claimed in rejected],
                digests,
            )
        found = {row["n"]: Seen(row["charged"], row["appended_at"]) for row in rows}
        return [found[n] for n in range(len(dead))]

    async def positions(self, first_offsets: Mapping[int, int]) -> dict[int, Position]:
        """Where each partition stands; one never seen before is opened at the offset given.

        Before anything is charged here, the age up to which it may be is noted for re-rates.
        """
        async with self._pool.acquire(timeout=10) as connection:
            await connection.execute(SQL.note_event_age, self._event_age_days_max)
            await connection.execute(
                SQL.open_positions, self._topic, list(first_offsets), list(first_offsets.values())
            )
            rows = await connection.fetch(SQL.read_positions, self._topic, list(first_offsets))
        return {
            row["partition"]: Position(
                row["epoch"], row["next_offset"], row["first_offset"], row["last_digest"]
            )
            for row in rows
        }
