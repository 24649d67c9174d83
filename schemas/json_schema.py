"""The contracts as JSON Schema, for apps and consumers in any language."""

import json
from typing import Final

from pydantic import TypeAdapter

from schemas.dead_letters import DeadLetter
from schemas.usage import UsageEvent

_DIALECT: Final = "https://json-schema.org/draft/2020-12/schema"


def documents() -> dict[str, str]:
    """File name to text of every exported schema. Always the same text for the same contracts."""
    event = TypeAdapter(UsageEvent).json_schema(mode="validation")
    letter = TypeAdapter(DeadLetter).json_schema(mode="serialization", by_alias=True)
    return {
        "usage_event.v1.json": _text(event),
        "dead_letter.v1.json": _text(letter),
    }


def _text(schema: dict[str, object]) -> str:
    return json.dumps({"$schema": _DIALECT, **schema}, indent=2) + "\n"
