"""The paths and field names of two source documents in snake_case (000, 001), as thin aliases.

Amounts are JSON numbers here. What they do is done by the routes under /api/v1.
"""

from datetime import datetime
from enum import Enum
from typing import Annotated

from fastapi import APIRouter, Query, Request
from fastapi.responses import Response
from pydantic import BaseModel, Field

from adapters.account_view import Profile, read_profile
from adapters.accounts import GrantRequest
from adapters.dual_control import adjust_or_propose
from adapters.gate import Gate
from adapters.gate_account import Spending
from adapters.gate_outcomes import Denied
from adapters.history import Filters
from adapters.postgres import Connection
from adapters.proposals import Proposal
from api.acting import acting
from api.amounts import (
    Credits,
    NumberCredits,
    OptionalNumberCredits,
    SignedCredits,
    to_micro,
)
from api.callers import AdminCaller, AnyCaller
from api.compat import allocate_to_anyone, whose
from api.costs import answer_of, priced, read_priced
from api.database import UsedDatabase
from api.fields import AccountName, GivenReason, Limit, Metadata, Reason, metadata_text
from api.keys import IdempotencyKey
from api.problems import not_found
from api.proposed import PROPOSED, ProposalView, UsedPolicy, change_or_propose, proposal_view
from api.routes.accounts import EntryView, history_page, known_profile
from api.routes.admin import adjustment_of, admin_of
from api.routes.gate import refused
from api.routes.health import DOWN, Asked, Health, health
from api.usage import Strict, described_event, described_usage
from core.explain import Explanation
from core.rating import AccountFacts
from schemas.events import PowerLevel, Rejected

router = APIRouter()
Tags = list[str | Enum]
ACCOUNTS: Tags = ["accounts", "compatible"]
GATE: Tags = ["gate", "compatible"]
ADMIN: Tags = ["admin", "compatible"]
UserId = Annotated[AccountName | None, Query(description="the account, for services and admins")]
Tokens = Annotated[int, Field(ge=0, le=10**9)]


class BalanceAnswer(BaseModel):
    """As source 001 shows it."""

    balance: NumberCredits
    tier: str = Field(examples=["free"])
    monthly_cap: OptionalNumberCredits


class UserAnswer(BaseModel):
    """A user's profile with balance."""

    id: str = Field(examples=["acme"])
    username: str = Field(examples=["acme"])
    credits: NumberCredits
    available: NumberCredits
    tier: str = Field(examples=["free"])
    created_at: datetime


class CostBody(Strict):
    """A usage by the number of its tokens; those that are not said to be output are input."""

    tokens_used: Tokens = Field(examples=[1000])
    output_tokens: Tokens = Field(0, description="so many of tokens_used")
    model: str = Field(max_length=200, min_length=1, examples=["gpt-4o"])
    provider: str = Field("", max_length=64)
    power_level: PowerLevel = PowerLevel.BALANCED
    user_id: AccountName | None = None


class CostAnswer(BaseModel):
    """The price."""

    cost: NumberCredits


class DeductBody(Strict):
    """Credits to charge at once."""

    amount: Credits
    metadata: Metadata = Field(default_factory=dict)
    user_id: AccountName | None = None


class ChangedAnswer(BaseModel):
    """What a change came to."""

    new_balance: NumberCredits
    transaction_id: str = Field(examples=["42"])


class AllocateBody(Strict):
    """Credits for an account, which is created if need be."""

    user_id: AccountName
    amount: Credits
    reason: Reason = Field("", examples=["bonus"])


class AdjustBody(Strict):
    """Credits to give, or, below 0, to take, and why."""

    user_id: AccountName
    amount: SignedCredits
    reason: GivenReason


class TransactionView(BaseModel):
    """One entry of the history."""

    id: str
    type: str = Field(examples=["USAGE"])
    status: str = Field(examples=["COMPLETED"])
    amount: NumberCredits
    balance_after: OptionalNumberCredits
    reason: str
    created_at: datetime


class TransactionsAnswer(BaseModel):
    """A page, newest first; `next_cursor` is null on the last one."""

    transactions: list[TransactionView]
    next_cursor: str | None


@router.get("/api/health", tags=["health"], responses=DOWN)
@router.get("/api/v1/system/status", tags=["health"], responses=DOWN)
async def system_health(response: Response, dependencies: Asked) -> Health:
    """As /health."""
    return await health(response, dependencies)


@router.get("/api/users/me", tags=ACCOUNTS)
async def user_me(caller: AnyCaller, database: UsedDatabase, user_id: UserId = None) -> UserAnswer:
    """As /api/v1/me, with the balance as `credits`."""
    profile = await known_profile(database, whose(caller, user_id))
    return UserAnswer(
        id=profile.account_id,
        username=profile.account_id,
        credits=profile.balance_micro,
        available=profile.available_micro,
        tier=profile.tier,
        created_at=profile.created_at,
    )


