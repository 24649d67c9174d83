"""Sessions that reconciliation charged for their report and a usage event charged as well.

The event is what happened, the report was an estimate of it: the charge for the report is taken
back. The rater marks such a hold in the transaction that charges the event, so that nothing has to
be searched for, however late an event is.
"""

from collections import Counter
from collections.abc import AsyncIterator, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Final

import structlog
from asyncpg import Record

from adapters.halving import Refusals, Refused, by_halves
from adapters.jobs import Figures, add_figures
from adapters.postgres import Connection
from adapters.queries import load
from adapters.reconcile import ACTOR

log = structlog.get_logger()

SQL = load("reconcile")
LEDGER = load("ledger")
GRANT_SOURCE: Final = "reversal"
HOLDS_MAX = 500  # of one transaction: the locks of their accounts keep the raters waiting


@dataclass(frozen=True, slots=True)
class Replaced:
    """What one transaction took back: of so many holds, so much in all. `refused` are accounts to
    which PostgreSQL refused to give it.
    """

    holds: int
    returned_micro: int
    refused: int = 0

    @property
    def figures(self) -> Figures:
        """What a run adds up."""
        return {
            "replaced": self.holds,
            "returned_micro": self.returned_micro,
            "refused": self.refused,
        }


async def replace(connection: Connection, run_id: int) -> AsyncIterator[Replaced]:
    """Takes back every charge for a report that an event came after; yields what each transaction
    did.

    Overdraft is repaid first, the rest is a new grant without an end, as with a correction that
    makes a charge cheaper. Spend of this month goes down by what was spent in it. The hold then
    says what its events cost by now. Idempotent, and runs at once take each charge back once: all
    is read again under the account's lock. An account that is refused is left to the next run.
    """
    refusals = Refusals(connection, run_id)
    after = ("", "")
    while True:
        rows = await connection.fetch(SQL.overtaken, *after, HOLDS_MAX)
        if not rows:
            return
        after = (rows[-1]["account_id"], rows[-1]["hold_id"])
        work = partial(_replaced, connection, run_id, rows)
        async for done in by_halves(sorted({row["account_id"] for row in rows}), work):
            if isinstance(done, Refused):
                await refusals.note(done)
                yield Replaced(0, 0, refused=1)
                continue
            if done.holds:
                log.info("reports replaced by usage events", run_id=run_id, **done.figures)
            yield done


async def _replaced(
    connection: Connection, run_id: int, rows: Sequence[Record], accounts: Sequence[str]
) -> Replaced:
    """One transaction: those of the holds that are of these accounts."""
    of_these = set(accounts)
    hold_ids = [row["hold_id"] for row in rows if row["account_id"] in of_these]
    async with connection.transaction(isolation="read_committed"):
        await connection.fetch(LEDGER.lock_accounts, accounts)
        found = await connection.fetch(SQL.examine_overtaken, hold_ids)
        if found:
            await _take_back(connection, found)
        done = Replaced(len(found), sum(hold["reported_micro"] for hold in found))
        await add_figures(connection, run_id, done.figures)
    return done


async def _take_back(connection: Connection, found: Sequence[Record]) -> None:
    totals: Counter[str] = Counter()
    earlier: Counter[str] = Counter()
    for hold in found:
        totals[hold["account_id"]] += hold["reported_micro"]
        if hold["of_earlier_month"]:
            earlier[hold["account_id"]] += hold["reported_micro"]
    rows = await connection.fetch(
        LEDGER.give_back, list(totals), list(totals.values()), GRANT_SOURCE, ACTOR
    )
    if earlier:
        await connection.execute(SQL.keep_spend, list(earlier), list(earlier.values()))
    grants = {row["account_id"]: row["grant_id"] for row in rows}
    hold_ids = [hold["hold_id"] for hold in found]
    await connection.execute(
        SQL.book_reversals,
        hold_ids,
        [hold["account_id"] for hold in found],
        [hold["reported_micro"] for hold in found],
        [grants[hold["account_id"]] for hold in found],
        [hold["event_id"] for hold in found],
        ACTOR,
    )
    charged_micro = [hold["charged_micro"] for hold in found]
    await connection.execute(SQL.replace_reports, hold_ids, charged_micro)
