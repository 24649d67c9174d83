"""From the arguments of a tracking call to a usage event with an identity and a time."""

import os
import time
from collections.abc import Mapping
from datetime import UTC, datetime
from typing import TypedDict

from schemas.events import (
    EVENT_TYPE,
    NO_TOKENS,
    BilledCost,
    PowerLevel,
    ServiceTier,
    TokenCounts,
    UsageData,
    UsageEvent,
)


class Details(TypedDict, total=False):
    """What every tracking call may add. Times are aware; an `event_id` makes a retry the same.

    `unit` says what a quantity counts; `billed` is the provider's own bill.
    """

    power_level: str
    hold_id: str | None
    resource_id: str
    own_key: bool
    attributes: Mapping[str, str]
    event_id: str | None
    occurred_at: datetime | None
    service_tier: str
    unit: str
    billed: BilledCost | None


class AiDetails(Details, total=False):
    """What a call to a model may add: the parts of the input and output totals, by kind."""

    action: str
    quantity: int
    cache_read_tokens: int
    cache_write_tokens: int
    cache_write_1h_tokens: int
    reasoning_tokens: int
    audio_input_tokens: int
    audio_output_tokens: int
    image_input_tokens: int
    image_output_tokens: int
    video_input_tokens: int


class EventDetails(Details, total=False):
    """What the general call may say."""

    provider: str
    model: str
    tokens: TokenCounts
    quantity: int


_PARTS = {
    "cache_read_tokens": "cache_read",
    "cache_write_tokens": "cache_write",
    "cache_write_1h_tokens": "cache_write_1h",
    "reasoning_tokens": "reasoning",
    "audio_input_tokens": "audio_input",
    "audio_output_tokens": "audio_output",
    "image_input_tokens": "image_input",
    "image_output_tokens": "image_output",
    "video_input_tokens": "video_input",
}
_NAMES = Details.__annotations__.keys() | EventDetails.__annotations__.keys()
_POWER_LEVELS = {level.value: level for level in PowerLevel}
_SERVICE_TIERS = {tier.value: tier for tier in ServiceTier}


def new_event_id() -> str:
    """A fresh identity, 32 hexadecimal digits, sorted by time to the millisecond.

    Time first, because a claim is a row of an index: neighbours in time are neighbours there.
    """
    return f"{time.time_ns() // 1_000_000:012x}{os.urandom(10).hex()}"


def split_parts(details: dict[str, object]) -> dict[str, object]:
    """Takes the token parts out of the details of an AI call, named as `TokenCounts` names them."""
    return {_PARTS[name]: details.pop(name) for name in _PARTS.keys() & details.keys()}


def build_event(
    source: str, account_id: str, event_id: str, action: str, details: Mapping[str, object]
) -> UsageEvent:
    """The event that the arguments describe; the time is now unless given.

    Raises ValueError (pydantic's ValidationError is one) or TypeError for what is outside the
    limits of the usage event, unknown names included.
    """
    named = dict(details)
    if not named.keys() <= _NAMES:
        raise ValueError(f"no such detail: {', '.join(sorted(named.keys() - _NAMES))}")
    occurred_at = named.pop("occurred_at", None) or datetime.now(UTC)
    named.pop("event_id", None)
    tokens = named.pop("tokens", NO_TOKENS)
    level = named.pop("power_level", "balanced")
    tier = named.pop("service_tier", "standard")
    attributes = named.pop("attributes", None)
    return UsageEvent(
        specversion="1.0",
        id=event_id,
        source=source,
        type=EVENT_TYPE,
        subject=account_id,
        time=occurred_at,  # type: ignore[arg-type] # pydantic checks it
        data=UsageData(
            action=action,
            tokens=tokens,  # type: ignore[arg-type] # the same
            power_level=_POWER_LEVELS.get(level, level),  # type: ignore[call-overload]
            service_tier=_SERVICE_TIERS.get(tier, tier),  # type: ignore[call-overload]
            attributes=dict(attributes) if attributes else {},  # type: ignore[call-overload]
            **named,  # type: ignore[arg-type]
        ),
    )