@router.get("/api/v1/credits/balance", tags=ACCOUNTS)
async def balance(
    caller: AnyCaller, database: UsedDatabase, user_id: UserId = None
) -> BalanceAnswer:
    """As /api/v1/accounts/{account_id}."""
    profile: Profile = await known_profile(database, whose(caller, user_id))
    return BalanceAnswer(
        balance=profile.balance_micro, tier=profile.tier, monthly_cap=profile.monthly_cap_micro
    )


@router.get("/api/credits/transactions", tags=ACCOUNTS)
@router.get("/api/v1/credits/transactions", tags=ACCOUNTS)
async def transactions(
    caller: AnyCaller,
    database: UsedDatabase,
    user_id: UserId = None,
    cursor: Annotated[str | None, Query(max_length=400)] = None,
    limit: Limit = 50,
) -> TransactionsAnswer:
    """As /api/v1/accounts/{account_id}/transactions."""
    page = await history_page(database, whose(caller, user_id), Filters(), limit, cursor)
    return TransactionsAnswer(
        transactions=[_transaction(entry) for entry in page.entries], next_cursor=page.next
    )


@router.post("/api/v1/credits/calculate-cost", tags=ACCOUNTS)
async def calculate_cost(request: Request, caller: AnyCaller, body: CostBody) -> CostAnswer:
    """As /api/v1/accounts/{account_id}/calculate-cost; without an account, by the default tier."""
    account = caller.account_id if body.user_id is None else whose(caller, body.user_id)
    tokens = {"input": body.tokens_used - body.output_tokens, "output": body.output_tokens}
    fields = body.model_dump(include={"provider", "model", "power_level"}) | {"tokens": tokens}
    event = described_event(account or "nobody", described_usage(fields))

    async def work(connection: Connection) -> Explanation | Rejected:
        profile = None if account is None else await read_profile(connection, account)
        tier = request.app.state.settings.default_tier if profile is None else profile.tier
        return await priced(request, connection, event, AccountFacts(tier, demo=False))

    return CostAnswer(cost=answer_of(await read_priced(request, work)).credits)


@router.post("/api/v1/credits/deduct", tags=GATE)
async def deduct(
    request: Request,
    caller: AnyCaller,
    database: UsedDatabase,
    key: IdempotencyKey,
    body: DeductBody,
) -> ChangedAnswer:
    """As /api/v1/accounts/{account_id}/deduct."""
    account = whose(caller, body.user_id)
    gate: Gate = request.app.state.gate
    metadata = metadata_text(body.metadata)
    spending = Spending(account, caller.subject, to_micro(body.amount), metadata=metadata)
    try:
        outcome = await gate.signed(acting(caller, key)).deduct(spending, key)
    finally:
        database.forget(account)
    if isinstance(outcome, Denied):
        raise refused(outcome)
    return ChangedAnswer(
        new_balance=outcome.balance_micro, transaction_id=str(outcome.transaction_id or "")
    )


@router.post(
    "/api/v1/admin/credits/allocate",
    tags=ADMIN,
    response_model=ChangedAnswer,
    responses=PROPOSED,
)
async def allocate_credits(
    request: Request,
    caller: AdminCaller,
    database: UsedDatabase,
    key: IdempotencyKey,
    body: AllocateBody,
) -> Response:
    """As /api/v1/admin/accounts/{account_id}/grants; an account that is not there is created."""
    wanted = GrantRequest(body.user_id, to_micro(body.amount), caller.subject, reason=body.reason)
    admin, settings = admin_of(caller, key, body.reason), request.app.state.settings

    async def work(connection: Connection) -> ChangedAnswer | ProposalView:
        granted = await allocate_to_anyone(connection, wanted, settings, caller, admin)
        if isinstance(granted, Proposal):
            return proposal_view(granted)
        return ChangedAnswer(
            new_balance=granted.balance_after_micro, transaction_id=str(granted.transaction_id)
        )

    return await change_or_propose(database, key, body.user_id, work, 200)


@router.post(
    "/api/admin/credits/adjust", tags=ADMIN, response_model=ChangedAnswer, responses=PROPOSED
)
async def adjust_credits(
    caller: AdminCaller,
    database: UsedDatabase,
    policy: UsedPolicy,
    key: IdempotencyKey,
    body: AdjustBody,
) -> Response:
    """As /api/v1/admin/accounts/{account_id}/adjustments."""
    wanted = adjustment_of(caller, key, body.user_id, to_micro(body.amount), body.reason)

    async def work(connection: Connection) -> ChangedAnswer | ProposalView:
        adjusted = await adjust_or_propose(connection, wanted, policy)
        if adjusted is None:
            raise not_found()
        if isinstance(adjusted, Proposal):
            return proposal_view(adjusted)
        return ChangedAnswer(
            new_balance=adjusted.balance_micro, transaction_id=str(adjusted.transaction_id)
        )

    return await change_or_propose(database, key, body.user_id, work, 200)


def _transaction(entry: EntryView) -> TransactionView:
    return TransactionView(
        id=entry.id,
        type=entry.type,
        status=entry.status,
        amount=entry.amount,
        balance_after=entry.balance_after,
        reason=entry.reason or entry.detail,
        created_at=entry.at,
    )
