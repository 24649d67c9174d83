"""Types of fields that several routes share, with the limits of what PostgreSQL and people take."""

from datetime import UTC, datetime
from typing import Annotated

from fastapi import Query
from pydantic import AfterValidator, AwareDatetime, Field

from schemas.names import AccountId

CODE_PATTERN = r"^[A-Z0-9_-]{3,64}$"
_YEARS = range(2000, 2200)


def _printable(text: str) -> str:
    if not text.isprintable():
        raise ValueError("only printable characters are taken")
    return text


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
Limit = Annotated[int, Query(ge=1, le=500, description="rows of a page at most")]
