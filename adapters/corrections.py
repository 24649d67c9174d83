"""Appends corrections to the ledger and moves what depends on them, thousands in one go.

The number of statements does not depend on the number of changes. core/corrections.py decides.
"""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass

from adapters.failures import Failure
from adapters.faultpoints import reached
from adapters.postgres import Connection
from adapters.queries import load
from core.corrections import (
    CORRECTION_COLUMNS,
    TRANSACTION_COLUMNS,
    Author,
    Change,
    Correction,
    Identity,
    Kind,
    changes_micro,
    correct,
    correction_row,
    counter_changes,
    numbered,
    transaction_row,
)
from core.recorded import Row

__all__ = ["Change", "Kind", "Posted", "charges_in_force", "lock_balances", "post"]

SQL = load("corrections")
_LEDGER = load("ledger")
GRANT_SOURCE = "correction"


@dataclass(frozen=True, slots=True)
class Posted:
    """What was appended, and what the accounts are charged more (less: negative) by it in all.

    `stale` are the changes that were not made because their charge stands otherwise by now.
    """

    corrections: int
    amount_change_micro: int
    stale: tuple[Change, ...] = ()


async def post(
    connection: Connection,
    changes: Sequence[Change],
    *,
    actor: str,
    reason: str,
    run_id: int | None = None,
    keys: Mapping[Identity, str] | None = None,
) -> Posted:
    """Makes the changes inside the caller's open transaction, which is READ COMMITTED.

    Locks the accounts in order first, so it waits for a batch of a rater and a batch waits for it,
    and reads the charges again under the locks. A change that changes nothing appends nothing, so
    a repeated call is harmless. What is charged less repays overdraft first and is a new grant for
    the rest; what is charged more is burned down as any charge. `run_id` goes with the kinds RERATE
    and REVERT; `keys` are idempotency keys by (account, event id).

    Raises:
        Failure: a change names a charge that does not exist; nothing is appended then.
        ValueError: two changes are of one charge.
    """
    if not changes:
        return Posted(0, 0)
    balances_micro = await lock_balances(connection, {change.account_id for change in changes})
    identities = [(change.account_id, change.event_id) for change in changes]
    standing = await charges_in_force(connection, identities)
    for account_id, event_id in identities:
        if (account_id, event_id) not in standing:
            raise Failure(f"account {account_id} was never charged for an event {event_id!r}")
    corrected = correct(changes, standing, balances_micro)
    if corrected.corrections:
        author = Author(actor, reason, run_id)
        first_id = await _append(connection, corrected.corrections, author, keys or {})
        cause = f"rerate:{run_id}" if run_id is not None else f"correction:{first_id}"
        await _move(connection, corrected.corrections, actor, cause)
    return Posted(
        len(corrected.corrections),
        sum(correction.amount_change_micro for correction in corrected.corrections),
        tuple(corrected.stale),
    )


async def lock_balances(connection: Connection, account_ids: Iterable[str]) -> dict[str, int]:
    """Locks the accounts in order until the transaction ends; the balance of each that exists."""
    rows = await connection.fetch(_LEDGER.lock_accounts, sorted(set(account_ids)))
    return {row["account_id"]: row["balance_micro"] for row in rows}


async def charges_in_force(
    connection: Connection, identities: Sequence[Identity]
) -> dict[Identity, Row]:
    """The charges that exist, as they stand; final only while their accounts are locked."""
    rows = await connection.fetch(
        SQL.charges_in_force,
        [account_id for account_id, _ in identities],
        [event_id for _, event_id in identities],
    )
    return {(row["account_id"], row["event_id"]): row for row in rows}


async def _append(
    connection: Connection,
    corrections: Sequence[Correction],
    author: Author,
    keys: Mapping[Identity, str],
) -> int | None:
    """Appends ledger rows and corrections; returns the number of the first ledger row."""
    moving = sum(1 for correction in corrections if correction.amount_change_micro)
    ids = [row[0] for row in await connection.fetch(SQL.reserve_transactions, moving)]
    pairs = numbered(corrections, ids)
    await connection.copy_records_to_table(
        "credit_transaction",
        columns=TRANSACTION_COLUMNS,
        records=[transaction_row(item, author, number) for item, number in pairs if number],
    )
    reached("in_correction")
    await connection.copy_records_to_table(
        "charge_correction",
        columns=CORRECTION_COLUMNS,
        records=[
            correction_row(
                item, author, number, keys.get((item.change.account_id, item.change.event_id))
            )
            for item, number in pairs
        ],
    )
    return ids[0] if ids else None


async def _move(
    connection: Connection, corrections: Sequence[Correction], actor: str, cause: str
) -> None:
    """Counters, then grants, overdraft and balances, by one total for each account."""
    reached("before_moving")
    moved = counter_changes(corrections)
    if moved:
        account_ids, counters, months = zip(*moved, strict=True)
        await connection.execute(
            _LEDGER.add_to_counters, account_ids, counters, months, list(moved.values())
        )
    totals = changes_micro(corrections)
    dearer = {account_id: micro for account_id, micro in totals.items() if micro > 0}
    cheaper = {account_id: -micro for account_id, micro in totals.items() if micro < 0}
    if dearer:
        await connection.execute(_LEDGER.burn_down, list(dearer), list(dearer.values()), cause)
    if cheaper:
        await connection.execute(
            _LEDGER.give_back, list(cheaper), list(cheaper.values()), GRANT_SOURCE, actor
        )
