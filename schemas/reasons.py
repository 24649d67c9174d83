"""Why a record is a dead letter: the closed set of reasons, and the value that carries one."""

from dataclasses import dataclass
from enum import StrEnum


class Reason(StrEnum):
    """The closed set of reasons, in the order in which they are looked for: one record, one reason.

    The value is what is stored, published and counted: a value is never renamed.
    """

    TOO_LARGE = "too_large"
    BAD_JSON = "bad_json"
    FUTURE_SCHEMA = "future_schema"
    UNKNOWN_TYPE = "unknown_type"
    INVALID = "invalid"
    NEGATIVE = "negative"
    INCONSISTENT = "inconsistent"
    KEY_MISMATCH = "key_mismatch"
    TOO_OLD = "too_old"
    FUTURE_TIME = "future_time"
    DUP_MISMATCH = "dup_mismatch"
    UNPRICED = "unpriced"
    UNKNOWN_ACCOUNT = "unknown_account"
    UNPROCESSABLE = "unprocessable"

    @property
    def meaning(self) -> str:
        """One sentence for people: what is wrong with the record."""
        return _MEANINGS[self]


_MEANINGS = {
    Reason.TOO_LARGE: "the value has more than 65,536 bytes",
    Reason.BAD_JSON: "the value is empty, or not one JSON object in strict UTF-8, or too deep",
    Reason.FUTURE_SCHEMA: "a version of the usage event that this release does not know yet",
    Reason.UNKNOWN_TYPE: "the type is not that of a usage event",
    Reason.INVALID: "a field is missing, has the wrong type, or exceeds its limits",
    Reason.NEGATIVE: "a count is below zero",
    Reason.INCONSISTENT: "the parts of the tokens exceed their total",
    Reason.KEY_MISMATCH: "the key of the record is missing or is not the subject of the event",
    Reason.TOO_OLD: "the time is too long before the time at which Kafka appended the record",
    Reason.FUTURE_TIME: "the time is too far after the time at which Kafka appended the record",
    Reason.DUP_MISMATCH: "the account has been charged for this id with another payload",
    Reason.UNPRICED: "the price book in force at the event's time has no price for it",
    Reason.UNKNOWN_ACCOUNT: "no such account, and accounts are not created by events",
    Reason.UNPROCESSABLE: "processing this one record failed in a way that has no other reason",
}


@dataclass(frozen=True, slots=True)
class Rejected:
    """A record that is not charged: a value, never an exception.

    `detail` is printable ASCII of at most 300 characters and holds nothing of the record itself
    but the name of an unknown kind of token, when that is a plain word.
    `account_id` and `event_id` are what the record claims, only when valid; else None. `model` is
    provider/model (or the action) of an event that could be read, so that letters can be chosen
    by it.
    """

    reason: Reason
    detail: str
    account_id: str | None = None
    event_id: str | None = None
    model: str | None = None
