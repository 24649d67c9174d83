"""What an account's credits must be, in plain Python: the definition that the ledger is held to."""

from dataclasses import dataclass, field
from fractions import Fraction

from core.coupons import CouponRefusal
from core.holds import Denial

MINIMUM_MICRO = 1_000
OPEN_HOLDS_MAX = 3
COUPON_MICRO = 300
COUPON_USES_MAX = 3
ACCOUNT_USES_MAX = 2
ALLOWANCE_MICRO = 700
ROLLOVER_MAX_MICRO = 500


@dataclass
class Given:
    """A grant: what is left of it, and whether its time is over."""

    priority: int
    expires_day: int | None
    left_micro: int
    over: bool = False


@dataclass
class Oracle:
    """One account. Every amount is in micro-credits."""

    grants: list[Given] = field(default_factory=list)
    overdraft_micro: int = 0
    holds: dict[str, int] = field(default_factory=dict)
    reports: dict[str, int] = field(default_factory=dict)  # charged for what a session reported
    overtaken: set[str] = field(default_factory=set)  # ... and for an event after it
    cap_micro: int | None = None
    spent_micro: int = 0
    coupon_uses: int = 0
    allowance: Given | None = None

    @property
    def balance_micro(self) -> int:
        return sum(grant.left_micro for grant in self.grants) - self.overdraft_micro

    @property
    def available_micro(self) -> int:
        over = sum(grant.left_micro for grant in self.grants if grant.over)
        return self.balance_micro - over - sum(self.holds.values())

    def give(self, amount_micro: int, priority: int = 100, expires_day: int | None = None) -> Given:
        repaid = min(amount_micro, self.overdraft_micro)
        self.overdraft_micro -= repaid
        given = Given(priority, expires_day, amount_micro - repaid)
        self.grants.append(given)
        return given

    def take(self, amount_micro: int) -> None:
        def turn(grant: Given) -> tuple[int, float]:
            day = grant.expires_day
            return grant.priority, float("inf") if day is None else day

        for grant in sorted((g for g in self.grants if not g.over), key=turn):
            drawn = min(amount_micro, grant.left_micro)
            grant.left_micro -= drawn
            amount_micro -= drawn
        self.overdraft_micro += amount_micro

    def spend(self, amount_micro: int) -> None:
        self.take(amount_micro)
        self.spent_micro += amount_micro

    def abandon(self, hold_id: str, amount_micro: int) -> None:
        """A session is left alone, and charged for its report."""
        del self.holds[hold_id]
        self.spend(amount_micro)
        if amount_micro:
            self.reports[hold_id] = amount_micro

    def reconcile(self) -> None:
        """What an event came after is taken back, in one sum."""
        back = sum(self.reports.pop(hold_id) for hold_id in self.overtaken)
        self.overtaken.clear()
        self.spent_micro -= back
        if back:
            self.give(back)

    def denial(self, amount_micro: int) -> Denial | None:
        """Of more work that has begun."""
        if self.available_micro < amount_micro:
            return Denial.INSUFFICIENT
        held = sum(self.holds.values())
        if self.cap_micro is not None and self.cap_micro - self.spent_micro - held < amount_micro:
            return Denial.CAP
        return None

    def denial_to_start(self, amount_micro: int) -> Denial | None:
        if len(self.holds) >= OPEN_HOLDS_MAX:
            return Denial.TOO_MANY_HOLDS
        if self.available_micro < amount_micro:
            return Denial.INSUFFICIENT
        return (
            Denial.BELOW_MINIMUM
            if self.available_micro < MINIMUM_MICRO
            else self.denial(amount_micro)
        )

    def expire(self) -> None:
        for grant in self.grants:
            if grant.over:
                grant.left_micro = 0

    def refresh(self) -> None:
        """The rest of the last allowance is kept up to a limit, in the new one."""
        carried = 0
        if self.allowance is not None:
            carried = min(self.allowance.left_micro, ROLLOVER_MAX_MICRO)
            self.allowance.left_micro = 0
        self.allowance = self.give(ALLOWANCE_MICRO + carried, priority=50)

    def redeem(self, uses_so_far: int) -> CouponRefusal | None:
        if uses_so_far >= COUPON_USES_MAX:
            return CouponRefusal.USED_UP
        if self.coupon_uses >= ACCOUNT_USES_MAX:
            return CouponRefusal.USED_BY_ACCOUNT
        self.coupon_uses += 1
        self.give(COUPON_MICRO)
        return None

    def buy(self, amount_micro: int) -> bool:
        """With a coupon of half of the purchase; a half of a micro-credit goes to the even side."""
        added = round(Fraction(amount_micro, 2))
        if added:
            self.give(amount_micro)
            self.give(added)
        return bool(added)
