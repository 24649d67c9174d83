"""Four eyes: which gift one admin may make alone, and who may decide on a proposal."""

from enum import StrEnum

_COMMAND = "cli:"  # what the command line puts before the name of who types


class ProposalState(StrEnum):
    """Where a proposal stands; all but the first are for ever."""

    PENDING = "pending"
    APPROVED = "approved"
    REJECTED = "rejected"
    WITHDRAWN = "withdrawn"
    EXPIRED = "expired"


class ProposalRefusal(StrEnum):
    """Why a proposal can not be decided."""

    UNKNOWN = "no_such_proposal"
    OWN = "own_proposal"
    DECIDED = "decided"
    EXPIRED = "expired"

    @property
    def meaning(self) -> str:
        """One sentence for people."""
        return _MEANINGS[self]


_MEANINGS = {
    ProposalRefusal.UNKNOWN: "No such proposal",
    ProposalRefusal.OWN: "Another admin must approve it: nobody approves the own proposal",
    ProposalRefusal.DECIDED: "The proposal is decided already",
    ProposalRefusal.EXPIRED: "The proposal has expired: propose it again",
}


def needs_another(limit_micro: int, alone_micro: int, amount_micro: int) -> bool:
    """Whether a gift goes above what one admin may move alone; a limit of 0 is none.

    `alone_micro` is what the same admin moved before, within the window that counts. Credits that
    are taken count as those that are given.
    """
    return limit_micro > 0 and alone_micro + abs(amount_micro) > limit_micro


def person(actor: str) -> str:
    """Who an actor is: the same name on the command line and in the API is one person."""
    return actor.removeprefix(_COMMAND)


def names_of(actor: str) -> list[str]:
    """Every actor that is the same person."""
    return [person(actor), _COMMAND + person(actor)]


def refusal(
    state: ProposalState, proposed_by: str, decided_by: str, *, approves: bool
) -> ProposalRefusal | None:
    """Why this admin can not decide, or None."""
    if state is ProposalState.EXPIRED:
        return ProposalRefusal.EXPIRED
    if state is not ProposalState.PENDING:
        return ProposalRefusal.DECIDED
    if approves and person(proposed_by) == person(decided_by):
        return ProposalRefusal.OWN
    return None
