"""Routes that give credits: what one admin may not give alone is answered by a proposal, 202."""

import json
from collections.abc import Awaitable, Callable
from datetime import datetime
from typing import Annotated, Any

from fastapi import Depends, Request
from fastapi.responses import Response
from pydantic import BaseModel, Field

from adapters.dual_control import Policy, policy_of
from adapters.idempotency import Key
from adapters.postgres import Connection
from adapters.proposals import Proposal, ProposalKind
from api.amounts import ShownCredits
from api.database import Database
from core.dual_control import ProposalState


class ProposalView(BaseModel):
    """A gift that waits for a second admin, or waited; of a coupon `credits` are of one use."""

    proposal_id: int = Field(examples=[1])
    kind: ProposalKind
    state: ProposalState
    account_id: str | None = Field(examples=["acme"], description="null for a coupon")
    credits: ShownCredits
    terms: dict[str, Any] = Field(
        examples=[{"priority": 100, "expires_at": None}], description="what else was asked for"
    )
    reason: str
    proposed_by: str
    proposed_at: datetime
    expires_at: datetime
    decided_by: str | None
    decided_at: datetime | None
    decision: str = Field(description="why it was decided so")
    transaction_id: int | None = Field(description="what an approved one booked")


PROPOSED: dict[int | str, dict[str, Any]] = {
    202: {"model": ProposalView, "description": "Too much for one admin: it waits for another one"}
}
Answer = Callable[[Connection], Awaitable[BaseModel]]


async def _policy(request: Request) -> Policy:  # async: FastAPI runs a `def` in a thread
    return policy_of(request.app.state.settings)


UsedPolicy = Annotated[Policy, Depends(_policy)]


async def change_or_propose(
    database: Database, key: Key | None, account_id: str | None, work: Answer, status: int = 201
) -> Response:
    """As `Database.change`; 202 with its address when the work answered with a proposal."""
    response = await database.change(key, account_id, work, status=status)
    proposal_id = json.loads(bytes(response.body)).get("proposal_id")
    if proposal_id is not None:
        response.status_code = 202
        response.headers["Location"] = f"/api/v1/admin/proposals/{proposal_id}"
    return response


def proposal_view(proposal: Proposal) -> ProposalView:
    """The proposal as it is answered."""
    return ProposalView(**_fields(proposal))


def _fields(proposal: Proposal) -> dict[str, Any]:
    names = set(ProposalView.model_fields) - {"credits", "terms"}
    terms = {name: value for name, value in proposal.terms.items() if not name.endswith("_micro")}
    fields = {name: getattr(proposal, name) for name in names}
    return {**fields, "credits": proposal.amount_micro, "terms": terms}
