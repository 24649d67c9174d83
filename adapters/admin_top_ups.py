"""Top-ups by admins: nobody sees what was paid, so they are gifts, limited and written down."""

from enum import Enum
from typing import Any

from adapters.accounts import Granted, GrantRequest
from adapters.admin_acts import Admin
from adapters.audit_log import note
from adapters.coupons import Redeemed, top_up
from adapters.dual_control import Policy, needs_two
from adapters.postgres import Connection
from core.coupons import CouponRefusal


class TooMuch(Enum):
    """Why a purchase is none."""

    FOR_ONE_ADMIN = "for one admin"


async def top_up_by(
    connection: Connection, request: GrantRequest, code: str | None, admin: Admin, policy: Policy
) -> tuple[Granted, Redeemed | None] | CouponRefusal | TooMuch | None:
    """As `coupons.top_up`, by an admin, whose purchases are gifts: with what the coupon adds they
    are no more than one may give alone.

    To be called in a transaction, which is rolled back by whoever gets no tuple.
    """
    account_id = request.account_id
    if await needs_two(connection, account_id, request.amount_micro, admin.actor, policy):
        return TooMuch.FOR_ONE_ADMIN
    found = await top_up(connection, request, code)
    if not isinstance(found, tuple):
        return found
    if await needs_two(connection, account_id, 0, admin.actor, policy):
        return TooMuch.FOR_ONE_ADMIN
    bought, added = found
    last = bought if added is None else added.granted
    before = {"balance_micro": bought.balance_after_micro - bought.amount_micro}
    after: dict[str, Any] = {
        "balance_micro": last.balance_after_micro,
        "amount_micro": bought.amount_micro,
    }
    if added is not None:
        after = {**after, "code": added.code, "added_micro": added.granted.amount_micro}
    await note(connection, admin.act("top_up", account_id, before, after))
    return found
