"""The paths and field names of the source document in camelCase (003), as thin aliases.

Amounts are JSON numbers here, and what is not valid is a 400 (G1).
"""

from datetime import UTC, datetime, timedelta
from typing import Annotated

from fastapi import APIRouter, Query, Request
from fastapi.responses import Response
from pydantic import BaseModel, ConfigDict, Field
from pydantic.alias_generators import to_camel

from adapters.account_view import Row, list_grants
from adapters.accounts import Granted, GrantRequest
from adapters.gate import Gate
from adapters.postgres import Connection
from adapters.proposals import Proposal
from api.amounts import Credits, NumberCredits, to_micro
from api.callers import AdminCaller, AnyCaller
from api.compat import BadRequestRoute, allocate_to_anyone, whose
from api.database import UsedDatabase
from api.fields import AccountName, Reason
from api.keys import IdempotencyKey
from api.problems import ProblemDocument
from api.proposed import PROPOSED, ProposalView, change_or_propose, proposal_view
from api.routes.accounts import known_profile
from api.routes.admin import admin_of
from api.routes.gate import CheckRequest
from api.usage import Strict

router = APIRouter(
    prefix="/api/credits",
    route_class=BadRequestRoute,
    responses={400: {"model": ProblemDocument, "description": "The request is not valid"}},
)
ALLOCATIONS_MAX = 500


class Camel(BaseModel):
    """An answer whose names are in camelCase on the wire."""

    model_config = ConfigDict(
        alias_generator=to_camel, populate_by_name=True, serialize_by_alias=True
    )


class CamelCheckBody(CheckRequest):
    """How many credits the work may cost; services and admins name the account."""

    user_id: AccountName | None = Field(None, alias="userId")


class CamelCheckAnswer(BaseModel):
    """Whether the work may start."""

    sufficient: bool
    message: str = Field(examples=["Sufficient credits"])


class Allocation(Camel):
    """Credits that were given."""

    id: int
    user_id: str
    total_credits: NumberCredits
    remaining_credits: NumberCredits
    allocated_by: str
    allocated_at: datetime
    expires_at: datetime | None
    notes: str


class CamelBalanceAnswer(Camel):
    """What can be drawn: the allocations that have not expired, less any overdraft."""

    total_credits: NumberCredits
    active_allocations: list[Allocation]


class CamelAllocateBody(Strict):
    """Credits for an account, which is created if need be."""

    user_id: AccountName = Field(alias="userId")
    credits: Credits
    expiry_days: int | None = Field(None, alias="expiryDays", ge=1, le=3_650)
    notes: Reason = ""


@router.get("/balance", tags=["accounts", "compatible"])
async def camel_balance(
    caller: AnyCaller,
    database: UsedDatabase,
    user_id: Annotated[AccountName | None, Query(alias="userId")] = None,
) -> CamelBalanceAnswer:
    """As /api/v1/accounts/{account_id} and its grants."""
    account = whose(caller, user_id)
    profile = await known_profile(database, account)
    rows = await database.read(lambda connection: list_grants(connection, account, ALLOCATIONS_MAX))
    return CamelBalanceAnswer(
        total_credits=profile.balance_micro - profile.over_micro,
        active_allocations=[_allocation(account, row) for row in rows if not row["expired"]],
    )


@router.post("/check", tags=["gate", "compatible"])
async def camel_check(
    request: Request, caller: AnyCaller, body: CamelCheckBody
) -> CamelCheckAnswer:
    """As /api/v1/accounts/{account_id}/check."""
    gate: Gate = request.app.state.gate
    answer = await gate.check(whose(caller, body.user_id), body.micro)
    message = "Sufficient credits" if answer.denial is None else answer.denial.meaning
    return CamelCheckAnswer(sufficient=answer.sufficient, message=message)


@router.post(
    "/allocate",
    status_code=201,
    tags=["admin", "compatible"],
    response_model=Allocation,
    responses=PROPOSED,
)
async def camel_allocate(
    request: Request,
    caller: AdminCaller,
    database: UsedDatabase,
    key: IdempotencyKey,
    body: CamelAllocateBody,
) -> Response:
    """As /api/v1/admin/accounts/{account_id}/grants; an account that is not there is created."""
    now = datetime.now(UTC)
    expires_at = None if body.expiry_days is None else now + timedelta(days=body.expiry_days)
    wanted = GrantRequest(
        body.user_id,
        to_micro(body.credits),
        caller.subject,
        expires_at=expires_at,
        reason=body.notes,
    )
    admin, settings = admin_of(caller, key, body.notes), request.app.state.settings

    async def work(connection: Connection) -> Allocation | ProposalView:
        granted = await allocate_to_anyone(connection, wanted, settings, caller, admin)
        if isinstance(granted, Proposal):
            return proposal_view(granted)
        return _allocated(wanted, granted, now)

    return await change_or_propose(database, key, body.user_id, work)


def _allocation(account: str, row: Row) -> Allocation:
    return Allocation(
        id=row["grant_id"],
        user_id=account,
        total_credits=row["amount_micro"],
        remaining_credits=row["remaining_micro"],
        allocated_by=row["granted_by"],
        allocated_at=row["created_at"],
        expires_at=row["expires_at"],
        notes=row["notes"],
    )


def _allocated(wanted: GrantRequest, granted: Granted, now: datetime) -> Allocation:
    return Allocation(
        id=granted.grant_id,
        user_id=wanted.account_id,
        total_credits=granted.amount_micro,
        remaining_credits=granted.amount_micro - granted.repaid_micro,
        allocated_by=wanted.actor,
        allocated_at=now,
        expires_at=wanted.expires_at,
        notes=wanted.reason,
    )
