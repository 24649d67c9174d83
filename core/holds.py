"""Holds: what an account may still promise, and what becomes of a hold. Pure."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from enum import StrEnum


class Denial(StrEnum):
    """Why the gate says no: the closed set."""

    UNKNOWN_ACCOUNT = "unknown_account"
    INSUFFICIENT = "insufficient_credits"
    BELOW_MINIMUM = "below_minimum_balance"
    CAP = "monthly_cap"
    TOO_MANY_HOLDS = "too_many_holds"
    NO_SUCH_HOLD = "no_such_hold"
    NOT_OPEN = "hold_not_open"
    NOT_YOURS = "hold_of_another"
    ID_TAKEN = "hold_id_taken"
    UNPRICED = "unpriced"

    @property
    def meaning(self) -> str:
        """One sentence for the person who is told no."""
        return _MEANINGS[self]


_MEANINGS = {
    Denial.UNKNOWN_ACCOUNT: "No such account",
    Denial.INSUFFICIENT: "Insufficient credits",
    Denial.BELOW_MINIMUM: "The balance is below the minimum to start work",
    Denial.CAP: "The monthly spending cap is reached",
    Denial.TOO_MANY_HOLDS: "The account has too many open holds",
    Denial.NO_SUCH_HOLD: "No such hold",
    Denial.NOT_OPEN: "The hold is closed already",
    Denial.NOT_YOURS: "Another caller placed the hold",
    Denial.ID_TAKEN: "The id of the hold is taken",
    Denial.UNPRICED: "There is no price for this usage",
}


class HoldState(StrEnum):
    """The life of a hold: open once, then exactly one of the others."""

    OPEN = "open"
    SETTLED = "settled"
    RELEASED = "released"
    EXPIRED = "expired"

    @property
    def status(self) -> str:
        """The state in the words of the transaction history: PENDING, COMPLETED or FAILED (000)."""
        if self is HoldState.OPEN:
            return "PENDING"
        return "COMPLETED" if self is HoldState.SETTLED else "FAILED"


@dataclass(frozen=True, slots=True)
class Funds:
    """An account as the gate sees it, all amounts in micro-credits.

    `over_micro` is what is left of grants whose expiry has passed and is not booked yet: it is
    part of the balance and can no longer be drawn. `spent_micro` is this month's (UTC) spend.
    """

    balance_micro: int
    held_micro: int
    over_micro: int
    cap_micro: int | None
    spent_micro: int
    open_holds: int = 0

    @property
    def available_micro(self) -> int:
        """What can be promised without regard to the cap; negative with an overdraft."""
        return self.balance_micro - self.held_micro - self.over_micro

    @property
    def cap_room_micro(self) -> int | None:
        """What the monthly cap leaves, open holds taken as spent (C8); None: there is no cap."""
        if self.cap_micro is None:
            return None
        return self.cap_micro - self.spent_micro - self.held_micro

    @property
    def promisable_micro(self) -> int:
        """The most that one more hold may reserve; never negative."""
        room_micro = self.cap_room_micro
        most = self.available_micro if room_micro is None else min(self.available_micro, room_micro)
        return max(0, most)


@dataclass(frozen=True, slots=True)
class Limits:
    """What bounds an account (C1, C8, C9): credits to start work, open holds at once, and the cap
    of a month for an account that has none of its own; None: no cap.
    """

    minimum_micro: int
    open_holds_max: int
    cap_micro: int | None = None

    def cap_of(self, own_micro: int | None) -> int | None:
        """The cap that counts: the account's own one wins, the higher one too."""
        return self.cap_micro if own_micro is None else own_micro


@dataclass(frozen=True, slots=True)
class TierLimits:
    """The limits of each tier; a tier that is not named has the deployment's."""

    deployment: Limits
    tiers: Mapping[str, Limits]

    def of(self, tier: str) -> Limits:
        """The limits of an account of that tier."""
        return self.tiers.get(tier, self.deployment)


def may_start(funds: Funds, amount_micro: int, limits: Limits) -> Denial | None:
    """Whether work of that price may start; None is yes.

    Raises:
        ValueError: the amount is not positive.
    """
    if amount_micro <= 0:
        raise ValueError(f"{amount_micro} micro-credits can not be promised")
    if funds.available_micro < amount_micro:
        return Denial.INSUFFICIENT
    if funds.available_micro < limits.minimum_micro:
        return Denial.BELOW_MINIMUM
    if funds.cap_room_micro is not None and funds.cap_room_micro < amount_micro:
        return Denial.CAP
    return None


def may_hold(funds: Funds, amount_micro: int, limits: Limits) -> Denial | None:
    """As `may_start`, for a reserve that is kept: the number of open holds is bounded too."""
    if funds.open_holds >= limits.open_holds_max:
        return Denial.TOO_MANY_HOLDS
    return may_start(funds, amount_micro, limits)


def may_go_on(funds: Funds, more_micro: int) -> Denial | None:
    """Whether running work may reserve more: no minimum, it has started already.

    Raises:
        ValueError: the addition is not positive.
    """
    if more_micro <= 0:
        raise ValueError(f"{more_micro} micro-credits can not be added")
    if funds.available_micro < more_micro:
        return Denial.INSUFFICIENT
    if funds.cap_room_micro is not None and funds.cap_room_micro < more_micro:
        return Denial.CAP
    return None
