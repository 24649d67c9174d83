"""The gate over HTTP: check, hold, extend, settle, release, deduct."""

from datetime import datetime
from typing import Annotated, Literal

from fastapi import APIRouter, Path, Request
from pydantic import BaseModel, Field, TypeAdapter, model_validator

from adapters.gate import Gate, HoldRequest
from adapters.gate_account import Spending
from adapters.gate_outcomes import Closed, Deducted, Denied, Held
from adapters.idempotency import Key
from api.acting import acting
from api.amounts import Credits, NonNegativeCredits, ShownCredits, shown, to_micro
from api.callers import AnyCaller, Caller, ReachableAccount, Role
from api.database import CHANGES_ACCOUNT
from api.fields import Metadata, Reason, metadata_text
from api.keys import IdempotencyKey
from api.problems import Kind, Problem, denied
from api.usage import DescribedUsage, Strict, described_event
from schemas.events import UsageData
from schemas.names import IDENTIFIER_PATTERN

_USAGE = TypeAdapter(UsageData)
router = APIRouter(prefix="/api/v1/accounts/{account_id}", tags=["gate"])

OWN_ID = "yours, if usage events name it; 403 for a user, whose holds get an id"
HoldId = Annotated[str, Path(pattern=IDENTIFIER_PATTERN, examples=["hold_7f3a"])]


class CheckRequest(Strict):
    """How many credits the work may cost. `requiredCredits` is the older name of `credits`."""

    credits: Credits | None = None
    required_credits: Credits | None = Field(None, alias="requiredCredits")

    @model_validator(mode="after")
    def _one_of_both(self) -> "CheckRequest":
        if (self.credits is None) == (self.required_credits is None):
            raise ValueError("give `credits`")
        return self

    @property
    def micro(self) -> int:
        """The amount in micro-credits."""
        amount = self.credits if self.credits is not None else self.required_credits
        assert amount is not None  # noqa: S101 - the validator
        return to_micro(amount)


class CheckAnswer(BaseModel):
    """Whether the work may start. Nothing is reserved."""

    sufficient: bool
    message: str = Field(examples=["Sufficient credits"])
    code: str = Field("", examples=["insufficient_credits"])
    available: ShownCredits


class HoldBody(Strict):
    """Credits to reserve before the work starts."""

    credits: Credits
    hold_id: str | None = Field(None, pattern=IDENTIFIER_PATTERN, description=OWN_ID)
    kind: Literal["hold", "session"] = "hold"
    live_seconds: int | None = Field(None, ge=1, le=86_400)
    metadata: Metadata = Field(default_factory=dict)


class HoldAnswer(BaseModel):
    """An open hold."""

    hold_id: str
    status: Literal["PENDING"] = "PENDING"
    kind: str
    credits: ShownCredits
    available: ShownCredits
    created_at: datetime
    expires_at: datetime


class ExtendBody(Strict):
    """More credits for work that goes on; the usage so far is what an abandoned one is charged."""

    credits: NonNegativeCredits
    usage: DescribedUsage | None = None


class SpendingBody(Strict):
    """What the work cost: credits, or the usage, which is priced as a usage event would be."""

    credits: NonNegativeCredits | None = None
    usage: DescribedUsage | None = None
    reason: Reason = ""
    metadata: Metadata = Field(default_factory=dict)

    @model_validator(mode="after")
    def _one_of_both(self) -> "SpendingBody":
        if (self.credits is None) == (self.usage is None):
            raise ValueError("give either `credits` or `usage`")
        return self


class ClosedAnswer(BaseModel):
    """A hold that has ended."""

    hold_id: str
    status: Literal["COMPLETED", "FAILED"]
    reserved: ShownCredits
    charged: ShownCredits
    balance: ShownCredits
    transaction_id: int | None


class DeductAnswer(BaseModel):
    """A charge that was booked at once."""

    charged: ShownCredits
    balance: ShownCredits
    transaction_id: int | None


@router.post("/check")
async def check(request: Request, account: ReachableAccount, body: CheckRequest) -> CheckAnswer:
    """May this account start work that costs so many credits? Answers no whenever it can not know.

    The answer is of this moment: to be sure of the credits, hold them.
    """
    return await checked(request.app.state.gate, account, body)


@router.post("/holds", status_code=201, dependencies=[CHANGES_ACCOUNT])
async def hold(
    request: Request,
    caller: AnyCaller,
    account: ReachableAccount,
    key: IdempotencyKey,
    body: HoldBody,
) -> HoldAnswer:
    """Reserves credits. A usage event that names the hold settles it; so does `settle`."""
    return await held(request.app.state.gate, caller, account, key, body)


@router.post("/holds/{hold_id}/extend", dependencies=[CHANGES_ACCOUNT])
async def extend(
    request: Request,
    caller: AnyCaller,
    account: ReachableAccount,
    hold_id: HoldId,
    key: IdempotencyKey,
    body: ExtendBody,
) -> HoldAnswer:
    """Reserves more for work that goes on, and says that it does; 0 credits only say so."""
    usage = None if body.usage is None else described_event(account, body.usage).data
    text = None if usage is None else _usage_text(usage)
    outcome = await _gate(request, caller, key).extend(
        account, hold_id, to_micro(body.credits), key, usage=text, by=_placed_by(caller)
    )
    return _held(outcome)


