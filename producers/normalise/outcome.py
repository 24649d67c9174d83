"""What a provider's usage becomes: lines to publish, or one reason why it cannot be known."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from enum import StrEnum

from schemas.events import NO_TOKENS, BilledCost, ServiceTier, TokenCounts


class Refusal(StrEnum):
    """The closed set of reasons why usage is not normalised. A value is never renamed."""

    USAGE_MISSING = "usage_missing"
    UNREADABLE = "unreadable"
    INCOMPLETE = "incomplete"
    UNKNOWN_UNITS = "unknown_units"
    NOT_A_COUNT = "not_a_count"
    CONTRADICTING = "contradicting"
    PARTS_EXCEED_TOTAL = "parts_exceed_total"
    OVERLAP_UNKNOWN = "overlap_unknown"
    UNKNOWN_PROVIDER = "unknown_provider"
    UNKNOWN_MODEL = "unknown_model"
    UNKNOWN_TIER = "unknown_tier"

    @property
    def meaning(self) -> str:
        """One sentence for people: what cannot be known."""
        return _MEANINGS[self]


_MEANINGS = {
    Refusal.USAGE_MISSING: "there is no usage in it, as in a stream without include_usage",
    Refusal.UNREADABLE: "it is no response, no usage object and no list of stream events",
    Refusal.INCOMPLETE: "a total is missing: input without output, a stream that was cut off",
    Refusal.UNKNOWN_UNITS: "something was counted that no price is known to be for",
    Refusal.NOT_A_COUNT: "a count is no whole number from 0 to 1,000,000,000, a bill no decimal",
    Refusal.CONTRADICTING: "two figures of it cannot both be true",
    Refusal.PARTS_EXCEED_TOTAL: "the parts exceed their total, as reasoning above output",
    Refusal.OVERLAP_UNKNOWN: "two kinds may count the same tokens, and nothing says how many",
    Refusal.UNKNOWN_PROVIDER: "neither the caller nor the host says who the provider is",
    Refusal.UNKNOWN_MODEL: "neither the response nor the request names a model",
    Refusal.UNKNOWN_TIER: "it was processed in a way that no price is known for",
}


@dataclass(frozen=True, slots=True)
class Refused:
    """Usage that cannot be known. `detail` is printable ASCII and quotes no value of the usage."""

    reason: Refusal
    detail: str


@dataclass(frozen=True, slots=True)
class Line:
    """One thing that the provider bills: tokens of a model, or a quantity of an action.

    With tokens, `action` is empty (the caller's action applies) and `model` is set. A line of
    another unit has an action, a unit and a quantity, and no model: an event without tokens under
    a model that has a token price would be free.
    `suffix` tells the lines of one response apart, the same on every reading; the first has none.
    """

    provider: str
    model: str = ""
    tokens: TokenCounts = NO_TOKENS
    service_tier: ServiceTier = ServiceTier.STANDARD
    billed: BilledCost | None = None
    action: str = ""
    quantity: int = 1
    unit: str = ""
    suffix: str = ""
    attributes: Mapping[str, str] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class Normalised:
    """The lines of one response, at least one, and the provider's own id of it, if any.

    The id is for looking things up; providers repeat ids, so it is no identity of an event.
    """

    lines: tuple[Line, ...]
    response_id: str = ""
