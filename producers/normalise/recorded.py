"""Calls that were recorded with their host and usage, one JSON object each, as files hold them.

Either `response` holds what the provider answered, or `events` a stream's events, or `usage` the
usage object alone with `response_model`, `response_id` and `service_tier` beside it. A recorded
stream of Anthropic has its beginning in `first_usage`.
"""

from collections.abc import Mapping
from typing import Any, Final

from producers.normalise.outcome import Normalised, Refusal, Refused
from producers.normalise.response import normalise

MARKS: Final = ("usage", "response", "events")


def normalise_recorded(row: Mapping[str, Any], provider: str = "") -> Normalised | Refused:
    """What the recorded call bills, or why that cannot be known. Pure; never raises."""
    answer = _answer(row)
    if answer is None:
        return Refused(Refusal.USAGE_MISSING, "the row has no response, no events and no usage")
    return normalise(
        answer,
        provider=provider or _text(row, "provider"),
        host=_text(row, "host"),
        path=_text(row, "path"),
        request_model=_text(row, "request_model"),
        service_tier="batch" if row.get("batch") is True else "",
    )


def _answer(row: Mapping[str, Any]) -> Any:
    for name in ("response", "events"):
        if row.get(name) is not None:
            return row[name]
    usage, first = row.get("usage"), row.get("first_usage")
    if not isinstance(usage, Mapping):
        return None
    named = {"model": row.get("response_model"), "id": row.get("response_id")}
    answer = {**named, "service_tier": row.get("service_tier"), "usage": usage}
    # Only Anthropic splits the counts of one stream over two events.
    if isinstance(first, Mapping) and "input_tokens" in first:
        start = {"type": "message_start", "message": {**named, "usage": first}}
        return [start, {"type": "message_delta", "usage": usage}]
    return answer


def _text(row: Mapping[str, Any], name: str) -> str:
    said = row.get(name)
    return said if isinstance(said, str) else ""
