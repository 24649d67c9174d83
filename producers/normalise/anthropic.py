"""Anthropic's usage, also through Bedrock and Vertex. `input_tokens` leaves the cache out.

What counts beside the tokens of the answer stands in `iterations`: compactions, and advice of
another model, are not in the figures at the top. Each iteration is a line, because each is priced
by its own length.
"""

from collections.abc import Mapping
from typing import Any, Final

from producers.normalise.fields import Fields
from producers.normalise.outcome import Refusal

# The only fields that tell Anthropic's form from OpenAI's: both have input and output tokens.
MARKS: Final = ("cache_creation_input_tokens", "cache_read_input_tokens", "cache_creation")
_OF_THE_ANSWER: Final = ("message", "fallback_message")
_OF_ANOTHER_MODEL: Final = ("advisor_message", "fallback_message")


def anthropic_counts(fields: Fields) -> dict[str, int]:
    """Counts by kind of one usage object or one iteration; problems are noted in `fields`."""
    fresh, output = fields.count("input_tokens"), fields.count("output_tokens")
    if fresh is None or output is None:
        missing = "input" if fresh is None else "output"
        fields.refuse(Refusal.INCOMPLETE, f"the {missing} tokens are not said")
        return {}
    read = fields.count("cache_read_input_tokens") or 0
    written = fields.count("cache_creation_input_tokens")
    short = fields.count("cache_creation", "ephemeral_5m_input_tokens")
    long = fields.count("cache_creation", "ephemeral_1h_input_tokens")
    if short is not None or long is not None:
        by_life = (short or 0) + (long or 0)
        if written is not None and written != by_life:
            fields.refuse(Refusal.CONTRADICTING, "cache writes by life are not the cache writes")
        written = by_life
    total = fields.count("total_tokens")
    if total not in {None, fresh + output, fresh + output + read + (written or 0)}:
        fields.refuse(Refusal.CONTRADICTING, "the total is not the sum of its parts")
    return {
        "input": fresh + read + (written or 0),
        "output": output,
        "cache_read": read,
        "cache_write": written or 0,
        "cache_write_1h": long or 0,
        "reasoning": fields.count("output_tokens_details", "thinking_tokens") or 0,
    }


def iterations(fields: Fields, model: str) -> list[tuple[str, Fields]]:
    """Model and fields of every iteration, empty when the figures at the top are all there is.

    An iteration without a model is of the answer's. When a fallback model answered, the model of
    those that declined is not said, nor whether they are billed: that is a problem.
    """
    listed = fields.value("iterations")
    if not isinstance(listed, list) or not listed:
        return []
    found = []
    for number, entry in enumerate(listed):
        if not isinstance(entry, Mapping):
            fields.refuse(Refusal.UNREADABLE, f"iterations.{number} is not an object")
            return []
        found.append((_kind(fields, number, entry), Fields(entry, f"iterations.{number}: ")))
    kinds = {kind for kind, _ in found}
    if kinds >= set(_OF_THE_ANSWER):
        fields.refuse(Refusal.CONTRADICTING, "a declined iteration names no model")
    _check_answer(fields, found)
    return [(_model(kind, one, model), one) for kind, one in found]


def _kind(fields: Fields, number: int, entry: Mapping[str, Any]) -> str:
    kind = entry.get("type")
    if kind not in ("compaction", "message", *_OF_ANOTHER_MODEL):
        fields.refuse(Refusal.UNKNOWN_UNITS, f"iterations.{number}.type is none that is known")
    return str(kind)


def _model(kind: str, one: Fields, model: str) -> str:
    named = one.value("model")
    if isinstance(named, str) and named:
        return named
    if kind in _OF_ANOTHER_MODEL:
        one.refuse(Refusal.UNKNOWN_MODEL, "an iteration of another model names none")
    return model


def _check_answer(fields: Fields, found: list[tuple[str, Fields]]) -> None:
    """The output at the top is that of the answer's iterations; anything else is not understood."""
    said = fields.count("output_tokens")
    outputs = [one.count("output_tokens") for kind, one in found if kind in _OF_THE_ANSWER]
    if outputs and said is not None and said != sum(number or 0 for number in outputs):
        fields.refuse(Refusal.CONTRADICTING, "iterations do not add up to the output tokens")


def tool_uses(fields: Fields) -> dict[str, int]:
    """How often each of the provider's own tools ran, by name, for those that have a price.

    Fetching is paid by its tokens alone.
    """
    listed = fields.value("server_tool_use")
    if not isinstance(listed, Mapping):
        return {}
    uses = {str(name): fields.count("server_tool_use", str(name)) or 0 for name in listed}
    uses.pop("web_fetch_requests", None)
    return {name.removesuffix("_requests"): number for name, number in uses.items() if number}
