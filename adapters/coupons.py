"""Coupons in PostgreSQL: a limit holds under any number of tries at the same moment."""

import re
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any

from adapters.accounts import AMOUNT_MICRO_MAX, Granted, GrantRequest, Source, post
from adapters.failures import Failure
from adapters.history import Cursor, Page, page_of
from adapters.postgres import Connection
from adapters.queries import load
from core.coupons import HUNDRED_PERCENT_MICRO, Coupon, CouponKind, CouponRefusal, value_micro

SQL = load("coupons")
ACCOUNTS = load("accounts")
_CODE = re.compile(r"[A-Z0-9_-]{3,64}")


@dataclass(frozen=True, slots=True)
class NewCoupon:
    """A coupon to make. Raises Failure when it could not be used as it is.

    `percent_micro` is in millionths of a percent: 50 % is 50,000,000.
    """

    code: str
    kind: CouponKind
    actor: str
    amount_micro: int = 0
    percent_micro: int = 0
    uses_max: int | None = None
    account_uses_max: int = 1
    grant_days: int | None = None
    expires_at: datetime | None = None

    def __post_init__(self) -> None:
        if not _CODE.fullmatch(self.code):
            raise Failure("a coupon's code is 3 to 64 of A-Z, 0-9, _ and -")
        fixed = self.kind is CouponKind.FIXED
        if fixed != (0 < self.amount_micro <= AMOUNT_MICRO_MAX) or (fixed and self.percent_micro):
            raise Failure("a fixed coupon is an amount of credits, more than 0 and no percentage")
        if fixed == (0 < self.percent_micro <= 10 * HUNDRED_PERCENT_MICRO):
            raise Failure("a percentage is more than 0 and at most 1000, and no amount")
        if self.account_uses_max < 1 or (self.uses_max is not None and self.uses_max < 1):
            raise Failure("a coupon can be used once at least")
        if self.grant_days is not None and not 1 <= self.grant_days <= 3_650:
            raise Failure("what a coupon gives lives for 1 to 3650 days")
        if self.expires_at is not None and self.expires_at <= datetime.now(UTC):
            raise Failure(f"a coupon that expires at {self.expires_at.isoformat()} is over already")


@dataclass(frozen=True, slots=True)
class Redeemed:
    """What a coupon gave."""

    code: str
    granted: Granted


async def create_coupon(connection: Connection, coupon: NewCoupon) -> datetime:
    """Makes it and returns when. Raises Failure when the code is taken."""
    made: datetime | None = await connection.fetchval(
        SQL.add_coupon,
        coupon.code,
        coupon.kind.value,
        coupon.amount_micro,
        coupon.percent_micro,
        coupon.uses_max,
        coupon.account_uses_max,
        coupon.grant_days,
        coupon.expires_at,
        coupon.actor,
    )
    if made is None:
        raise Failure(f"the code {coupon.code} is taken")
    return made


async def redeem(
    connection: Connection, code: str, account_id: str, actor: str, *, base_micro: int = 0
) -> Redeemed | CouponRefusal | None:
    """Redeems a code for an account, or says why not; None when there is no such account.

    To be called in a transaction: it locks the account, then the coupon. `base_micro` is the
    purchase that a percentage is of.
    """
    account = await connection.fetchrow(ACCOUNTS.lock_account, account_id)
    if account is None:
        return None
    row = await connection.fetchrow(SQL.lock_coupon, code) if _CODE.fullmatch(code) else None
    if row is None:
        return CouponRefusal.UNKNOWN
    account_uses = await connection.fetchval(SQL.count_uses, code, account_id)
    given_micro = value_micro(
        _coupon(row), base_micro=base_micro, account_uses=account_uses, now=row["now"]
    )
    if isinstance(given_micro, CouponRefusal):
        return given_micro
    request = GrantRequest(
        account_id,
        given_micro,
        actor,
        source=Source.COUPON,
        expires_at=row["grant_expires_at"],
        reason=f"coupon {code}",
    )
    granted = await post(connection, request, account["overdraft_micro"])
    await connection.execute(
        SQL.use_coupon,
        code,
        account_id,
        account_uses + 1,
        base_micro,
        given_micro,
        granted.transaction_id,
    )
    return Redeemed(code, granted)


async def top_up(
    connection: Connection, request: GrantRequest, code: str | None
) -> tuple[Granted, Redeemed | None] | CouponRefusal | None:
    """A purchase of credits, with what a percentage coupon adds to it; None: no such account.

    To be called in a transaction, which is rolled back by whoever gets a refusal: a purchase with
    a coupon that does not hold is no purchase.
    """
    account = await connection.fetchrow(ACCOUNTS.lock_account, request.account_id)
    if account is None:
        return None
    bought = await post(connection, request, account["overdraft_micro"])
    if code is None:
        return bought, None
    added = await redeem(
        connection, code, request.account_id, request.actor, base_micro=request.amount_micro
    )
    if isinstance(added, Redeemed):
        return bought, added
    return added


async def disable_coupon(connection: Connection, code: str) -> datetime:
    """Nobody can use it any more; idempotent. Raises Failure when there is no such coupon."""
    row = await connection.fetchrow(SQL.disable_coupon, code)
    if row is None:
        raise Failure(f"no coupon {code[:64]!r}: see `tollgate coupon list`")
    disabled_at: datetime = row["disabled_at"]
    return disabled_at


async def list_coupons(
    connection: Connection, *, usable: bool, coupons_max: int, before: Cursor | None = None
) -> Page:
    """The newest coupons with their uses, a page of them."""
    place = (None, None) if before is None else (before.at, before.place)
    rows = await connection.fetch(SQL.list_coupons, usable, *place, coupons_max + 1)
    return page_of(rows, coupons_max, "created_at", "code")


def _coupon(row: Any) -> Coupon:
    return Coupon(
        kind=CouponKind(row["kind"]),
        amount_micro=row["amount_micro"],
        percent_micro=row["percent_micro"],
        uses=row["uses"],
        uses_max=row["uses_max"],
        account_uses_max=row["account_uses_max"],
        expires_at=row["expires_at"],
        disabled=row["disabled"],
    )
