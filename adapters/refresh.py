"""The refresh job's hands: accounts are enrolled, refreshed and moved on, thousands a statement."""

from collections.abc import AsyncIterator, Sequence
from dataclasses import dataclass
from datetime import datetime

from adapters.postgres import Connection
from adapters.queries import load
from core.refresh import Terms

SQL = load("refresh")
LEDGER = load("ledger")
ENROL_ACCOUNTS_MAX = 20_000


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

    def __add__(self, other: "RefreshedBatch") -> "RefreshedBatch":
        return RefreshedBatch(
            self.accounts + other.accounts,
            self.refreshed + other.refreshed,
            self.amount_micro + other.amount_micro,
            self.replaced_micro + other.replaced_micro,
        )


@dataclass(frozen=True, slots=True)
class DueTier:
    """What a run would give to the accounts of one tier."""

    tier: str
    accounts: int
    amount_micro: int


async def enrol(connection: Connection) -> AsyncIterator[int]:
    """Gives every account that has none its due time; yields how many each step took.

    Idempotent, and harmless beside itself.
    """
    while enrolled := await connection.fetchval(SQL.enrol, ENROL_ACCOUNTS_MAX):
        yield enrolled


async def count_due(
    connection: Connection, terms: Terms, until: datetime | None = None
) -> list[DueTier]:
    """What is due now, or would be until a moment, by tier; changes nothing."""
    tiers, amounts_micro = _columns(terms)
    rows = await connection.fetch(SQL.count_due, until, tiers, amounts_micro)
    return [DueTier(row["tier"], row["accounts"], row["amount_micro"] or 0) for row in rows]


async def refresh_due(
    connection: Connection,
    run: RefreshRun,
    accounts_max: int,
    *,
    only: Sequence[str] | None = None,
) -> AsyncIterator[RefreshedBatch]:
    """Refreshes what is due, `accounts_max` a transaction; yields what each transaction did.

    Each account once for a period, whatever stops or runs beside it: rows that another run has
    locked are left to it, and (account, period) is unique. With `only`, those accounts are
    refreshed now, due or not, once.
    """
    while True:
        async with connection.transaction(isolation="read_committed"):
            rows = await connection.fetch(SQL.lock_due, None, accounts_max, only)
            if not rows:
                return
            batch = await refresh_locked(connection, run, sorted(row["account_id"] for row in rows))
        yield batch
        if only is not None:
            return


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
    return RefreshedBatch(
        row["accounts"], row["refreshed"], row["amount_micro"], row["replaced_micro"]
    )


def _columns(terms: Terms) -> tuple[list[str], list[int]]:
    return list(terms.tier_micro), list(terms.tier_micro.values())
