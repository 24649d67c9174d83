"""What admins do to accounts and coupons, each with its row in the audit log.

Every function here runs in its caller's transaction and is not idempotent by itself.
"""

from dataclasses import dataclass
from typing import Any

from adapters.accounts import Granted, GrantRequest, change_account, create_account, give
from adapters.audit_log import Act, note
from adapters.coupons import NewCoupon, Redeemed, create_coupon, disable_coupon, redeem
from adapters.postgres import Connection
from adapters.queries import load
from core.coupons import CouponRefusal

SQL = load("admin_acts")


@dataclass(frozen=True, slots=True)
class Admin:
    """Who acts, why, and by which request. `signer` is what the audit log names, if not the actor:
    of one actor's API keys the one that was used.
    """

    actor: str
    reason: str = ""
    request_id: str = ""
    signer: str = ""

    def act(
        self, action: str, subject: str, before: dict[str, Any] | None, after: dict[str, Any]
    ) -> Act:
        """The row of the audit log."""
        signer = self.signer or self.actor
        return Act(signer, action, subject, before, after, self.reason, self.request_id)


@dataclass(frozen=True, slots=True)
class Terms:
    """What can be set on an account: None leaves the tier or the mode as it is.

    The monthly cap, in micro-credits, is set when `cap_given`; None is no cap then.
    """

    tier: str | None = None
    demo: bool | None = None
    cap_micro: int | None = None
    cap_given: bool = False


async def open_account(
    connection: Connection,
    account_id: str,
    terms: Terms,
    welcome: GrantRequest | None,
    admin: Admin,
) -> None:
    """Creates an account; `terms` name its tier. Raises Failure as `create_account` does."""
    assert terms.tier is not None  # noqa: S101 - a new account has one
    demo = bool(terms.demo)
    await create_account(connection, account_id, tier=terms.tier, demo=demo, welcome=welcome)
    if terms.cap_micro is not None:
        await connection.execute(SQL.set_cap, account_id, terms.cap_micro)
    after = {"tier": terms.tier, "demo": demo, "monthly_cap_micro": terms.cap_micro}
    await note(connection, admin.act("create_account", account_id, None, after))


async def set_terms(connection: Connection, account_id: str, terms: Terms, admin: Admin) -> bool:
    """Sets what is given; False when there is no such account. Raises Failure for an unknown tier.

    It holds for decisions and charges from now on.
    """
    before = await connection.fetchrow(SQL.lock_terms, account_id)
    if before is None:
        return False
    if terms.tier is not None or terms.demo is not None:
        await change_account(connection, account_id, tier=terms.tier, demo=terms.demo)
    if terms.cap_given:
        await connection.execute(SQL.set_cap, account_id, terms.cap_micro)
    after = await connection.fetchrow(SQL.lock_terms, account_id)
    assert after is not None  # noqa: S101 - it is locked
    await note(connection, admin.act("set_account", account_id, dict(before), dict(after)))
    return True


async def allocate(connection: Connection, request: GrantRequest, admin: Admin) -> Granted:
    """Gives a grant; one that its key gave before is no new act. Raises Failure as `give` does."""
    granted = await give(connection, request)
    if granted.repeated:
        return granted
    before = {"balance_micro": granted.balance_after_micro - granted.amount_micro}
    after = {"balance_micro": granted.balance_after_micro, "grant_id": granted.grant_id}
    await note(connection, admin.act("grant", request.account_id, before, after))
    return granted


async def make_coupon(connection: Connection, coupon: NewCoupon, admin: Admin) -> None:
    """Makes a coupon. Raises Failure when the code is taken."""
    await create_coupon(connection, coupon)
    after = {
        "kind": coupon.kind.value,
        "amount_micro": coupon.amount_micro,
        "percent_micro": coupon.percent_micro,
        "uses_max": coupon.uses_max,
        "account_uses_max": coupon.account_uses_max,
        "grant_days": coupon.grant_days,
        "expires_at": coupon.expires_at,
    }
    await note(connection, admin.act("create_coupon", coupon.code, None, after))


async def withdraw_coupon(connection: Connection, code: str, admin: Admin) -> None:
    """Nobody can use the coupon any more. Raises Failure when there is no such coupon."""
    disabled_at = await disable_coupon(connection, code)
    await note(connection, admin.act("disable_coupon", code, None, {"disabled_at": disabled_at}))


async def redeem_for(
    connection: Connection, code: str, account_id: str, admin: Admin
) -> Redeemed | CouponRefusal | None:
    """Redeems a coupon of a fixed amount on behalf of an account; answers as `redeem` does."""
    done = await redeem(connection, code, account_id, admin.actor)
    if isinstance(done, Redeemed):
        given = done.granted
        before = {"balance_micro": given.balance_after_micro - given.amount_micro}
        after = {"balance_micro": given.balance_after_micro, "code": code}
        await note(connection, admin.act("redeem_coupon", account_id, before, after))
    return done
