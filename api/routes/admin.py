"""What admins do to accounts, and what they see. Every change has its row in the audit log."""

from datetime import datetime
from typing import Annotated, Any

from fastapi import APIRouter, Query, Request
from fastapi.responses import Response
from pydantic import BaseModel, Field

from adapters.account_view import Row, read_figures, read_profile
from adapters.accounts import GrantRequest, Source
from adapters.adjustments import Adjustment
from adapters.admin_acts import Admin, Terms, open_account, set_terms
from adapters.audit_log import list_acts
from adapters.dual_control import adjust_or_propose, give_or_propose
from adapters.failures import Failure
from adapters.idempotency import Key
from adapters.postgres import Connection
from adapters.proposals import Proposal
from adapters.settings import Settings
from api.amounts import (
    Credits,
    NonNegativeCredits,
    OptionalShownCredits,
    ShownCredits,
    SignedCredits,
    to_micro,
)
from api.callers import AccountId, AdminCaller, Caller
from api.database import UsedDatabase
from api.fields import AccountName, GivenReason, Instant, Limit, Reason, Tier
from api.keys import IdempotencyKey
from api.problems import Kind, Problem, not_found
from api.proposed import PROPOSED, ProposalView, UsedPolicy, change_or_propose, proposal_view
from api.routes.purchases import GrantAnswer, grant_answer, in_future
from api.usage import Strict

router = APIRouter(prefix="/api/v1/admin", tags=["admin"])


class NewAccountBody(Strict):
    """An account; without a tier it has the deployment's default one."""

    account_id: AccountName
    tier: Tier | None = None
    demo: bool = False
    monthly_cap: NonNegativeCredits | None = None
    welcome: Annotated[bool, Field(description="give the welcome credits")] = True
    reason: Reason = ""


class AccountBody(Strict):
    """What is to change; a `monthly_cap` of null takes the cap away."""

    tier: Tier | None = None
    demo: bool | None = None
    monthly_cap: NonNegativeCredits | None = None
    reason: Reason = ""


class TermsAnswer(BaseModel):
    """An account's terms as they are now, with its balance."""

    account_id: str
    tier: str
    demo: bool
    monthly_cap: OptionalShownCredits
    balance: ShownCredits


class GrantBody(Strict):
    """Credits to give. A lower priority is drawn first."""

    credits: Credits
    priority: int = Field(100, ge=0, le=1_000)
    expires_at: Instant | None = None
    reason: Reason = ""


class AdjustmentBody(Strict):
    """Credits to give, or, below 0, to take, and why."""

    credits: SignedCredits
    reason: GivenReason = Field(examples=["refund of ticket 42"])


class AdjustmentAnswer(BaseModel):
    """What the adjustment did."""

    transaction_id: int
    credits: ShownCredits
    balance_before: ShownCredits
    balance: ShownCredits


class ActView(BaseModel):
    """One act of an admin."""

    audit_id: int
    at: datetime
    actor: str
    action: str = Field(examples=["grant"])
    subject: str = Field(examples=["acme"])
    before: dict[str, Any] | None
    after: dict[str, Any] | None
    reason: str
    request_id: str


class AuditAnswer(BaseModel):
    """A page, newest first; `next` is the `below` of the following one."""

    acts: list[ActView]
    next: int | None


class TierFigures(BaseModel):
    """The accounts of one tier."""

    tier: str
    accounts: int
    demo_accounts: int
    overdrawn_accounts: int
    balance: ShownCredits
    held: ShownCredits
    overdraft: ShownCredits
    spent_this_month: ShownCredits


class EntryFigures(BaseModel):
    """Entries of all histories since that moment, by status. Open holds of any age are pending;
    those that ended without a charge since then have failed.
    """

    since: datetime
    completed: int
    pending: int
    failed: int


