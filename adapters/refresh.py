"""The refresh job's hands: accounts are enrolled, refreshed and moved on, thousands a statement."""

from collections.abc import AsyncIterator, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime

import asyncpg

from adapters.jobs import add_figures
from adapters.postgres import POISON, Connection
from adapters.queries import load
from core.refresh import Terms

SQL = load("refresh")
LEDGER = load("ledger")
ENROL_ACCOUNTS_MAX = 20_000
# What PostgreSQL refuses for the sake of some account of the batch, and would refuse again.
REFUSALS: tuple[type[Exception], ...] = (*POISON, asyncpg.UniqueViolationError)
_FIRST = datetime(1970, 1, 1, tzinfo=UTC)


@dataclass(frozen=True, slots=True)
class RefreshRun:
    """Who refreshes, and on whose behalf: what every entry of the run says."""

    run_id: int
    actor: str
    reason: str
    terms: Terms


@dataclass(frozen=True, slots=True)
class RefreshedBatch:
    """What one transaction did; `accounts` were moved on, `refreshed` of them got credits."""

    accounts: int = 0
    refreshed: int = 0
    amount_micro: int = 0
    replaced_micro: int = 0
    failed: int = 0
    failures: tuple[tuple[str, str], ...] = ()  # the accounts that failed, and why

    @property
    def figures(self) -> dict[str, int]:
        """What a run adds up."""
        return {
            "accounts": self.accounts,
            "refreshed": self.refreshed,
            "amount_micro": self.amount_micro,
            "replaced_micro": self.replaced_micro,
            "failed": self.failed,
        }


@dataclass(frozen=True, slots=True)
class DueTier:
    """What a run would give to the accounts of one tier."""

    tier: str
    accounts: int
    amount_micro: int


async def enrol(connection: Connection) -> AsyncIterator[int]:
    """Gives every account that has none its due time; yields how many each step found.

    Idempotent, and harmless beside itself.
    """
    last: str | None = ""
    while last is not None:
        row = await connection.fetchrow(SQL.enrol, last, ENROL_ACCOUNTS_MAX)
        assert row is not None  # noqa: S101 - an aggregate gives one row
        last = row["last"]
        if row["enrolled"]:
            yield row["enrolled"]


async def count_due(
    connection: Connection,
    terms: Terms,
    until: datetime | None = None,
    only: Sequence[str] | None = None,
) -> list[DueTier]:
    """What is due now, or would be until a moment, by tier; changes nothing.

    With `only`: what those accounts would get now, due or not.
    """
    tiers, amounts_micro = _columns(terms)
    rows = await connection.fetch(SQL.count_due, until, tiers, amounts_micro, only)
    return [DueTier(row["tier"], row["accounts"], row["amount_micro"] or 0) for row in rows]


async def refresh_due(
    connection: Connection, run: RefreshRun, accounts_max: int
) -> AsyncIterator[RefreshedBatch]:
    """Refreshes what is due now, `accounts_max` a transaction; yields what each transaction did.

    Each account once for a period, whatever stops or runs beside it: rows that another run has
    locked are left to it, and (account, period) is unique. Where PostgreSQL refuses a batch, the
    accounts to blame are found by halves, counted as failed and left to the next run.
    """
    until: datetime = await connection.fetchval(SQL.present)
    after: tuple[datetime, str] = (_FIRST, "")
    while True:
        accounts: list[str] = []
        try:
            async with connection.transaction(isolation="read_committed"):
                rows = await connection.fetch(SQL.lock_due, until, *after, accounts_max)
                if not rows:
                    return
                after = (rows[-1]["due_at"], rows[-1]["account_id"])
                accounts = sorted(row["account_id"] for row in rows)
                batch = await refresh_locked(connection, run, accounts)
        except REFUSALS as refusal:
            async for part in _halves(connection, run, accounts, until, refusal):
                yield part
            continue
        yield batch


async def lock_named(connection: Connection, accounts: Sequence[str]) -> None:
    """Locks their allowances for the caller's transaction, those made that were not there.

    To be called before it locks any account, with all that it will refresh: an allowance that is
    waited for with an account in hand is half a circle. What another run has locked is waited for.
    """
    await connection.execute(SQL.enrol_these, accounts)
    await connection.fetch(SQL.lock_named, accounts)


async def refresh_these(
    connection: Connection, run: RefreshRun, accounts: Sequence[str]
) -> AsyncIterator[RefreshedBatch]:
    """Refreshes accounts by name, now, due or not and paused or not; yields as `refresh_due`.

    Not idempotent: an account that was refreshed a moment ago is refreshed again. Accounts that
    another run has locked are waited for; those that do not exist are not among what it reports.
    """
    await connection.execute(SQL.enrol_these, accounts)
    try:
        batch = await _refresh_some(connection, run, accounts, None)
    except REFUSALS as refusal:
        async for part in _halves(connection, run, accounts, None, refusal):
            yield part
        return
    yield batch


async def _refresh_some(
    connection: Connection, run: RefreshRun, accounts: Sequence[str], until: datetime | None
) -> RefreshedBatch:
    async with connection.transaction(isolation="read_committed"):
        if until is None:
            rows = await connection.fetch(SQL.lock_named, accounts)
        else:
            rows = await connection.fetch(SQL.lock_these, accounts, until)
        if not rows:
            return RefreshedBatch()
        return await refresh_locked(connection, run, [row["account_id"] for row in rows])


async def _halves(
    connection: Connection,
    run: RefreshRun,
    accounts: Sequence[str],
    until: datetime | None,
    refusal: Exception,
) -> AsyncIterator[RefreshedBatch]:
    """Refreshes what can be of accounts that can not be together."""
    if len(accounts) == 1:
        failed = RefreshedBatch(failed=1, failures=((accounts[0], str(refusal)[:200]),))
        await _note(connection, run, failed)
        yield failed
        return
    middle = len(accounts) // 2
    for half in (accounts[:middle], accounts[middle:]):
        try:
            batch = await _refresh_some(connection, run, half, until)
        except REFUSALS as again:
            async for part in _halves(connection, run, half, until, again):
                yield part
            continue
        yield batch


async def refresh_locked(
    connection: Connection, run: RefreshRun, accounts: Sequence[str]
) -> RefreshedBatch:
    """Refreshes accounts whose allowance rows this transaction has locked."""
    await connection.fetch(LEDGER.lock_accounts, accounts)
    row = await connection.fetchrow(
        SQL.refresh_accounts,
        accounts,
        *_columns(run.terms),
        run.terms.rollover_max_micro,
        run.run_id,
        run.actor,
        run.reason,
    )
    assert row is not None  # noqa: S101 - an aggregate gives one row
    batch = RefreshedBatch(
        row["accounts"], row["refreshed"], row["amount_micro"], row["replaced_micro"]
    )
    await _note(connection, run, batch)
    return batch


async def _note(connection: Connection, run: RefreshRun, batch: RefreshedBatch) -> None:
    """In the transaction of the work: the run's figures are true after any crash."""
    await add_figures(connection, run.run_id, batch.figures)


def _columns(terms: Terms) -> tuple[list[str], list[int]]:
    return list(terms.tier_micro), list(terms.tier_micro.values())