@router.post("/holds/{hold_id}/settle", dependencies=[CHANGES_ACCOUNT])
async def settle(
    request: Request,
    caller: AnyCaller,
    account: ReachableAccount,
    hold_id: HoldId,
    key: IdempotencyKey,
    body: SpendingBody,
) -> ClosedAnswer:
    """Charges what the work cost and frees the reserve. Do not send a usage event for it too."""
    spending = _spending(caller, account, body)
    outcome = await _gate(request, caller, key, body.reason).settle(
        hold_id, spending, key, by=_placed_by(caller)
    )
    return _closed(outcome)


@router.post("/holds/{hold_id}/release", dependencies=[CHANGES_ACCOUNT])
async def release(
    request: Request,
    caller: AnyCaller,
    account: ReachableAccount,
    hold_id: HoldId,
    key: IdempotencyKey,
) -> ClosedAnswer:
    """Frees the reserve of work that did not happen."""
    outcome = await _gate(request, caller, key).release(
        account, hold_id, caller.subject, key, by=_placed_by(caller)
    )
    return _closed(outcome)


@router.post("/deduct", dependencies=[CHANGES_ACCOUNT])
async def deduct(
    request: Request,
    caller: AnyCaller,
    account: ReachableAccount,
    key: IdempotencyKey,
    body: SpendingBody,
) -> DeductAnswer:
    """Charges at once, if the account can pay it in full."""
    outcome = await _gate(request, caller, key, body.reason).deduct(
        _spending(caller, account, body), key
    )
    if isinstance(outcome, Denied):
        raise refused(outcome)
    assert isinstance(outcome, Deducted)  # noqa: S101 - the other one
    return DeductAnswer(
        charged=outcome.amount_micro,
        balance=outcome.balance_micro,
        transaction_id=outcome.transaction_id,
    )


async def checked(gate: Gate, account: str, body: CheckRequest) -> CheckAnswer:
    """The gate's answer to a check, for whichever way the request came."""
    answer = await gate.check(account, body.micro)
    if answer.denial is None:
        message, code = "Sufficient credits", ""
    else:
        message, code = answer.denial.meaning, answer.denial.value
    return CheckAnswer(
        sufficient=answer.sufficient, message=message, code=code, available=answer.available_micro
    )


async def held(
    gate: Gate, caller: Caller, account: str, key: Key | None, body: HoldBody
) -> HoldAnswer:
    """The gate's answer to a hold, for whichever way the request came. Raises Problem.

    An id is of one hold for ever, over all accounts: a user who chose could take it from others.
    """
    if body.hold_id is not None and caller.role is Role.USER:
        title = "A user does not choose the id of a hold or a session"
        detail = "leave it out: the answer has one, and the same answer for an Idempotency-Key"
        raise Problem(403, Kind.FORBIDDEN, title, detail, code="own_id")
    wanted = HoldRequest(
        account_id=account,
        amount_micro=to_micro(body.credits),
        actor=caller.subject,
        hold_id=body.hold_id,
        kind=body.kind,
        metadata=metadata_text(body.metadata),
        live_seconds=body.live_seconds,
    )
    return _held(await gate.signed(acting(caller, key)).hold(wanted, key))


def _placed_by(caller: Caller) -> str | None:
    """Whose holds the caller may use: a user the own ones, or it would end an app's for nothing."""
    return caller.subject if caller.role is Role.USER else None


def _gate(request: Request, caller: Caller, key: Key | None, reason: str = "") -> Gate:
    """The gate, signed by the caller if that is an admin."""
    gate: Gate = request.app.state.gate
    return gate.signed(acting(caller, key, reason))


def _spending(caller: Caller, account: str, body: SpendingBody) -> Spending:
    return Spending(
        account_id=account,
        actor=caller.subject,
        amount_micro=None if body.credits is None else to_micro(body.credits),
        usage=None if body.usage is None else described_event(account, body.usage),
        reason=body.reason,
        metadata=metadata_text(body.metadata),
    )


def _held(outcome: Held | Denied) -> HoldAnswer:
    if isinstance(outcome, Denied):
        raise refused(outcome)
    return HoldAnswer(
        hold_id=outcome.hold_id,
        kind=outcome.kind,
        credits=outcome.amount_micro,
        available=outcome.available_micro,
        created_at=outcome.created_at,
        expires_at=outcome.expires_at,
    )


def _closed(outcome: Closed | Denied) -> ClosedAnswer:
    if isinstance(outcome, Denied):
        raise refused(outcome)
    return ClosedAnswer(
        hold_id=outcome.hold_id,
        status="COMPLETED" if outcome.state.status == "COMPLETED" else "FAILED",
        reserved=outcome.reserved_micro,
        charged=outcome.charged_micro,
        balance=outcome.balance_micro,
        transaction_id=outcome.transaction_id,
    )


def refused(outcome: Denied) -> Problem:
    """The gate's no, with what could have been promised."""
    detail = outcome.detail or f"{shown(outcome.promisable_micro)} credits can be promised"
    return denied(outcome.denial, detail)


def _usage_text(usage: UsageData) -> str:
    return _USAGE.dump_json(usage, exclude_defaults=True).decode()