class StatisticsAnswer(BaseModel):
    """Figures over all accounts as of one moment."""

    tiers: list[TierFigures]
    entries: EntryFigures
    open_holds: int
    open_sessions: int
    oldest_open_hold_touched_at: datetime | None
    usable_coupons: int
    coupon_redemptions: int
    pending_proposals: int = Field(description="large gifts that wait for a second admin")


@router.post("/accounts", status_code=201, response_model=TermsAnswer)
async def create(
    request: Request,
    caller: AdminCaller,
    database: UsedDatabase,
    key: IdempotencyKey,
    body: NewAccountBody,
) -> Response:
    """Creates an account before its first event; 409 when it exists."""
    settings: Settings = request.app.state.settings
    cap_micro = None if body.monthly_cap is None else to_micro(body.monthly_cap)
    terms = Terms(body.tier or settings.default_tier, body.demo, cap_micro)
    welcome = welcome_of(settings, body.account_id, caller) if body.welcome else None
    admin = admin_of(caller, key, body.reason)

    async def work(connection: Connection) -> TermsAnswer:
        await open_account(connection, body.account_id, terms, welcome, admin)
        return await _terms(connection, body.account_id)

    return await database.change(key, body.account_id, work, status=201)


@router.patch("/accounts/{account_id}", response_model=TermsAnswer)
async def change(
    caller: AdminCaller,
    account_id: AccountId,
    database: UsedDatabase,
    key: IdempotencyKey,
    body: AccountBody,
) -> Response:
    """Sets tier, demo mode or monthly cap, for decisions and charges from now on."""
    given = body.model_fields_set - {"reason"}
    if not given:
        raise Problem(422, Kind.INVALID, "Say what to change: `tier`, `demo` or `monthly_cap`")
    cap_micro = None if body.monthly_cap is None else to_micro(body.monthly_cap)
    terms = Terms(body.tier, body.demo, cap_micro, cap_given="monthly_cap" in given)

    async def work(connection: Connection) -> TermsAnswer:
        if not await set_terms(connection, account_id, terms, admin_of(caller, key, body.reason)):
            raise not_found()
        return await _terms(connection, account_id)

    return await database.change(key, account_id, work)


@router.post(
    "/accounts/{account_id}/grants",
    status_code=201,
    response_model=GrantAnswer,
    responses=PROPOSED,
)
async def grant(
    caller: AdminCaller,
    account_id: AccountId,
    database: UsedDatabase,
    policy: UsedPolicy,
    key: IdempotencyKey,
    body: GrantBody,
) -> Response:
    """Gives credits; overdraft is repaid first. 202: it waits for another admin."""
    request = GrantRequest(
        account_id,
        to_micro(body.credits),
        caller.subject,
        priority=body.priority,
        expires_at=in_future(body.expires_at),
        reason=body.reason,
    )

    async def work(connection: Connection) -> GrantAnswer | ProposalView:
        await require_account(connection, account_id)
        admin = admin_of(caller, key, body.reason)
        done = await give_or_propose(connection, request, admin, policy)
        return proposal_view(done) if isinstance(done, Proposal) else grant_answer(done)

    return await change_or_propose(database, key, account_id, work)


@router.post(
    "/accounts/{account_id}/adjustments",
    status_code=201,
    response_model=AdjustmentAnswer,
    responses=PROPOSED,
)
async def adjust_account(
    caller: AdminCaller,
    account_id: AccountId,
    database: UsedDatabase,
    policy: UsedPolicy,
    key: IdempotencyKey,
    body: AdjustmentBody,
) -> Response:
    """Gives or takes credits with a reason; what is taken and not there becomes overdraft.

    202: it waits for another admin.
    """
    adjustment = adjustment_of(caller, key, account_id, to_micro(body.credits), body.reason)

    async def work(connection: Connection) -> AdjustmentAnswer | ProposalView:
        adjusted = await adjust_or_propose(connection, adjustment, policy)
        if adjusted is None:
            raise not_found()
        if isinstance(adjusted, Proposal):
            return proposal_view(adjusted)
        return AdjustmentAnswer(
            transaction_id=adjusted.transaction_id,
            credits=adjusted.amount_micro,
            balance_before=adjusted.balance_before_micro,
            balance=adjusted.balance_micro,
        )

    return await change_or_propose(database, key, account_id, work)


