"""How the OpenAPI document describes the events that may be sent."""

from typing import Any, Final

from schemas.names import ACCOUNT_ID_PATTERN

EXAMPLE: Final[dict[str, Any]] = {
    "specversion": "1.0",
    "id": "01JD3X7Q9V8M2K4T6W5Z0Y1N3B",
    "source": "app/chat",
    "type": "tollgate.usage.v1",
    "subject": "acme",
    "time": "2026-11-21T09:00:00.123Z",
    "data": {"provider": "openai", "model": "gpt-4o", "tokens": {"input": 1200, "output": 350}},
}
LITELLM_EXAMPLE: Final[dict[str, Any]] = {
    "specversion": "1.0",
    "id": "chatcmpl-7c3bc5d6-5bd0-4f4e-8a63-7b8f1a6a33a1",
    "source": "litellm-proxy",
    "type": "litellm_tokens",
    "subject": "acme",
    "time": "2026-11-21T09:00:00.123456+00:00",
    "data": {
        "model": "gpt-4o",
        "cost": 0.000225,
        "prompt_tokens": 10,
        "completion_tokens": 20,
        "total_tokens": 30,
    },
}
_EVENT: Final[dict[str, Any]] = {
    "type": "object",
    "title": "UsageEvent",
    "description": "A CloudEvents 1.0 event; docs/events.md has the fields of `data`.",
    "required": ["specversion", "id", "source", "type", "subject", "time", "data"],
    "properties": {
        "specversion": {"const": "1.0"},
        "id": {"type": "string", "minLength": 1},
        "source": {"type": "string", "pattern": r"^[!-\[\]-~]{1,256}$"},
        "type": {"enum": ["tollgate.usage.v1", "litellm_tokens"]},
        "subject": {"type": "string", "pattern": ACCOUNT_ID_PATTERN},
        "time": {"type": "string", "format": "date-time"},
        "data": {"type": "object"},
    },
    "examples": [EXAMPLE, LITELLM_EXAMPLE],
}
_EVENTS: Final[dict[str, Any]] = {"type": "array", "minItems": 1, "items": _EVENT}

REQUEST_BODY: Final[dict[str, Any]] = {
    "required": True,
    "content": {
        "application/json": {"schema": {"anyOf": [_EVENT, _EVENTS]}},
        "application/cloudevents+json": {"schema": _EVENT},
        "application/cloudevents-batch+json": {"schema": _EVENTS},
    },
}
