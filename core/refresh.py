"""The monthly allowance: how much an account gets, what happens to the rest, and when it is due.

The definition that the set-based SQL of the refresh job must equal. A month here is 30 days since
the last refresh, not a calendar month (R1).
"""

from __future__ import annotations

from calendar import monthrange
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import TYPE_CHECKING

from core.grants import repay

if TYPE_CHECKING:
    from collections.abc import Mapping

PERIOD = timedelta(days=30)
ALLOWANCE_PRIORITY = 50  # drawn before credits that were bought, which are at 100


@dataclass(frozen=True, slots=True)
class Terms:
    """A deployment's terms: the amount of each tier, and how much of a remainder is kept.

    With `rollover_max_micro` 0 (the default) the new allowance replaces the rest of the last one.
    """

    tier_micro: Mapping[str, int]
    rollover_max_micro: int = 0

    def amount_micro(self, tier: str, custom_micro: int | None) -> int:
        """What a refresh gives: the account's own amount wins; a tier without one gets nothing."""
        return self.tier_micro.get(tier, 0) if custom_micro is None else custom_micro


@dataclass(frozen=True, slots=True)
class Refreshed:
    """One refresh in figures. The new grant is `amount_micro` and what was carried into it.

    `replaced_micro` left the balance; the balance moves by `amount_micro - replaced_micro`.
    """

    amount_micro: int
    carried_micro: int
    replaced_micro: int
    granted_micro: int
    remaining_micro: int
    overdraft_micro: int
    balance_micro: int


def refresh(
    *, amount_micro: int, left_micro: int, balance_micro: int, overdraft_micro: int, terms: Terms
) -> Refreshed:
    """What a refresh does to an account with `left_micro` of its last allowance.

    Overdraft is repaid first, out of the new grant.

    Raises:
        ValueError: nothing is given, or credits are left beside an overdraft.
    """
    if left_micro and overdraft_micro:
        raise ValueError("an account with credits left has no overdraft")
    carried_micro = min(left_micro, terms.rollover_max_micro)
    replaced_micro = left_micro - carried_micro
    repayment = repay(amount_micro + carried_micro, overdraft_micro)
    return Refreshed(
        amount_micro=amount_micro,
        carried_micro=carried_micro,
        replaced_micro=replaced_micro,
        granted_micro=amount_micro + carried_micro,
        remaining_micro=repayment.remaining_micro,
        overdraft_micro=repayment.overdraft_micro,
        balance_micro=balance_micro + amount_micro - replaced_micro,
    )


def next_due(period: datetime, now: datetime, preferred_day: int | None) -> datetime:
    """When the refresh after the one of `period` is due: later than `now`, 30 days at a time.

    Periods that were missed are not made up for. With a preferred day of the month (R2) it is that
    day nearest to the 30 days, the earlier of two as near; a month that is too short has its last.
    """
    due = period + PERIOD
    while due <= now:
        due += PERIOD
    if preferred_day is None:
        return due
    first = due.replace(day=1)
    months = (first - timedelta(days=1), first, first + timedelta(days=31))
    days = [month.replace(day=_day(month, preferred_day)) for month in months]
    later = [day for day in days if day > now and day > period]
    return min(later, key=lambda day: (abs(day - due), day))


def _day(month: datetime, preferred_day: int) -> int:
    return min(preferred_day, monthrange(month.year, month.month)[1])