@router.get("/audit-log")
async def audit_log(
    _: AdminCaller,
    database: UsedDatabase,
    subject: Annotated[AccountName | None, Query()] = None,
    actor: Annotated[Reason | None, Query()] = None,
    action: Annotated[Reason | None, Query(examples=["grant"])] = None,
    below: Annotated[int | None, Query(ge=1, le=2**63 - 1, description="`next` of a page")] = None,
    limit: Limit = 50,
) -> AuditAnswer:
    """Who changed what, when, from what to what, and why; newest first."""
    rows = await database.read(
        lambda connection: list_acts(
            connection,
            subject=subject,
            actor=actor,
            action=action,
            below_id=below,
            acts_max=limit + 1,
        )
    )
    following = rows[limit - 1]["audit_id"] if len(rows) > limit else None
    return AuditAnswer(acts=[ActView(**row) for row in rows[:limit]], next=following)


@router.get("/statistics")
async def statistics(_: AdminCaller, database: UsedDatabase) -> StatisticsAnswer:
    """Accounts by tier with balances, holds and this month's spend; entries of the last 30 days.

    Reads every account once, and the credit transactions of those days.
    """
    found = await database.read(read_figures)
    return StatisticsAnswer(
        tiers=[_tier(row) for row in found["tiers"]],
        entries=EntryFigures(**found["entries"]),
        open_holds=found["open_holds"],
        open_sessions=found["open_sessions"],
        oldest_open_hold_touched_at=found["oldest_touched_at"],
        usable_coupons=found["usable_coupons"],
        coupon_redemptions=found["redemptions"],
        pending_proposals=found["pending_proposals"],
    )


def admin_of(caller: Caller, key: Key | None, reason: str) -> Admin:
    """Who acts, for the audit log; the idempotency key is the request's name."""
    return Admin(caller.subject, reason, "" if key is None else key.key, caller.signer)


def adjustment_of(
    caller: Caller, key: Key | None, account_id: str, amount_micro: int, reason: str
) -> Adjustment:
    """The adjustment; a problem with 422 for one that is nothing."""
    try:
        request_id = "" if key is None else key.key
        return Adjustment(
            account_id, amount_micro, caller.subject, reason, request_id, signer=caller.signer
        )
    except Failure as error:
        raise Problem(422, Kind.INVALID, str(error)) from None


def welcome_of(settings: Settings, account_id: str, caller: Caller) -> GrantRequest | None:
    """The welcome credits of a new account, if the deployment gives any (C1)."""
    if settings.welcome_credits_micro == 0:
        return None
    amount_micro = settings.welcome_credits_micro
    return GrantRequest(account_id, amount_micro, caller.subject, source=Source.WELCOME)


async def require_account(connection: Connection, account_id: str) -> None:
    """A problem with 404 when there is no such account."""
    if await read_profile(connection, account_id) is None:
        raise not_found()


async def _terms(connection: Connection, account_id: str) -> TermsAnswer:
    profile = await read_profile(connection, account_id)
    assert profile is not None  # noqa: S101 - this transaction has changed it
    return TermsAnswer(
        account_id=account_id,
        tier=profile.tier,
        demo=profile.demo,
        monthly_cap=profile.monthly_cap_micro,
        balance=profile.balance_micro,
    )


def _tier(row: Row) -> TierFigures:
    counts = {name: row[name] for name in ("tier", "accounts", "demo_accounts")}
    return TierFigures(
        overdrawn_accounts=row["overdrawn_accounts"],
        balance=row["balance_micro"],
        held=row["held_micro"],
        overdraft=row["overdraft_micro"],
        spent_this_month=row["spent_micro"],
        **counts,
    )
