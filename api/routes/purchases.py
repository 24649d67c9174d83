"""Credits that come in: coupons by an account, top-ups by what takes the payments."""

from datetime import datetime
from typing import Annotated

from fastapi import APIRouter, Depends
from fastapi.responses import Response
from pydantic import BaseModel, Field

from adapters.accounts import Granted, GrantRequest, Source
from adapters.admin_acts import redeem_for
from adapters.admin_top_ups import TooMuch, top_up_by
from adapters.coupons import Redeemed, redeem, top_up
from adapters.postgres import Connection
from api.acting import acting
from api.amounts import Credits, ShownCredits, to_micro
from api.callers import AnyCaller, Caller, ReachableAccount, Role
from api.database import UsedDatabase
from api.fields import Code, Instant, Reason
from api.keys import IdempotencyKey
from api.problems import Kind, Problem, not_found
from api.proposed import UsedPolicy
from api.usage import Strict
from core.coupons import CouponRefusal

router = APIRouter(prefix="/api/v1/accounts/{account_id}")


class RedeemBody(Strict):
    """The code, as it was given out."""

    code: Code


class GrantAnswer(BaseModel):
    """A grant that was booked. `repaid` of it went into overdraft at once."""

    grant_id: int
    transaction_id: int
    credits: ShownCredits
    repaid: ShownCredits
    balance: ShownCredits


class TopUpBody(Strict):
    """Credits that were bought, and a coupon that adds a percentage."""

    credits: Credits
    coupon: Code | None = None
    expires_at: Instant | None = None
    reason: Reason = Field("", examples=["invoice 1042"])


class TopUpAnswer(BaseModel):
    """The purchase, and what the coupon added."""

    bought: GrantAnswer
    added: GrantAnswer | None
    balance: ShownCredits


async def _selling(caller: AnyCaller) -> Caller:
    if caller.role is Role.USER:
        raise Problem(403, Kind.FORBIDDEN, "Credits are sold by a service or an admin")
    return caller


SellingCaller = Annotated[Caller, Depends(_selling)]


@router.post("/coupons/redeem", tags=["accounts"], response_model=GrantAnswer)
async def redeem_coupon(
    caller: AnyCaller,
    account: ReachableAccount,
    database: UsedDatabase,
    key: IdempotencyKey,
    body: RedeemBody,
) -> Response:
    """Gives what the code is worth, once an account; 409 says why a code gives nothing."""
    admin = acting(caller, key)

    async def work(connection: Connection) -> GrantAnswer:
        if admin is None:
            found = await redeem(connection, body.code, account, caller.subject)
        else:
            found = await redeem_for(connection, body.code, account, admin)
        if isinstance(found, Redeemed):
            return grant_answer(found.granted)
        raise _refused(found)

    return await database.change(key, account, work)


@router.post("/top-ups", status_code=201, tags=["purchases"], response_model=TopUpAnswer)
async def buy(
    caller: SellingCaller,
    account: ReachableAccount,
    database: UsedDatabase,
    policy: UsedPolicy,
    key: IdempotencyKey,
    body: TopUpBody,
) -> Response:
    """Books bought credits, overdraft repaid first; with a coupon that does not hold, nothing.

    403 for an admin above the limit of dual control: a grant can be proposed.
    """
    request = GrantRequest(
        account,
        to_micro(body.credits),
        caller.subject,
        source=Source.TOP_UP,
        expires_at=in_future(body.expires_at),
        reason=body.reason,
    )

    admin = acting(caller, key, body.reason)

    async def work(connection: Connection) -> TopUpAnswer:
        found: tuple[Granted, Redeemed | None] | CouponRefusal | TooMuch | None
        if admin is None:
            found = await top_up(connection, request, body.coupon)
        else:
            found = await top_up_by(connection, request, body.coupon, admin, policy)
        if found is TooMuch.FOR_ONE_ADMIN:
            raise Problem(403, Kind.FORBIDDEN, "So much is sold by a service, or given by a grant")
        if not isinstance(found, tuple):
            raise _refused(found)
        bought, added = found
        last = bought if added is None else added.granted
        return TopUpAnswer(
            bought=grant_answer(bought),
            added=None if added is None else grant_answer(added.granted),
            balance=last.balance_after_micro,
        )

    return await database.change(key, account, work, status=201)


def grant_answer(granted: Granted) -> GrantAnswer:
    """The grant as it is answered."""
    return GrantAnswer(
        grant_id=granted.grant_id,
        transaction_id=granted.transaction_id,
        credits=granted.amount_micro,
        repaid=granted.repaid_micro,
        balance=granted.balance_after_micro,
    )


def in_future(expires_at: datetime | None) -> datetime | None:
    """The expiry, when it is to come; a problem with 422 when it is over."""
    if expires_at is not None and expires_at <= datetime.now(expires_at.tzinfo):
        raise Problem(422, Kind.INVALID, "`expires_at` is over already")
    return expires_at


def _refused(refusal: CouponRefusal | None) -> Problem:
    if refusal is None:
        return not_found()
    status, kind = (404, Kind.NOT_FOUND) if refusal is CouponRefusal.UNKNOWN else (409, Kind.DENIED)
    return Problem(status, kind, refusal.meaning, code=refusal.value)
