"""The contracts as JSON Schema, for apps and consumers in any language."""

import json
from typing import Final

from pydantic import TypeAdapter

from schemas.dead_letters import DeadLetter
from schemas.jobs import Job
from schemas.price_book import price_book
from schemas.usage import UsageEvent

_DIALECT: Final = "https://json-schema.org/draft/2020-12/schema"


def documents() -> dict[str, str]:
    """File name to text of every exported schema. Always the same text for the same contracts."""
    event = TypeAdapter(UsageEvent).json_schema(mode="validation")
    letter = TypeAdapter(DeadLetter).json_schema(mode="serialization", by_alias=True)
    job = TypeAdapter(Job).json_schema(mode="validation")
    return {
        "usage_event.v1.json": _text({"$schema": _DIALECT, **event}),
        "job.v1.json": _text({"$schema": _DIALECT, **job}),
        "dead_letter.v1.json": _text({"$schema": _DIALECT, **letter}),
        "price_book.v1.json": _text(price_book()),
    }


def _text(schema: dict[str, object]) -> str:
    return json.dumps(schema, indent=2) + "\n"
