"""Gifts that are too large for one admin: seen, approved and rejected by others."""

import json
from typing import Annotated

from fastapi import APIRouter, Path, Query
from fastapi.responses import Response
from pydantic import BaseModel

from adapters.admin_acts import Admin
from adapters.dual_control import Decided, approve, reject
from adapters.idempotency import Key
from adapters.postgres import Connection
from adapters.proposals import Proposal, list_proposals, read
from api.amounts import OptionalShownCredits
from api.callers import AdminCaller
from api.database import Database, UsedDatabase
from api.fields import AccountName, GivenReason, Limit, Reason
from api.keys import IdempotencyKey
from api.problems import Kind, Problem, not_found
from api.proposed import ProposalView, proposal_view
from api.routes.admin import admin_of
from api.usage import Strict
from core.dual_control import ProposalRefusal, ProposalState

router = APIRouter(prefix="/api/v1/admin/proposals", tags=["admin"])
ProposalId = Annotated[int, Path(ge=1, le=2**63 - 1, examples=[1])]
_STATUS = {
    ProposalRefusal.UNKNOWN: (404, Kind.NOT_FOUND),
    ProposalRefusal.OWN: (403, Kind.FORBIDDEN),
    ProposalRefusal.DECIDED: (409, Kind.CONFLICT),
    ProposalRefusal.EXPIRED: (409, Kind.CONFLICT),
}


class ApproveBody(Strict):
    """Why it is right, for the audit log."""

    reason: Reason = ""


class RejectBody(Strict):
    """Why not, for the proposer and the audit log."""

    reason: GivenReason


class DecidedAnswer(ProposalView):
    """The decided proposal; `balance` is the account's after an approved gift."""

    balance: OptionalShownCredits


class ProposalsAnswer(BaseModel):
    """A page, newest first; `next` is the `below` of the following one."""

    proposals: list[ProposalView]
    next: int | None


@router.get("")
async def show_all(
    _: AdminCaller,
    database: UsedDatabase,
    state: Annotated[ProposalState | None, Query(description="only these")] = None,
    account_id: Annotated[AccountName | None, Query(description="only of this account")] = None,
    below: Annotated[int | None, Query(ge=1, le=2**63 - 1, description="`next` of a page")] = None,
    limit: Limit = 50,
) -> ProposalsAnswer:
    """The newest proposals; `state=pending` are those that wait for an admin."""
    found = await database.read(
        lambda connection: list_proposals(
            connection,
            state=state,
            account_id=account_id,
            below_id=below,
            proposals_max=limit + 1,
        )
    )
    following = found[limit - 1].proposal_id if len(found) > limit else None
    return ProposalsAnswer(
        proposals=[proposal_view(each) for each in found[:limit]], next=following
    )


@router.get("/{proposal_id}")
async def show(_: AdminCaller, database: UsedDatabase, proposal_id: ProposalId) -> ProposalView:
    """One proposal."""
    found = await database.read(lambda connection: read(connection, proposal_id))
    if found is None:
        raise not_found()
    return proposal_view(found)


@router.post("/{proposal_id}/approve", response_model=DecidedAnswer)
async def approve_it(
    caller: AdminCaller,
    database: UsedDatabase,
    proposal_id: ProposalId,
    key: IdempotencyKey,
    body: ApproveBody,
) -> Response:
    """Books it, once; 403 for whoever proposed it, 409 when it is decided or has expired."""
    admin = admin_of(caller, key, body.reason)
    return await _decided(database, key, proposal_id, admin, approves=True)


@router.post("/{proposal_id}/reject", response_model=DecidedAnswer)
async def reject_it(
    caller: AdminCaller,
    database: UsedDatabase,
    proposal_id: ProposalId,
    key: IdempotencyKey,
    body: RejectBody,
) -> Response:
    """Nothing is booked; whoever proposed it withdraws it so. 409 when it is decided already."""
    admin = admin_of(caller, key, body.reason)
    return await _decided(database, key, proposal_id, admin, approves=False)


async def _decided(
    database: Database, key: Key | None, proposal_id: int, admin: Admin, *, approves: bool
) -> Response:
    """An expired proposal is answered with a problem, and what was written down about it stays."""
    touched: list[str] = []

    async def work(connection: Connection) -> BaseModel:
        done = await (approve if approves else reject)(connection, proposal_id, admin)
        if isinstance(done, Decided):
            touched.append(done.proposal.subject)
            return _answer(done.proposal, done.balance_micro)
        over = await read(connection, proposal_id)
        if done is ProposalRefusal.EXPIRED and over is not None:
            return _answer(over, None)
        raise _problem(done)

    try:
        response = await database.change(key, None, work)
    finally:
        for account in touched:
            database.forget(account)
    if json.loads(bytes(response.body))["state"] == ProposalState.EXPIRED:
        raise _problem(ProposalRefusal.EXPIRED)
    return response


def _answer(proposal: Proposal, balance_micro: int | None) -> DecidedAnswer:
    return DecidedAnswer(**dict(proposal_view(proposal)), balance=balance_micro)


def _problem(refusal: ProposalRefusal) -> Problem:
    status, kind = _STATUS[refusal]
    return Problem(status, kind, refusal.meaning, code=refusal.value)
