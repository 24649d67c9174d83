"""Where a record of the topic stands in the ledger, and whether a replay sends it again.

Pure: the claim, the dead letter and the position are arguments.
"""

from dataclasses import dataclass
from datetime import datetime
from enum import StrEnum

from schemas.reasons import Reason


class Standing(StrEnum):
    """What the ledger knows of a record: one record, one standing."""

    CHARGED = "charged"
    CONFLICT = "conflict"
    WAITING = "waiting"
    PARKED = "parked"
    SENT_AGAIN = "sent_again"
    DEAD = "dead_letter"
    NOT_CHARGED = "not_charged"
    UNREADABLE = "unreadable"
    CUT = "cut"

    @property
    def meaning(self) -> str:
        """One sentence for people."""
        return _MEANINGS[self]


_MEANINGS = {
    Standing.CHARGED: "the event has been charged, with this payload",
    Standing.CONFLICT: "the id has been charged with another payload",
    Standing.WAITING: "the raters have not come to it yet",
    Standing.PARKED: "has no price yet; is charged by itself once a version prices it",
    Standing.SENT_AGAIN: "a dead letter that was sent again before",
    Standing.DEAD: "a dead letter, but can be read",
    Standing.NOT_CHARGED: "the ledger knows nothing of it",
    Standing.UNREADABLE: "its bytes are no usage event that was in time",
    Standing.CUT: "its bytes are not whole, or too many",
}

_NEW_TO_THE_LEDGER = frozenset({Standing.DEAD, Standing.NOT_CHARGED})
_NEVER_SENT = frozenset({Standing.UNREADABLE, Standing.CUT})


@dataclass(frozen=True, slots=True)
class Letter:
    """The newest dead letter of the same bytes.

    `first_at` is when Kafka appended these bytes for the first time, as far as letters tell.
    """

    dead_letter_id: int
    reason: Reason
    requeued: bool
    first_at: datetime | None = None


def standing_of(
    payload_hash: int, claimed_hash: int | None, letter: Letter | None, *, waiting: bool
) -> Standing:
    """The standing of a record that can be read.

    `claimed_hash` is the payload hash of a charge of the same (account, id). A claim outranks
    everything: what was charged is charged, whatever died of it before.
    """
    if claimed_hash is not None:
        return Standing.CHARGED if claimed_hash == payload_hash else Standing.CONFLICT
    if letter is None:
        return Standing.WAITING if waiting else Standing.NOT_CHARGED
    if letter.requeued:
        return Standing.SENT_AGAIN
    return Standing.PARKED if letter.reason is Reason.UNPRICED else Standing.DEAD


def is_sent(standing: Standing, *, everything: bool) -> bool:
    """Whether a replay sends a record of this standing.

    What can not be read is never sent: it could only become the same dead letter once more.
    """
    if everything:
        return standing not in _NEVER_SENT
    return standing in _NEW_TO_THE_LEDGER
