"""Where the usage stands in what an app holds: a response, an event of a stream, a usage object.

Mappings and the objects of the providers' libraries are read alike; of an object only the fields
that are named here are touched, so that a long answer costs nothing.
"""

import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from enum import Enum
from typing import Any, Final

from producers.normalise.outcome import Refusal, Refused

# In this order: an outer usage is that of the whole.
_PLACES: Final[tuple[tuple[str, ...], ...]] = (
    ("usage",),
    ("usageMetadata",),
    ("usage_metadata",),
    ("response", "usage"),
    ("message", "usage"),
    ("delta", "usage"),
    ("x_groq", "usage"),
    ("metadata", "usage"),
    ("meta",),
    ("response", "meta"),
    ("usage_info",),
    ("result", "usage"),
)
# A mapping with one of these is a usage object itself, or a body that has its counts on top.
_ITSELF: Final = frozenset(
    {
        "prompt_tokens",
        "input_tokens",
        "output_tokens",
        "inputTokens",
        "promptTokenCount",
        "billed_units",
        "inputTextTokenCount",
        "prompt_token_count",
        "total_tokens",
        "pages_processed",
        "seconds",
    }
)
_MODELS: Final = ("model", "modelVersion", "model_version")
_IDS: Final = ("id", "responseId", "response_id", "generation_id")
_TIERS: Final = ("service_tier", "serviceTier")
_SNAKE: Final = re.compile(r"_([a-z])")


@dataclass(slots=True)
class Found:
    """The usage of one response and what stands beside it; empty where nothing is said."""

    usage: dict[str, Any]
    model: str = ""
    response_id: str = ""
    service_tier: Any = None


def find(response: Any) -> Found | Refused:
    """The usage of a response, a usage object alone, or a list of the events of one stream."""
    if isinstance(response, list | tuple):
        return find_in_stream(response)
    if response is None or isinstance(response, str | bytes | int | float):
        return Refused(Refusal.UNREADABLE, "it is no response and no usage object")
    usage = _usage(response)
    if usage is None:
        return Refused(Refusal.USAGE_MISSING, "there is no usage in it")
    found = Found(usage)
    _note_names(found, response)
    return found


def find_in_stream(events: Iterable[Any]) -> Found | Refused:
    """The usage of a stream from its events: counts are cumulative, so the last one stands.

    Anthropic begins with the input and ends with the output: the end is laid over the beginning,
    and without it the stream was cut off.
    """
    found, begun, ended = Found({}), False, False
    for event in events:
        inner = get(event, "data")
        node = inner if get(event, "event") is not None and inner is not None else event
        _note_names(found, node)
        begun = begun or get(node, "type") == "message_start"
        usage = _usage(node)
        if usage is None:
            continue
        if begun:
            ended = ended or get(node, "type") == "message_delta"
            said = {name: value for name, value in usage.items() if value is not None}
            found.usage = {**found.usage, **said}
        else:
            found.usage = usage
    if begun and not ended:
        return Refused(Refusal.INCOMPLETE, "the stream was cut off before its last usage")
    if not found.usage:
        return Refused(Refusal.USAGE_MISSING, "no event of the stream has usage")
    return found


def get(node: Any, name: str) -> Any:
    """The member of a mapping or the attribute of an object; None when there is none."""
    if isinstance(node, Mapping):
        return node.get(name)
    if node is None or isinstance(node, str | bytes | int | float | list | tuple):
        return None
    try:
        return getattr(node, name, None)
    except Exception:  # noqa: BLE001 - another's property may raise anything; then it says nothing
        return None


def _usage(node: Any) -> dict[str, Any] | None:
    for path in _PLACES:
        inner = node
        for name in path:
            inner = get(inner, name)
        usage = plain(inner)
        # Cohere's meta is usage only with its units; other makers' meta is something else.
        if usage and (path[-1] != "meta" or "billed_units" in usage or "tokens" in usage):
            return _camel(usage) if path == ("usage_metadata",) else usage
    itself = plain(node) if isinstance(node, Mapping) or get(node, "usage") is None else None
    return itself if itself and _ITSELF & itself.keys() else None


def plain(node: Any) -> dict[str, Any] | None:
    """A mapping as a dict, or the fields of a library's object by their names on the wire."""
    if isinstance(node, Mapping):
        return {str(name): value for name, value in node.items()}
    dump = get(node, "model_dump")
    if not callable(dump):
        return None
    try:
        dumped = dump(by_alias=True, warnings=False)
    except Exception:  # noqa: BLE001 - the same
        return None
    return dumped if isinstance(dumped, dict) else None


def _note_names(found: Found, node: Any) -> None:
    """Model, id and tier stand beside the usage, or one level down in a stream's event."""
    for place in (node, get(node, "response"), get(node, "message"), get(node, "result")):
        found.model = found.model or _text(place, _MODELS)
        found.response_id = found.response_id or _text(place, _IDS)
        tier = next((said for name in _TIERS if (said := get(place, name)) is not None), None)
        found.service_tier = tier if tier is not None else found.service_tier


def _text(node: Any, names: Iterable[str]) -> str:
    said = (get(node, name) for name in names)
    return next((text for text in said if isinstance(text, str) and text), "")


def _camel(node: Any) -> Any:
    """Google's own library spells its names with underscores, and modalities as an enum."""
    if isinstance(node, Mapping):
        return {
            _SNAKE.sub(lambda found: found[1].upper(), str(name)): _camel(value)
            for name, value in node.items()
        }
    if isinstance(node, list):
        return [_camel(value) for value in node]
    return node.value if isinstance(node, Enum) else node
