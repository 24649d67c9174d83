"""Bedrock's usage: Converse, and what its own models answer when invoked.

Converse leaves cached tokens out of `inputTokens`, as Anthropic does; its total has them.
"""

from collections.abc import Mapping
from typing import Final

from producers.normalise.counts import check_total
from producers.normalise.fields import Fields
from producers.normalise.outcome import Refusal

MARKS: Final = ("inputTokens", "outputTokens")
INVOKED_MARKS: Final = ("inputTextTokenCount", "prompt_token_count", "generation_token_count")


def converse_counts(fields: Fields) -> dict[str, int]:
    """Counts by kind of Converse, and of Nova when invoked; problems are noted in `fields`."""
    fresh, output = fields.count("inputTokens"), fields.count("outputTokens")
    if fresh is None or output is None:
        missing = "input" if fresh is None else "output"
        fields.refuse(Refusal.INCOMPLETE, f"the {missing} tokens are not said")
        return {}
    read = fields.agreed(("cacheReadInputTokens",), ("cacheReadInputTokenCount",)) or 0
    written = fields.agreed(("cacheWriteInputTokens",), ("cacheWriteInputTokenCount",)) or 0
    check_total(fields, fields.count("totalTokens"), fresh + output + read + written)
    return {
        "input": fresh + read + written,
        "output": output,
        "cache_read": read,
        "cache_write": written,
        "cache_write_1h": _for_an_hour(fields, written),
    }


def _for_an_hour(fields: Fields, written: int) -> int:
    listed = fields.value("cacheDetails")
    lives = {"5m": 0, "1h": 0}
    for entry in listed if isinstance(listed, list) else ():
        one = Fields(entry if isinstance(entry, Mapping) else {}, "cacheDetails: ")
        life, number = str(one.value("ttl")), one.count("inputTokens")
        if life not in lives or number is None:
            fields.refuse(Refusal.UNKNOWN_UNITS, "cacheDetails has an entry that is not known")
            return 0
        lives[life] += number
    if listed and sum(lives.values()) != written:
        fields.refuse(Refusal.CONTRADICTING, "cache writes by life are not the cache writes")
    return lives["1h"]


def invoked_counts(fields: Fields) -> dict[str, int]:
    """Counts of Titan and Llama, which stand in the body itself; problems are noted in `fields`."""
    if fields.value("prompt_token_count") is not None:
        read, written = fields.count("prompt_token_count"), fields.count("generation_token_count")
    else:
        read = fields.count("inputTextTokenCount")
        written = 0 if fields.value("embedding") is not None else _titan_output(fields)
    if read is None or written is None:
        fields.refuse(Refusal.INCOMPLETE, "the input or the output tokens are not said")
        return {}
    return {"input": read, "output": written}


def _titan_output(fields: Fields) -> int | None:
    listed = fields.value("results")
    if not isinstance(listed, list) or not listed:
        return fields.count("totalOutputTextTokenCount")
    numbers = [
        Fields(entry if isinstance(entry, Mapping) else {}).count("tokenCount") for entry in listed
    ]
    return None if None in numbers else sum(number or 0 for number in numbers)
