"""The usage event that an OpenMeter event of LiteLLM's `openmeter` callback means.

The callback sends the type `litellm_tokens`, the user as the subject, and in `data` the model, the
counts and the cost as LiteLLM knows them. The result is priced like every other event.
"""

import re
from collections.abc import Mapping
from decimal import Decimal
from hashlib import sha256
from typing import Any, Final

from schemas.names import is_account_id, is_identifier
from schemas.reasons import Reason, Rejected
from schemas.usage import EVENT_TYPE, TOKENS_MAX

LITELLM_TYPE: Final = "litellm_tokens"

_COST_MAX: Final = 1_000_000
_PICO: Final = Decimal("0.000000000001")
_TIME_WITHOUT_ZONE = re.compile(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d(?:\.\d{1,9})?", re.ASCII)


class _Refusal(Exception):  # noqa: N818 - never leaves this module
    """The first thing that is wrong with the event."""

    def __init__(self, reason: Reason, field: str, text: str) -> None:
        super().__init__(text)
        self.reason = reason
        self.detail = f"{field}: {text}"


def from_litellm(document: Mapping[str, Any]) -> dict[str, Any] | Rejected:
    """The usage event as a JSON document, still to be decoded, or why there is none to decode.

    `document` is read from JSON. Pure: every delivery of one event gives the same document.

    - `subject` is the account. Without one it is refused: nobody could be charged.
    - `id` is kept; one that an event of ours can not have becomes `sha256:` and its hash.
    - `time` is kept. LiteLLM on Python 3.10 writes UTC without a zone, so that is UTC.
    - The model stays as it is, with the provider in front where there is one, and the event names
      no provider: the price book finds the seller by the model's name.
    - `cost` becomes the bill, in US dollars with 12 decimals; null is none.
    - `prompt_tokens` and `completion_tokens` are input and output. Without them it is refused, and
      when `total_tokens` is not their sum: what is left over would be used and not paid.
    """
    try:
        return _usage_event(document)
    except _Refusal as refusal:
        subject, event_id = document.get("subject"), document.get("id")
        return Rejected(
            refusal.reason,
            refusal.detail,
            subject if is_account_id(subject) else None,
            event_id if is_identifier(event_id) else None,
        )


def _usage_event(document: Mapping[str, Any]) -> dict[str, Any]:
    if not document.get("subject"):
        raise _Refusal(Reason.INVALID, "subject", "the user is missing, so nobody can be charged")
    data = document.get("data")
    if not isinstance(data, Mapping):
        raise _Refusal(Reason.INVALID, "data", "expected an object")
    usage = {"model": _model(data.get("model")), "tokens": _tokens(data)}
    bill = _bill(data.get("cost"))
    return {
        **{name: document.get(name) for name in ("specversion", "source", "subject")},
        "id": _identity(document.get("id")),
        "type": EVENT_TYPE,
        "time": _moment(document.get("time")),
        "data": usage if bill is None else {**usage, "billed": bill},
    }


def _identity(said: object) -> str:
    """Providers' ids may be longer than ours, or hold `=` (LiteLLM encodes those of responses)."""
    if not isinstance(said, str) or not said:
        raise _Refusal(Reason.INVALID, "id", "expected a text")
    return said if is_identifier(said) else f"sha256:{sha256(said.encode()).hexdigest()}"


def _moment(said: object) -> object:
    return f"{said}Z" if isinstance(said, str) and _TIME_WITHOUT_ZONE.fullmatch(said) else said


def _model(said: object) -> str:
    if not isinstance(said, str) or not said:
        raise _Refusal(Reason.INVALID, "data.model", "expected the name of a model")
    return said


def _tokens(data: Mapping[str, Any]) -> dict[str, int]:
    read, written = _count(data, "prompt_tokens"), _count(data, "completion_tokens")
    if data.get("total_tokens") is not None:
        total = _count(data, "total_tokens", 2 * TOKENS_MAX)
        if total != read + written:
            text = "not the sum of prompt_tokens and completion_tokens"
            raise _Refusal(Reason.INCONSISTENT, "data.total_tokens", text)
    return {"input": read, "output": written}


def _count(data: Mapping[str, Any], name: str, count_max: int = TOKENS_MAX) -> int:
    said = data.get(name)
    if not isinstance(said, int) or isinstance(said, bool):
        raise _Refusal(Reason.INVALID, f"data.{name}", "expected a whole number")
    if said < 0:
        raise _Refusal(Reason.NEGATIVE, f"data.{name}", "a count is below zero")
    if said > count_max:
        raise _Refusal(Reason.INVALID, f"data.{name}", f"more than {count_max}")
    return said


def _bill(said: object) -> dict[str, str] | None:
    """The shortest decimal that reads as the JSON number: 0.00022500000000000002 is 0.000225."""
    if said is None:
        return None
    if not isinstance(said, int | float) or isinstance(said, bool):
        raise _Refusal(Reason.INVALID, "data.cost", "expected a number or null")
    if not said < _COST_MAX:
        raise _Refusal(Reason.INVALID, "data.cost", "not below a million dollars")
    if said < 0:
        raise _Refusal(Reason.NEGATIVE, "data.cost", "a cost is below zero")
    text = f"{Decimal(repr(said)).copy_abs().quantize(_PICO):f}".rstrip("0").rstrip(".")
    return {"amount": text, "currency": "USD"}
