"""Streaming sessions (G5): a hold of kind `session`, under the words of streams."""

from typing import Annotated

from fastapi import APIRouter, Path, Request
from pydantic import Field

from api.amounts import Credits
from api.callers import AnyCaller, ReachableAccount
from api.database import CHANGES_ACCOUNT
from api.fields import Metadata
from api.keys import IdempotencyKey
from api.routes import gate
from api.routes.gate import (
    OWN_ID,
    ClosedAnswer,
    ExtendBody,
    HoldAnswer,
    HoldBody,
    SpendingBody,
)
from api.usage import Strict
from schemas.names import IDENTIFIER_PATTERN

router = APIRouter(
    prefix="/api/v1/accounts/{account_id}/sessions", tags=["gate"], dependencies=[CHANGES_ACCOUNT]
)

SessionId = Annotated[str, Path(pattern=IDENTIFIER_PATTERN, examples=["stream-42"])]


class SessionBody(Strict):
    """The estimate to reserve while tokens flow."""

    credits: Credits
    session_id: str | None = Field(None, pattern=IDENTIFIER_PATTERN, description=OWN_ID)
    live_seconds: int | None = Field(None, ge=1, le=86_400)
    metadata: Metadata = Field(default_factory=dict)


@router.post("", status_code=201)
async def open_session(
    request: Request,
    caller: AnyCaller,
    account: ReachableAccount,
    key: IdempotencyKey,
    body: SessionBody,
) -> HoldAnswer:
    """Reserves the estimate. The session's id is the hold's: a usage event can name it."""
    wanted = HoldBody(
        credits=body.credits,
        hold_id=body.session_id,
        kind="session",
        live_seconds=body.live_seconds,
        metadata=body.metadata,
    )
    return await gate.hold(request, caller, account, key, wanted)


@router.post("/{session_id}/extend")
async def extend_session(
    request: Request,
    caller: AnyCaller,
    account: ReachableAccount,
    session_id: SessionId,
    key: IdempotencyKey,
    body: ExtendBody,
) -> HoldAnswer:
    """Reserves more, keeps the usage so far, and says that tokens flow; 0 credits only say so."""
    return await gate.extend(request, caller, account, session_id, key, body)


@router.post("/{session_id}/finalise")
async def finalise_session(
    request: Request,
    caller: AnyCaller,
    account: ReachableAccount,
    session_id: SessionId,
    key: IdempotencyKey,
    body: SpendingBody,
) -> ClosedAnswer:
    """Charges the real count and frees the reserve. Do not send a usage event for it too."""
    return await gate.settle(request, caller, account, session_id, key, body)


@router.post("/{session_id}/abort")
async def abort_session(
    request: Request,
    caller: AnyCaller,
    account: ReachableAccount,
    session_id: SessionId,
    key: IdempotencyKey,
) -> ClosedAnswer:
    """Frees the reserve of a stream that came to nothing. One that did work is finalised."""
    return await gate.release(request, caller, account, session_id, key)
