"""The contract of usage events in one import: the event, decoding, encoding, hash and reasons."""

from pydantic import TypeAdapter

from schemas.decoding import ANY_TIME, VALUE_BYTES_MAX, TimeWindow, decode
from schemas.payload import payload_hash
from schemas.reasons import Reason, Rejected
from schemas.usage import (
    ATTRIBUTES_MAX,
    EVENT_TYPE,
    NO_TOKENS,
    QUANTITY_MAX,
    TOKENS_MAX,
    BilledCost,
    PowerLevel,
    ServiceTier,
    TokenCounts,
    UsageData,
    UsageEvent,
)

__all__ = [
    "ANY_TIME",
    "ATTRIBUTES_MAX",
    "EVENT_TYPE",
    "NO_TOKENS",
    "QUANTITY_MAX",
    "TOKENS_MAX",
    "VALUE_BYTES_MAX",
    "BilledCost",
    "PowerLevel",
    "Reason",
    "Rejected",
    "ServiceTier",
    "TimeWindow",
    "TokenCounts",
    "UsageData",
    "UsageEvent",
    "decode",
    "encode",
    "payload_hash",
]

_to_json = TypeAdapter(UsageEvent).serializer.to_json


def encode(event: UsageEvent) -> bytes:
    """The bytes to publish: compact UTF-8 JSON, defaults left out. `decode` gives an equal event.

    Always within the size limit: the limits of the fields add up to less.
    """
    return _to_json(event, exclude_defaults=True)
