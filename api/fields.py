"""Types of fields that several routes share, with the limits of what PostgreSQL and people take."""

import json
from datetime import UTC, datetime
from typing import Annotated, Any

from fastapi import Query
from pydantic import AfterValidator, AwareDatetime, BeforeValidator, Field

from schemas.names import AccountId
from schemas.usage import ATTRIBUTES_MAX, AttributeName, AttributeText

CODE_PATTERN = r"^[A-Z0-9_-]{3,64}$"
_YEARS = range(2000, 2200)


def _printable(text: str) -> str:
    if not text.isprintable():
        raise ValueError("only printable characters are taken")
    return text


def _few(metadata: object) -> object:
    """Counts before it looks inside: 10,000 bad fields are one error, not 40,000."""
    if isinstance(metadata, dict) and len(metadata) > ATTRIBUTES_MAX:
        raise ValueError(f"at most {ATTRIBUTES_MAX} fields")
    return metadata


def _instant(moment: datetime) -> datetime:
    if moment.year not in _YEARS:
        raise ValueError("a time is of the years 2000 to 2199")
    return moment.astimezone(UTC)


AccountName = Annotated[AccountId, Field(examples=["acme"])]
Reason = Annotated[str, Field(max_length=300), AfterValidator(_printable)]
GivenReason = Annotated[
    str, Field(min_length=1, max_length=300, pattern=r"\S"), AfterValidator(_printable)
]
Tier = Annotated[str, Field(min_length=1, max_length=64), AfterValidator(_printable)]
Code = Annotated[str, Field(pattern=CODE_PATTERN, examples=["SPRING-26"])]
Instant = Annotated[
    AwareDatetime, AfterValidator(_instant), Field(examples=["2026-12-01T00:00:00Z"])
]
Whole = Annotated[int, Field(ge=-(2**63), le=2**63 - 1)]
# With the limits of an event's attributes: it is kept for ever, and copied.
Metadata = Annotated[
    dict[AttributeName, AttributeText | Whole | bool | None],
    Field(
        max_length=ATTRIBUTES_MAX,
        json_schema_extra={"additionalProperties": False},
        examples=[{"provider": "openai", "model": "gpt-4o"}],
    ),
    BeforeValidator(_few),
]
Limit = Annotated[int, Query(ge=1, le=500, description="rows of a page at most")]


def metadata_text(metadata: dict[str, Any]) -> str:
    """As the ledger keeps it: a JSON object, '' when it is empty; at most 17,538 bytes of UTF-8."""
    return json.dumps(metadata, sort_keys=True, ensure_ascii=False) if metadata else ""
