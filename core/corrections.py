"""Corrections: what is appended so that a charge is worth something else from now on.

Pure: the charges as they stand and the balances are arguments, read under the accounts' locks. A
charge never changes; its latest correction says what it used and costs. A correction's amounts are
absolute, and its differences are against the state that it found, so the ledger's sum is true after
each one whatever came before.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from datetime import timedelta
from enum import StrEnum
from typing import TYPE_CHECKING, Any, Final, NamedTuple

from core.recorded import USAGE_COLUMNS, Row, usage_columns, usage_recorded

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping, Sequence
    from datetime import date, datetime

    from core.rating import Rated
    from schemas.usage import UsageEvent

Identity = tuple[str, str]  # account, event id


class Kind(StrEnum):
    """Why a charge is corrected. The value is what is stored: it is never renamed."""

    VOID = "void"
    AMEND = "amend"
    RERATE = "rerate"
    REVERT = "revert"


@dataclass(frozen=True, slots=True)
class Change:
    """What a charge is to be from now on: its usage, its price, whether it counts at all.

    `rated.rated_micro` is what it costs in all after the change. `based_on` is the sequence of the
    state that the change was worked out from (0: the charge itself): in another state the change
    is stale and not made. None: it is right whatever stands.
    """

    account_id: str
    event_id: str
    kind: Kind
    voided: bool
    event: UsageEvent
    rated: Rated
    based_on: int | None = None


class Correction(NamedTuple):
    """One row to append; the ledger's row for it is of -amount_change_micro."""

    change: Change
    occurred_at: datetime
    tier: str
    demo: bool
    sequence: int
    usage: tuple[Any, ...]
    amount_micro: int
    rated_change_micro: int
    amount_change_micro: int
    balance_after_micro: int
    counter_before: tuple[str, int]  # of the state before it: the counter and its units


@dataclass(slots=True)
class Corrected:
    """Each change is a correction, or stale, or nowhere because it changes nothing."""

    corrections: list[Correction] = field(default_factory=list)
    stale: list[Change] = field(default_factory=list)


def correct(
    changes: Iterable[Change],
    standing: Mapping[Identity, Row],
    balances_micro: Mapping[str, int],
) -> Corrected:
    """Decides each change in the order given; at most one for each charge.

    `standing` and `balances_micro` know every charge and account of the changes. A demo account's
    charge gets a new price and keeps the amount of zero. Another price version or rule alone is no
    change: nobody pays or uses anything else.

    Raises:
        ValueError: two changes are of one charge.
    """
    corrected = Corrected()
    balances = dict(balances_micro)
    met: set[Identity] = set()
    for change in changes:
        identity = (change.account_id, change.event_id)
        if identity in met:
            raise ValueError(f"two changes of one charge: {identity}")
        met.add(identity)
        row = standing[identity]
        if change.based_on is not None and change.based_on != row["sequence"]:
            corrected.stale.append(change)
            continue
        correction = _correction(change, row, balances[change.account_id])
        if correction is not None:
            balances[change.account_id] = correction.balance_after_micro
            corrected.corrections.append(correction)
    return corrected


def _correction(change: Change, row: Row, balance_micro: int) -> Correction | None:
    rated = change.rated
    usage = usage_columns(change.event)
    counted = (row["counter"], row["counter_units"])
    if (
        rated.rated_micro == row["rated_micro"]
        and change.voided == row["voided"]
        and usage == usage_recorded(row)
        and (rated.counter, rated.counter_units) == counted
    ):
        return None
    amount_micro = 0 if row["demo"] else rated.rated_micro
    amount_change_micro = amount_micro - row["amount_micro"]
    return Correction(
        change=change,
        occurred_at=row["occurred_at"],
        tier=row["tier"],
        demo=row["demo"],
        sequence=row["sequence"] + 1,
        usage=usage,
        amount_micro=amount_micro,
        rated_change_micro=rated.rated_micro - row["rated_micro"],
        amount_change_micro=amount_change_micro,
        balance_after_micro=balance_micro - amount_change_micro,
        counter_before=counted,
    )


def changes_micro(corrections: Iterable[Correction]) -> dict[str, int]:
    """By account what it is charged more (less: negative) in all; no zeros."""
    totals: dict[str, int] = {}
    for correction in corrections:
        account_id = correction.change.account_id
        totals[account_id] = totals.get(account_id, 0) + correction.amount_change_micro
    return {account_id: total for account_id, total in totals.items() if total}


def counter_changes(corrections: Iterable[Correction]) -> dict[tuple[str, str, date], int]:
    """By (account, counter, month) how many units it counts more or less, without the zeros."""
    moved: dict[tuple[str, str, date], int] = {}
    for correction in corrections:
        rated = correction.change.rated
        after = (rated.counter, rated.counter_units)
        if correction.counter_before == after:
            continue
        month = month_of(correction.occurred_at)
        for (counter, units), sign in ((correction.counter_before, -1), (after, 1)):
            if counter and units:
                key = (correction.change.account_id, counter, month)
                moved[key] = moved.get(key, 0) + sign * units
    return {key: units for key, units in moved.items() if units}


def month_of(when: datetime) -> date:
    """The first day of the month, in UTC, in which an event is counted; `when` is in UTC."""
    return when.date().replace(day=1)


def month_end(month: date) -> date:
    """The first day of the month after it."""
    return (month + timedelta(days=31)).replace(day=1)


CORRECTION_COLUMNS: Final = (
    "account_id", "event_id", "sequence", "kind", "run_id", "voided", "occurred_at",
    "price_version", "rule", "rated_micro", "amount_micro", "rated_change_micro",
    "amount_change_micro", "tier", "demo", *USAGE_COLUMNS, "counter", "counter_units",
    "counter_before", "transaction_id", "actor", "reason", "idempotency_key",
)  # fmt: skip
TRANSACTION_COLUMNS: Final = (
    "transaction_id", "account_id", "type", "amount_micro", "balance_after_micro", "event_id",
    "actor", "reason",
)  # fmt: skip


@dataclass(frozen=True, slots=True)
class Author:
    """Who corrects, why, and in which run of a re-rate."""

    actor: str
    reason: str
    run_id: int | None = None


def correction_row(
    correction: Correction, author: Author, transaction_id: int | None, key: str | None
) -> tuple[object, ...]:
    """The row of `charge_correction`, in the order of CORRECTION_COLUMNS."""
    change = correction.change
    rated = change.rated
    return (
        change.account_id, change.event_id, correction.sequence, change.kind.value, author.run_id,
        change.voided, correction.occurred_at, rated.price_version, rated.rule, rated.rated_micro,
        correction.amount_micro, correction.rated_change_micro, correction.amount_change_micro,
        correction.tier, correction.demo, *correction.usage, rated.counter, rated.counter_units,
        rated.counter_before, transaction_id, author.actor, author.reason, key,
    )  # fmt: skip


def transaction_row(
    correction: Correction, author: Author, transaction_id: int
) -> tuple[object, ...]:
    """The row of `credit_transaction`, in the order of TRANSACTION_COLUMNS."""
    change = correction.change
    return (
        transaction_id, change.account_id, "CORRECTION", -correction.amount_change_micro,
        correction.balance_after_micro, change.event_id, author.actor, author.reason,
    )  # fmt: skip


def numbered(
    corrections: Sequence[Correction], transaction_ids: Iterable[int]
) -> list[tuple[Correction, int | None]]:
    """Each correction with the number of its ledger row; None where no credits move."""
    ids = iter(transaction_ids)
    return [
        (correction, next(ids) if correction.amount_change_micro else None)
        for correction in corrections
    ]
