"""The usage event: what an app reports, with the limits of every field."""

import re
from dataclasses import field
from datetime import UTC, datetime
from enum import StrEnum
from typing import Annotated, Final, Literal, Self

from pydantic import AwareDatetime, BeforeValidator, ConfigDict, Field, model_validator
from pydantic.dataclasses import dataclass
from pydantic_core import PydanticCustomError

from schemas.names import AccountId, Identifier

EVENT_TYPE: Final = "tollgate.usage.v1"
TOKENS_MAX: Final = 10**9
QUANTITY_MAX: Final = 10**12
ATTRIBUTES_MAX: Final = 16

_RFC_3339 = re.compile(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d(?:\.\d{1,9})?(?:Z|[+-]\d\d:\d\d)", re.ASCII)
_CONFIG = ConfigDict(strict=True, extra="ignore")
# A kind of token that is not known here would be used and not paid: it is refused, not ignored.
_CLOSED = ConfigDict(strict=True, extra="forbid")


def _utc(moment: object) -> object:
    """Text only as RFC 3339 (pydantic alone takes Unix seconds too); digits past 1 us are cut."""
    if isinstance(moment, str):
        if _RFC_3339.fullmatch(moment) is None:
            raise PydanticCustomError(
                "time", "a time is RFC 3339 with T and a zone, as 2026-11-21T09:00:00.123Z"
            )
        moment = datetime.fromisoformat(moment)
    if isinstance(moment, datetime) and moment.tzinfo is not None:
        try:
            return moment.astimezone(UTC)
        except OverflowError:
            raise PydanticCustomError("time", "outside the years 1 to 9999 in UTC") from None
    return moment


def _few(attributes: object) -> object:
    """Counts before it looks inside: 10,000 bad attributes are one error, not 10,000."""
    if isinstance(attributes, dict) and len(attributes) > ATTRIBUTES_MAX:
        raise PydanticCustomError("too_many", "more than 16 attributes")
    return attributes


# Printable ASCII without space and backslash: the text \N would be NULL in ClickHouse's CSV.
Reference = Annotated[str, Field(max_length=256, pattern=r"^[!-\[\]-~]*$")]
Action = Annotated[str, Field(min_length=1, max_length=64, pattern=r"^[a-z0-9_.:-]+$")]
Provider = Annotated[str, Field(max_length=64, pattern=r"^[A-Za-z0-9_.:/@+~-]*$")]
Model = Annotated[str, Field(max_length=200, pattern=r"^[A-Za-z0-9_.:/@+~-]*$")]
AttributeName = Annotated[str, Field(pattern=r"^[A-Za-z0-9_.:-]{1,64}$")]
AttributeText = Annotated[str, Field(max_length=256, pattern=r"^\P{Cc}*$")]
Attributes = Annotated[
    dict[AttributeName, AttributeText],
    Field(max_length=ATTRIBUTES_MAX, json_schema_extra={"additionalProperties": False}),
    BeforeValidator(_few),
]
Tokens = Annotated[int, Field(ge=0, le=TOKENS_MAX)]
Quantity = Annotated[int, Field(ge=0, le=QUANTITY_MAX)]
Unit = Annotated[str, Field(max_length=32, pattern=r"^[a-z0-9_]*$")]
Currency = Annotated[str, Field(pattern=r"^[A-Z]{3}$")]
# Text, so that no float comes near it; with 12 decimals it fits 64 bits.
Amount = Annotated[str, Field(pattern=r"^[0-9]{1,6}(\.[0-9]{1,12})?$")]
Time = Annotated[AwareDatetime, BeforeValidator(_utc)]


class PowerLevel(StrEnum):
    """How much power the account asked for; the price book has a multiplier for each."""

    ECO = "eco"
    BALANCED = "balanced"
    PRECISION = "precision"


class ServiceTier(StrEnum):
    """How the provider was asked to process the request; its prices differ by it."""

    STANDARD = "standard"
    BATCH = "batch"
    FLEX = "flex"
    PRIORITY = "priority"
    FAST = "fast"


@dataclass(frozen=True, slots=True, config=_CLOSED)
class BilledCost:
    """What the provider itself billed for the work, a decimal in a currency (ISO 4217)."""

    amount: Amount
    currency: Currency = "USD"


@dataclass(frozen=True, slots=True, config=_CLOSED)
class TokenCounts:
    """Tokens by kind. `input` and `output` are totals; the other kinds are parts of them.

    cache_read + cache_write + audio_input + image_input + video_input <= input: the five are
    disjoint, a cached audio token counts as cached. cache_write_1h <= cache_write: it is the part
    of the writes that is kept for an hour. reasoning + audio_output + image_output <= output:
    disjoint. Each is at most 10^9. A kind that is not listed here is refused.
    """

    input: Tokens = 0
    output: Tokens = 0
    cache_read: Tokens = 0
    cache_write: Tokens = 0
    cache_write_1h: Tokens = 0
    reasoning: Tokens = 0
    audio_input: Tokens = 0
    audio_output: Tokens = 0
    image_input: Tokens = 0
    image_output: Tokens = 0
    video_input: Tokens = 0

    @model_validator(mode="after")
    def _parts_within_totals(self) -> Self:
        media = self.audio_input + self.image_input + self.video_input
        if self.cache_read + self.cache_write + media > self.input:
            raise PydanticCustomError("inconsistent", "parts of the input exceed input")
        if self.reasoning + self.audio_output + self.image_output > self.output:
            raise PydanticCustomError("inconsistent", "parts of the output exceed output")
        if self.cache_write_1h > self.cache_write:
            raise PydanticCustomError("inconsistent", "cache_write_1h exceeds cache_write")
        return self


NO_TOKENS: Final = TokenCounts()


@dataclass(frozen=True, slots=True, config=_CONFIG)
class UsageData:
    """What is priced and what analysts group by. Every field has a default; unknown are ignored.

    `unit` says what `quantity` counts (seconds, images, bytes); with it, a price for another unit
    does not apply. `billed` is the provider's own bill, charged only where the price book says so.
    """

    action: Action = "ai_completion"
    provider: Provider = ""
    model: Model = ""
    tokens: TokenCounts = NO_TOKENS
    quantity: Quantity = 1
    power_level: PowerLevel = PowerLevel.BALANCED
    hold_id: Identifier | None = None
    resource_id: Reference = ""
    own_key: bool = False
    attributes: Attributes = field(default_factory=dict)
    service_tier: ServiceTier = ServiceTier.STANDARD
    unit: Unit = ""
    billed: BilledCost | None = None


@dataclass(frozen=True, slots=True, config=_CONFIG)
class UsageEvent:
    """One CloudEvents 1.0 usage event. Its identity is (subject, id); the time is no part of it.

    Raises pydantic.ValidationError when constructed with a value outside the limits. `time` is
    aware, in UTC, in whole microseconds.
    """

    specversion: Literal["1.0"]
    id: Identifier
    source: Annotated[Reference, Field(min_length=1)]
    type: Literal["tollgate.usage.v1"]
    subject: AccountId
    time: Time
    data: UsageData


def priced_as(data: UsageData) -> str:
    """What an event is about, for people: provider/model, or the action when there is no model."""
    if not data.model:
        return data.action
    return f"{data.provider}/{data.model}" if data.provider else data.model
