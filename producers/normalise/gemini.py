"""Gemini's usage, from Google AI Studio and Vertex.

`promptTokenCount` includes the cached tokens; thoughts are beside the candidates, and what tools
put into the prompt is beside the prompt. Zero counts are left out of the answer.
"""

from collections.abc import Mapping
from typing import Any, Final

from producers.normalise.counts import MEDIA, check_total, first_said, uncached_media
from producers.normalise.fields import Fields
from producers.normalise.outcome import Refusal

MARKS: Final = ("promptTokenCount", "candidatesTokenCount", "totalTokenCount", "responseTokenCount")
# Pages of documents are counted, and priced, as images.
_KINDS: Final = {
    "TEXT": "text",
    "AUDIO": "audio",
    "IMAGE": "image",
    "DOCUMENT": "image",
    "VIDEO": "video",
}


def gemini_counts(fields: Fields) -> dict[str, int]:
    """Counts by kind; problems are noted in `fields`."""
    prompt = fields.count("promptTokenCount") or 0
    tools = fields.count("toolUsePromptTokenCount") or 0
    answer = fields.agreed(("candidatesTokenCount",), ("responseTokenCount",)) or 0
    thoughts = fields.count("thoughtsTokenCount") or 0
    cached = fields.count("cachedContentTokenCount") or 0
    check_total(fields, fields.count("totalTokenCount"), prompt + tools + answer + thoughts)
    into = _by_kind(fields, "promptTokensDetails")
    by_tools = _by_kind(fields, "toolUsePromptTokensDetails")
    cached_kinds = _by_kind(fields, "cacheTokensDetails") if cached else {}
    media = {kind: into.get(kind, 0) + by_tools.get(kind, 0) for kind in MEDIA}
    known = cached_kinds or None
    if known and sum(known.values()) != cached:
        fields.refuse(Refusal.CONTRADICTING, "cached tokens by kind are not the cached tokens")
    out = _by_kind(fields, "candidatesTokensDetails") or _by_kind(fields, "responseTokensDetails")
    if out.get("video"):
        fields.refuse(Refusal.UNKNOWN_UNITS, "video in the output is not known")
    return {
        "input": prompt + tools,
        "output": answer + thoughts,
        "cache_read": cached,
        "reasoning": thoughts,
        "audio_output": out.get("audio", 0),
        "image_output": out.get("image", 0),
        **uncached_media(fields, media, cached, known),
    }


def gemini_tier(fields: Fields) -> Any:
    """How the request was processed, in Google's words, for `terms.service_tier`."""
    return first_said(fields, ("serviceTier",), ("trafficType",))


def _by_kind(fields: Fields, name: str) -> dict[str, int]:
    listed = fields.value(name)
    found: dict[str, int] = {}
    for entry in listed if isinstance(listed, list) else ():
        one = Fields(entry if isinstance(entry, Mapping) else {}, f"{name}: ")
        kind = _KINDS.get(str(one.value("modality")))
        number = one.count("tokenCount") or 0
        if kind is None:
            one.refuse(Refusal.UNKNOWN_UNITS, "a modality is none that is known")
        else:
            found[kind] = found.get(kind, 0) + number
        if one.refused is not None:
            fields.refuse(one.refused.reason, one.refused.detail)
    return found
