"""Dual control: what one admin may give or take alone is booked, what is more waits for another.

Everything here runs in its caller's transaction. What counts is looked up under the account's lock,
so that of gifts at the same moment none slips through beside the others.
"""

import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass, replace
from datetime import datetime
from typing import Any, assert_never

import asyncpg

from adapters import adjustments
from adapters.accounts import SQL as ACCOUNTS
from adapters.accounts import Granted, GrantRequest, give, unknown_account
from adapters.adjustments import REASON_CHARS_MAX, Adjusted, Adjustment
from adapters.admin_acts import Admin, allocate, make_coupon
from adapters.audit_log import note
from adapters.coupons import SQL as COUPONS
from adapters.coupons import NewCoupon, create_coupon
from adapters.failures import Failure
from adapters.postgres import Connection
from adapters.proposals import (
    SQL,
    NewProposal,
    Proposal,
    ProposalKind,
    add,
    decide,
    lock,
    read_by_key,
)
from adapters.settings import Settings
from core.coupons import CouponKind
from core.dual_control import (
    ProposalRefusal,
    ProposalState,
    names_of,
    needs_another,
    person,
    refusal,
)


@dataclass(frozen=True, slots=True)
class Policy:
    """What one admin may move alone, in micro-credits (0: anything); how long proposals wait."""

    limit_micro: int
    days: int


@dataclass(frozen=True, slots=True)
class Decided:
    """A proposal that was decided on; the balance is that after an approved gift to an account."""

    proposal: Proposal
    balance_micro: int | None = None


def policy_of(settings: Settings) -> Policy:
    """The deployment's rule, as this process has it."""
    return Policy(settings.dual_control_credits_micro, settings.dual_control_days)


async def needs_two(
    connection: Connection, account_id: str, amount_micro: int, actor: str, policy: Policy
) -> bool:
    """Whether this is more than the admin may give the account, or take, alone within 24 hours.

    With a limit, the account is locked until the transaction ends.
    """
    if policy.limit_micro == 0:
        return False
    await connection.execute(ACCOUNTS.lock_account, account_id)
    alone_micro = await connection.fetchval(SQL.given_alone, account_id, names_of(actor))
    return needs_another(policy.limit_micro, alone_micro, amount_micro)


async def give_or_propose(
    connection: Connection, request: GrantRequest, admin: Admin, policy: Policy
) -> Granted | Proposal:
    """Gives a grant, or proposes it when it is too large for one admin.

    With a key it is done once, whichever of both it was. Raises Failure as `give` does.
    """
    known = await _of_key(connection, request)
    if known is not None and known.state is not ProposalState.APPROVED:
        return known
    if known is None and await needs_two(
        connection, request.account_id, request.amount_micro, request.actor, policy
    ):
        return await _proposed(connection, request, admin, policy)
    return await allocate(connection, request, admin)


async def adjust_or_propose(
    connection: Connection, adjustment: Adjustment, policy: Policy
) -> Adjusted | Proposal | None:
    """Gives or takes credits, or proposes it; None: there is no such account."""
    account_id, amount_micro = adjustment.account_id, adjustment.amount_micro
    if not await needs_two(connection, account_id, amount_micro, adjustment.actor, policy):
        return await adjustments.adjust(connection, adjustment)
    if await connection.fetchrow(ACCOUNTS.lock_account, account_id) is None:
        return None
    wanted = NewProposal(
        ProposalKind.ADJUSTMENT,
        account_id,
        amount_micro,
        {},
        adjustment.reason,
        adjustment.actor,
        adjustment.request_id,
    )
    admin = Admin(adjustment.actor, adjustment.reason, adjustment.request_id, adjustment.signer)
    return await _propose(connection, wanted, admin, policy)


async def make_coupon_or_propose(
    connection: Connection, coupon: NewCoupon, admin: Admin, policy: Policy
) -> Proposal | None:
    """Makes a coupon (None), or proposes it when it can give more than one admin may alone.

    What counts is its amount times its uses, with the coupons that the same admin made within 24
    hours; without a limit of uses it is always too much. A percentage is of what somebody paid.
    Raises Failure when the code is taken.
    """
    if policy.limit_micro and coupon.kind is CouponKind.FIXED:
        await connection.execute(SQL.lock_maker, person(coupon.actor))
        alone_micro = await connection.fetchval(SQL.made_alone, names_of(coupon.actor))
        worth_micro = coupon.amount_micro * (coupon.uses_max or 0)
        if coupon.uses_max is None or needs_another(policy.limit_micro, alone_micro, worth_micro):
            return await _proposed_coupon(connection, coupon, admin, policy)
    await make_coupon(connection, coupon, admin)
    return None


