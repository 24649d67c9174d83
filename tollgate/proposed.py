"""What commands say about gifts that wait for a second admin."""

import asyncio
from typing import TYPE_CHECKING

from core.dual_control import ProposalState

if TYPE_CHECKING:
    from adapters.proposals import Proposal


def tell_proposal(proposal: "Proposal", *, as_json: bool) -> None:
    """Where the proposal stands, and for one that waits, what is to be done."""
    from dataclasses import asdict

    from tollgate.output import print_json, say, time_text

    if as_json:
        print_json(asdict(proposal))
        return
    line = f"proposal {proposal.proposal_id}: {what(proposal)}"
    if proposal.state is ProposalState.PENDING:
        say(
            f"{line} wait for another admin until {time_text(proposal.expires_at)} UTC: "
            f"tollgate proposal approve {proposal.proposal_id}"
        )
        return
    by = "" if proposal.decided_by is None else f" by {proposal.decided_by}"
    why = f": {proposal.decision}" if proposal.decision else ""
    say(f"{line}, {proposal.state}{by}{why}")


def tell_known(proposal_id: int, *, as_json: bool) -> None:
    """The same of a proposal as it is now. Raises Failure when there is none."""
    tell_proposal(asyncio.run(find(proposal_id)), as_json=as_json)


async def find(proposal_id: int) -> "Proposal":
    """The proposal. Raises Failure when there is none."""
    from adapters.failures import Failure
    from adapters.proposals import read
    from adapters.reach import postgres
    from adapters.settings import load_settings

    async with postgres(load_settings(), "proposal") as connection:
        found = await read(connection, proposal_id)
    if found is None:
        raise Failure(f"no proposal {proposal_id}: see `tollgate proposal list`")
    return found


def what(proposal: "Proposal") -> str:
    """What is to be given, or taken, and where."""
    from tollgate.output import credits_text

    amount = f"{credits_text(proposal.amount_micro)} credits"
    if proposal.account_id is not None:
        return f"{amount} for {proposal.account_id}"
    uses = proposal.terms["uses_max"]
    times = "any number of" if uses is None else f"{uses:,}"
    return f"{amount}, {times} times by coupon {proposal.subject}"
