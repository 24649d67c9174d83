"""Grants and burn-down: the definition that the set-based SQL of the rater must equal.

A charge is paid from the grants in a fixed order; what no grant covers becomes overdraft. The work
has happened, so a charge is never refused.
"""

from __future__ import annotations

from dataclasses import dataclass
from datetime import UTC, datetime
from typing import TYPE_CHECKING, NamedTuple

if TYPE_CHECKING:
    from collections.abc import Iterable

_NEVER = datetime.max.replace(tzinfo=UTC)


@dataclass(frozen=True, slots=True)
class Grant:
    """Credits given to an account, and what is left of them."""

    grant_id: int
    priority: int
    expires_at: datetime | None
    created_at: datetime
    remaining_micro: int


class Draw(NamedTuple):
    """What one burn-down takes from one grant; always more than zero."""

    grant_id: int
    amount_micro: int


@dataclass(frozen=True, slots=True)
class Burn:
    """How an amount is paid: the draws in burn order, and the rest as overdraft."""

    draws: tuple[Draw, ...]
    overdraft_micro: int


@dataclass(frozen=True, slots=True)
class Repayment:
    """How a new grant starts: the part that repays overdraft at once, and what is left of each."""

    repaid_micro: int
    remaining_micro: int
    overdraft_micro: int


def burn_order(grant: Grant) -> tuple[int, datetime, datetime, int]:
    """The sort key of C3: lowest priority number, earliest expiry (never is last), oldest, id.

    Total: no two grants are equal in it.
    """
    return (grant.priority, grant.expires_at or _NEVER, grant.created_at, grant.grant_id)


def spendable(grant: Grant, at: datetime) -> bool:
    """Whether a grant can be drawn from: something is left and the expiry is still ahead."""
    return grant.remaining_micro > 0 and (grant.expires_at is None or grant.expires_at > at)


def burn_down(grants: Iterable[Grant], amount_micro: int, at: datetime) -> Burn:
    """Pays an amount from the grants of one account; the order of the argument does not matter.

    The sum of the draws and the overdraft is the amount. Paying a and then b leaves the same as
    paying a + b.

    Raises:
        ValueError: the amount is negative.
    """
    if amount_micro < 0:
        raise ValueError(f"an amount of {amount_micro} micro-credits cannot be burned down")
    owed_micro = amount_micro
    draws: list[Draw] = []
    for grant in sorted((grant for grant in grants if spendable(grant, at)), key=burn_order):
        if owed_micro == 0:
            break
        taken_micro = min(grant.remaining_micro, owed_micro)
        draws.append(Draw(grant.grant_id, taken_micro))
        owed_micro -= taken_micro
    return Burn(tuple(draws), owed_micro)


def repay(granted_micro: int, overdraft_micro: int) -> Repayment:
    """A new grant repays overdraft before anything else can be drawn from it (C3).

    Raises:
        ValueError: nothing is granted, or the overdraft is negative.
    """
    if granted_micro <= 0 or overdraft_micro < 0:
        raise ValueError(f"cannot grant {granted_micro} against an overdraft of {overdraft_micro}")
    repaid_micro = min(granted_micro, overdraft_micro)
    return Repayment(repaid_micro, granted_micro - repaid_micro, overdraft_micro - repaid_micro)


def give_back(amount_micro: int, overdraft_micro: int) -> Repayment:
    """A total below nothing: it repays overdraft, and `remaining_micro` becomes a new grant of
    that amount, without an expiry; nothing is left to grant when the overdraft took all of it.

    Unlike a grant that was asked for, the repaid part is no part of the grant, so it is no draw.

    Raises:
        ValueError: nothing is given back, or the overdraft is negative.
    """
    return repay(amount_micro, overdraft_micro)