def check_allowance(changes: Mapping[str, Any], policy: Policy) -> None:
    """Raises Failure for an account's own allowance above what one admin may give alone.

    It would come again and again without anybody looking: that is the tier's, by configuration.
    """
    if needs_another(policy.limit_micro, 0, changes.get("custom_micro") or 0):
        raise Failure(
            "so large an allowance needs two: give it a tier of its own, or propose a grant"
        )


async def approve(
    connection: Connection, proposal_id: int, admin: Admin
) -> Decided | ProposalRefusal:
    """Books what was proposed, once, as if its proposer had done it now; or says why not.

    Of an expired one it is written down that it is: the caller commits that, too. Raises Failure
    when it can not be booked any more, and then it waits on.
    """
    found = await _to_decide(connection, proposal_id, admin, approves=True)
    if isinstance(found, ProposalRefusal):
        return found
    transaction_id, balance_micro = await _book(connection, found, admin)
    decided = await decide(
        connection, found, ProposalState.APPROVED, admin.actor, admin.reason, transaction_id
    )
    booked = {"transaction_id": transaction_id, "balance_micro": balance_micro}
    known = {name: value for name, value in booked.items() if value is not None}
    await _note(connection, "approve_proposal", decided, admin, known)
    return Decided(decided, balance_micro)


async def reject(
    connection: Connection, proposal_id: int, admin: Admin
) -> Decided | ProposalRefusal:
    """Nothing is booked, now or later; by its proposer it is a withdrawal.

    Raises Failure without a reason.
    """
    if not admin.reason.strip():
        raise Failure("say why: a rejection needs a reason")
    found = await _to_decide(connection, proposal_id, admin, approves=False)
    if isinstance(found, ProposalRefusal):
        return found
    own = person(found.proposed_by) == person(admin.actor)
    state = ProposalState.WITHDRAWN if own else ProposalState.REJECTED
    decided = await decide(connection, found, state, admin.actor, admin.reason)
    action = "withdraw_proposal" if own else "reject_proposal"
    await _note(connection, action, decided, admin, {})
    return Decided(decided)


async def _to_decide(
    connection: Connection, proposal_id: int, admin: Admin, *, approves: bool
) -> Proposal | ProposalRefusal:
    if not admin.reason.isprintable() or len(admin.reason) > REASON_CHARS_MAX:
        raise Failure(f"a reason is printable and at most {REASON_CHARS_MAX} characters long")
    found = await lock(connection, proposal_id)
    if found is None:
        return ProposalRefusal.UNKNOWN
    refused = refusal(found.state, found.proposed_by, admin.actor, approves=approves)
    if refused is None:
        return found
    if refused is ProposalRefusal.EXPIRED and found.decided_at is None:
        over = await decide(connection, found, ProposalState.EXPIRED, admin.actor, "")
        await _note(connection, "expire_proposal", over, replace(admin, reason=""), {})
    return refused


async def _of_key(connection: Connection, request: GrantRequest) -> Proposal | None:
    """The proposal that the key stands for; the account is locked before it is looked up."""
    if request.key is None:
        return None
    await connection.execute(ACCOUNTS.lock_account, request.account_id)
    known = await read_by_key(connection, request.key)
    if known is None:
        return None
    if (known.account_id, known.amount_micro, known.terms) != (
        request.account_id,
        request.amount_micro,
        _terms(request),
    ):
        raise _taken(request.key)
    return known


