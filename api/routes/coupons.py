"""Coupons as admins make, see and withdraw them."""

from datetime import datetime
from decimal import Decimal
from typing import Annotated, Any, Literal

from fastapi import APIRouter, Path, Query
from fastapi.responses import Response
from pydantic import BaseModel, Field, model_validator

from adapters.admin_acts import withdraw_coupon
from adapters.coupons import NewCoupon, list_coupons
from adapters.dual_control import make_coupon_or_propose
from adapters.failures import Failure
from adapters.postgres import Connection
from api.amounts import Credits, OptionalShownCredits, to_micro
from api.callers import AdminCaller
from api.database import UsedDatabase
from api.fields import CODE_PATTERN, Code, Instant, Limit, Reason
from api.keys import IdempotencyKey
from api.problems import not_found
from api.proposed import PROPOSED, ProposalView, UsedPolicy, change_or_propose, proposal_view
from api.routes.accounts import PageCursor, cursor_of
from api.routes.admin import admin_of
from api.routes.purchases import in_future
from api.usage import Strict
from core.coupons import CouponKind

router = APIRouter(prefix="/api/v1/admin/coupons", tags=["admin"])
PERCENT_MAX = Decimal(1_000)


class CouponBody(Strict):
    """A coupon: either an amount of credits, or a percentage of a top-up."""

    code: Code
    credits: Credits | None = None
    percent: Credits | None = Field(None, description="of the top-up, at most 1000")
    uses_max: int | None = Field(None, ge=1, le=10**9, description="uses in all; null: no limit")
    account_uses_max: int = Field(1, ge=1, le=1_000)
    grant_days: int | None = Field(None, ge=1, le=3_650, description="what it gives lives so long")
    expires_at: Instant | None = None
    reason: Reason = ""

    @model_validator(mode="after")
    def _one_of_both(self) -> "CouponBody":
        if (self.credits is None) == (self.percent is None):
            raise ValueError("give either `credits` or `percent`")
        if self.percent is not None and self.percent > PERCENT_MAX:
            raise ValueError("`percent` is at most 1000")
        return self


class CouponView(BaseModel):
    """A coupon and how often it was used."""

    code: str
    kind: Literal["fixed", "percentage"]
    credits: OptionalShownCredits
    percent: OptionalShownCredits
    uses: int
    uses_max: int | None
    account_uses_max: int
    grant_days: int | None
    expires_at: datetime | None
    disabled_at: datetime | None
    created_by: str
    created_at: datetime


class CouponsAnswer(BaseModel):
    """The newest coupons first; `next` is the cursor of the following page."""

    coupons: list[CouponView]
    next: str | None


class CouponAnswer(BaseModel):
    """The coupon that was made or withdrawn."""

    code: str
    usable: bool


@router.post("", status_code=201, response_model=CouponAnswer, responses=PROPOSED)
async def create(
    caller: AdminCaller,
    database: UsedDatabase,
    policy: UsedPolicy,
    key: IdempotencyKey,
    body: CouponBody,
) -> Response:
    """Makes a coupon; 409 when the code is taken. 202: it waits for another admin."""
    coupon = NewCoupon(
        body.code,
        CouponKind.PERCENTAGE if body.credits is None else CouponKind.FIXED,
        caller.subject,
        amount_micro=0 if body.credits is None else to_micro(body.credits),
        percent_micro=0 if body.percent is None else to_micro(body.percent),
        uses_max=body.uses_max,
        account_uses_max=body.account_uses_max,
        grant_days=body.grant_days,
        expires_at=in_future(body.expires_at),
    )

    async def work(connection: Connection) -> CouponAnswer | ProposalView:
        admin = admin_of(caller, key, body.reason)
        proposal = await make_coupon_or_propose(connection, coupon, admin, policy)
        if proposal is not None:
            return proposal_view(proposal)
        return CouponAnswer(code=body.code, usable=True)

    return await change_or_propose(database, key, None, work)


@router.get("")
async def show(
    _: AdminCaller,
    database: UsedDatabase,
    usable: Annotated[bool, Query(description="only those that can be used now")] = False,  # noqa: FBT002 - a query parameter
    cursor: PageCursor = None,
    limit: Limit = 50,
) -> CouponsAnswer:
    """The newest coupons with their uses."""
    before = cursor_of(cursor)
    page = await database.read(
        lambda connection: list_coupons(connection, usable=usable, coupons_max=limit, before=before)
    )
    return CouponsAnswer(coupons=[_view(row) for row in page.entries], next=page.next)


@router.post("/{code}/disable", response_model=CouponAnswer)
async def disable(
    caller: AdminCaller,
    database: UsedDatabase,
    key: IdempotencyKey,
    code: Annotated[str, Path(pattern=CODE_PATTERN, examples=["SPRING-26"])],
) -> Response:
    """Withdraws a coupon; what was redeemed stays."""

    async def work(connection: Connection) -> CouponAnswer:
        try:
            await withdraw_coupon(connection, code, admin_of(caller, key, ""))
        except Failure:
            raise not_found() from None
        return CouponAnswer(code=code, usable=False)

    return await database.change(key, None, work)


def _view(row: dict[str, Any]) -> CouponView:
    fixed = row["kind"] == CouponKind.FIXED
    fields = {name: value for name, value in row.items() if not name.endswith("_micro")}
    return CouponView(
        credits=row["amount_micro"] if fixed else None,
        percent=None if fixed else row["percent_micro"],
        **fields,
    )
