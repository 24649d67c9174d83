"""Proposals: gifts that wait for a second admin, as PostgreSQL has them. Decided once, for ever."""

import json
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import datetime
from enum import StrEnum
from typing import Any

from adapters.accounts import SQL as ACCOUNTS
from adapters.postgres import Connection
from adapters.queries import load
from core.dual_control import ProposalState

SQL = load("proposals")


class ProposalKind(StrEnum):
    """What is to be done."""

    GRANT = "grant"
    ADJUSTMENT = "adjustment"
    COUPON = "coupon"


@dataclass(frozen=True, slots=True)
class NewProposal:
    """What an admin asks for. `terms` are what its kind has beside the amount, as JSON has it."""

    kind: ProposalKind
    account_id: str | None
    amount_micro: int
    terms: Mapping[str, Any]
    reason: str
    proposed_by: str
    request_id: str = ""
    key: str | None = None


@dataclass(frozen=True, slots=True)
class Proposal:
    """A proposal as it stands; one that waited longer than it may is expired.

    `decided_at` of an expired one is None until somebody tried to decide on it.
    """

    proposal_id: int
    kind: ProposalKind
    state: ProposalState
    account_id: str | None
    amount_micro: int
    terms: dict[str, Any]
    reason: str
    key: str | None
    proposed_by: str
    proposed_at: datetime
    expires_at: datetime
    decided_by: str | None
    decided_at: datetime | None
    decision: str
    transaction_id: int | None

    @property
    def subject(self) -> str:
        """The account, or the coupon's code."""
        return str(self.account_id or self.terms.get("code", ""))


async def add(connection: Connection, proposal: NewProposal, days: int) -> Proposal:
    """Writes it down, in the caller's transaction; it is over after so many days."""
    proposal_id = await connection.fetchval(
        SQL.add_proposal,
        proposal.kind.value,
        proposal.account_id,
        proposal.amount_micro,
        json.dumps(proposal.terms, sort_keys=True),
        proposal.reason,
        proposal.key,
        proposal.proposed_by,
        proposal.request_id,
        days,
    )
    made = await read(connection, proposal_id)
    assert made is not None  # noqa: S101 - this transaction has written it
    return made


async def read(connection: Connection, proposal_id: int) -> Proposal | None:
    """The proposal, or None."""
    row = await connection.fetchrow(SQL.read_proposal, proposal_id)
    return None if row is None else _proposal(row)


async def read_by_key(connection: Connection, key: str) -> Proposal | None:
    """The proposal of a grant that was asked for with this key."""
    proposal_id = await connection.fetchval(SQL.find_by_key, key)
    return None if proposal_id is None else await read(connection, proposal_id)


async def lock(connection: Connection, proposal_id: int) -> Proposal | None:
    """The proposal, which nobody else decides on until this transaction ends; its account is
    locked before it. None: there is none.
    """
    found = await read(connection, proposal_id)
    if found is None:
        return None
    if found.account_id is not None:
        await connection.execute(ACCOUNTS.lock_account, found.account_id)
    await connection.execute(SQL.lock_proposal, proposal_id)
    return await read(connection, proposal_id)


async def decide(
    connection: Connection,
    proposal: Proposal,
    state: ProposalState,
    by: str,
    why: str,
    transaction_id: int | None = None,
) -> Proposal:
    """Writes down what became of a locked, pending proposal."""
    await connection.execute(SQL.decide, proposal.proposal_id, state.value, by, why, transaction_id)
    decided = await read(connection, proposal.proposal_id)
    assert decided is not None  # noqa: S101 - it is locked
    return decided


async def list_proposals(
    connection: Connection,
    *,
    state: ProposalState | None = None,
    account_id: str | None = None,
    below_id: int | None = None,
    proposals_max: int = 50,
) -> list[Proposal]:
    """The newest first; `below_id` is the last one of the page before."""
    rows = await connection.fetch(
        SQL.list_proposals,
        None if state is None else state.value,
        account_id,
        below_id,
        proposals_max,
    )
    return [_proposal(row) for row in rows]


async def count_pending(connection: Connection) -> int:
    """How many wait for a decision."""
    waiting: int = await connection.fetchval(SQL.count_pending)
    return waiting


def _proposal(row: Mapping[str, Any]) -> Proposal:
    return Proposal(
        **{
            **dict(row),
            "kind": ProposalKind(row["kind"]),
            "state": ProposalState(row["state"]),
            "terms": json.loads(row["terms"]),
        }
    )