async def _proposed(
    connection: Connection, request: GrantRequest, admin: Admin, policy: Policy
) -> Proposal | Granted:
    account = await connection.fetchrow(ACCOUNTS.lock_account, request.account_id)
    if account is None:
        raise unknown_account(request.account_id)
    if request.key is not None and await connection.fetchval(ACCOUNTS.find_by_key, request.key):
        return await give(connection, request)
    wanted = NewProposal(
        ProposalKind.GRANT,
        request.account_id,
        request.amount_micro,
        _terms(request),
        request.reason,
        request.actor,
        admin.request_id,
        request.key,
    )
    try:
        async with connection.transaction():
            return await _propose(connection, wanted, admin, policy)
    except asyncpg.UniqueViolationError:
        # Another account's proposal with this key committed between our look and our insert.
        raise _taken(request.key) from None


async def _proposed_coupon(
    connection: Connection, coupon: NewCoupon, admin: Admin, policy: Policy
) -> Proposal:
    if await connection.fetchrow(COUPONS.lock_coupon, coupon.code) is not None:
        raise Failure(f"the code {coupon.code} is taken")
    terms = {name: value for name, value in asdict(coupon).items() if name != "actor"}
    terms |= {"kind": coupon.kind.value, "expires_at": _iso(coupon.expires_at)}
    wanted = NewProposal(
        ProposalKind.COUPON,
        None,
        coupon.amount_micro,
        terms,
        admin.reason,
        coupon.actor,
        admin.request_id,
    )
    return await _propose(connection, wanted, admin, policy)


async def _propose(
    connection: Connection, wanted: NewProposal, admin: Admin, policy: Policy
) -> Proposal:
    made = await add(connection, wanted, policy.days)
    after = {
        "proposal_id": made.proposal_id,
        "kind": made.kind.value,
        "amount_micro": made.amount_micro,
        "terms": made.terms,
    }
    await note(connection, admin.act("propose", made.subject, None, after))
    return made


async def _book(
    connection: Connection, proposal: Proposal, admin: Admin
) -> tuple[int | None, int | None]:
    """The transaction's number and the balance after it."""
    both = {"approved_by": admin.actor, "proposal_id": proposal.proposal_id}
    metadata = json.dumps(both, sort_keys=True)
    match proposal.kind:
        case ProposalKind.GRANT:
            request = _request(proposal, metadata)
            granted = await give(connection, request)
            return granted.transaction_id, granted.balance_after_micro
        case ProposalKind.ADJUSTMENT:
            adjustment = Adjustment(
                str(proposal.account_id),
                proposal.amount_micro,
                proposal.proposed_by,
                proposal.reason,
                metadata=metadata,
            )
            adjusted = await adjustments.book(connection, adjustment)
            assert adjusted is not None  # noqa: S101 - its account is locked
            return adjusted.transaction_id, adjusted.balance_micro
        case ProposalKind.COUPON:
            await create_coupon(connection, _coupon(proposal))
            return None, None
        case _:
            assert_never(proposal.kind)


def _request(proposal: Proposal, metadata: str) -> GrantRequest:
    return GrantRequest(
        str(proposal.account_id),
        proposal.amount_micro,
        proposal.proposed_by,
        priority=proposal.terms["priority"],
        expires_at=_time(proposal.terms["expires_at"]),
        reason=proposal.reason,
        key=proposal.key,
        metadata=metadata,
    )


def _coupon(proposal: Proposal) -> NewCoupon:
    terms = proposal.terms
    kind, expires_at = CouponKind(terms["kind"]), _time(terms["expires_at"])
    fields = {**terms, "kind": kind, "expires_at": expires_at, "actor": proposal.proposed_by}
    return NewCoupon(**fields)


def _terms(request: GrantRequest) -> dict[str, Any]:
    return {"priority": request.priority, "expires_at": _iso(request.expires_at)}


def _iso(moment: datetime | None) -> str | None:
    return None if moment is None else moment.isoformat()


def _time(text: str | None) -> datetime | None:
    return None if text is None else datetime.fromisoformat(text)


async def _note(
    connection: Connection,
    action: str,
    proposal: Proposal,
    admin: Admin,
    booked: Mapping[str, object],
) -> None:
    after = {
        "proposal_id": proposal.proposal_id,
        "state": proposal.state.value,
        "proposed_by": proposal.proposed_by,
        "amount_micro": proposal.amount_micro,
        **booked,
    }
    before = {"state": ProposalState.PENDING.value}
    await note(connection, admin.act(action, proposal.subject, before, after))


def _taken(key: str | None) -> Failure:
    return Failure(f"the key {key!r} stands for another grant: choose a new one")
