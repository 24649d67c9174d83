"""OpenAI's usage in all its forms, and of the many that answer in OpenAI's form.

Chat and responses, embeddings, transcriptions, images; Azure, DeepSeek, Mistral, Groq, Together,
OpenRouter, xAI, Perplexity, Voyage, vLLM. Cached tokens are a part of the input, reasoning tokens
of the output. xAI's chat and Perplexity report reasoning beside the output; a total tells.
"""

from typing import Final

from producers.normalise.counts import MEDIA, check_total, uncached_media
from producers.normalise.fields import Fields, Path
from producers.normalise.outcome import Refusal

_INPUT: Final = (("prompt_tokens",), ("input_tokens",))
_OUTPUT: Final = (("completion_tokens",), ("output_tokens",))
_INPUT_PARTS: Final = (
    "prompt_tokens_details",
    "prompt_token_details",
    "input_tokens_details",
    "input_token_details",
)
_OUTPUT_PARTS: Final = (
    "completion_tokens_details",
    "completion_token_details",
    "output_tokens_details",
    "output_token_details",
)
_CACHED: Final = (
    ("prompt_cache_hit_tokens",),
    ("cached_tokens",),
    ("cache_read_input_tokens",),
    ("cached_prompt_text_tokens",),
)
# Text is what is left; predicted tokens are billed as the output that they are counted in.
_NO_KIND_OF_ITS_OWN: Final = (
    *((part, "text_tokens") for part in (*_INPUT_PARTS, *_OUTPUT_PARTS)),
    *((part, "accepted_prediction_tokens") for part in _OUTPUT_PARTS),
    *((part, "rejected_prediction_tokens") for part in _OUTPUT_PARTS),
    ("prompt_text_tokens",),
)
# All that these models give out is of one kind, and their usage may not say so.
_ONE_KIND_OF_OUTPUT: Final = (("gpt-image", "image_output"), ("gpt-4o-mini-tts", "audio_output"))
# Their embeddings and rerankers report a total alone: all of it is input.
_TOTAL_IS_INPUT: Final = ("voyageai", "jina")


def chat_counts(fields: Fields, provider: str, model: str) -> dict[str, int]:
    """Counts by kind, named as `TokenCounts` names them; problems are noted in `fields`."""
    fields.ignore(*_NO_KIND_OF_ITS_OWN)
    total = fields.count("total_tokens")
    read = fields.agreed(*_INPUT)
    if read is None and provider in _TOTAL_IS_INPUT:
        read = total
    if read is None:
        fields.refuse(Refusal.INCOMPLETE, "the input tokens are not said")
        return {}
    counts = {"input": read, **_input_parts(fields, read)}
    _seconds_of_audio(fields)
    return counts | _output(fields, provider, model, read, total)


def _paths(parts: tuple[str, ...], *names: str) -> tuple[Path, ...]:
    return tuple((part, name) for part in parts for name in names)


def _input_parts(fields: Fields, read: int) -> dict[str, int]:
    parts = fields.objects(*_INPUT_PARTS)
    cached = (
        fields.agreed(*_paths(parts, "cached_tokens", "cache_read_input_tokens"), *_CACHED) or 0
    )
    missed = fields.count("prompt_cache_miss_tokens")
    if missed is not None and cached + missed != read:
        fields.refuse(Refusal.CONTRADICTING, "cache hits and misses are not the input")
    in_parts = _paths(parts, "cache_write_tokens", "cache_creation_tokens")
    written = fields.agreed(*in_parts, ("cache_creation_input_tokens",)) or 0
    media = {kind: fields.agreed(*_paths(parts, f"{kind}_tokens")) or 0 for kind in MEDIA}
    cached_media = _cached_media(fields, parts, cached, written)
    fresh = uncached_media(fields, media, cached + written, cached_media)
    return {"cache_read": cached, "cache_write": written, **fresh}


def _cached_media(
    fields: Fields, parts: tuple[str, ...], cached: int, written: int
) -> dict[str, int] | None:
    """What was read from the cache by kind (realtime says it), None when it is not said."""
    known = {
        kind: number
        for part in parts
        if fields.value(part, "cached_tokens_details") is not None
        for kind in (*MEDIA, "text")
        if (number := fields.count(part, "cached_tokens_details", f"{kind}_tokens")) is not None
    }
    if written or not known:
        return None
    if sum(known.values()) != cached:
        fields.refuse(Refusal.CONTRADICTING, "cached tokens by kind are not the cached tokens")
    return known


def _output(
    fields: Fields, provider: str, model: str, read: int, total: int | None
) -> dict[str, int]:
    written = fields.agreed(*_OUTPUT)
    if written is None:
        # Embeddings: the total shows that there is no output.
        if total != read:
            fields.refuse(Refusal.INCOMPLETE, "the output tokens are not said")
        return {"output": 0}
    parts = fields.objects(*_OUTPUT_PARTS)
    reasoning = fields.agreed(*_paths(parts, "reasoning_tokens"), ("reasoning_tokens",)) or 0
    beside = _reasoning_beside(fields, provider, read + written, reasoning, total)
    kinds = {
        f"{kind}_output": fields.agreed(*_paths(parts, f"{kind}_tokens"))
        for kind in ("audio", "image")
    }
    if all(number is None for number in kinds.values()):
        kinds |= {kind: written for name, kind in _ONE_KIND_OF_OUTPUT if name in model}
    said = {kind: number for kind, number in kinds.items() if number is not None}
    return {"output": written + beside * reasoning, "reasoning": reasoning, **said}


def _reasoning_beside(
    fields: Fields, provider: str, both: int, reasoning: int, total: int | None
) -> bool:
    """Whether reasoning is to be added to the output. Perplexity's total leaves it out as well."""
    if provider == "perplexity":
        check_total(fields, total, both, both + reasoning)
        return True
    check_total(fields, total, both, both + reasoning)
    if total is None:
        return provider == "x-ai" and fields.value("completion_tokens") is not None
    return total != both


def _seconds_of_audio(fields: Fields) -> None:
    """Mistral counts audio in seconds, and does not say whether they are among the tokens."""
    if fields.count("prompt_audio_seconds"):
        fields.refuse(Refusal.OVERLAP_UNKNOWN, "seconds of audio beside prompt tokens")
