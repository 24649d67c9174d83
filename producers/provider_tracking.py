"""From a line that a provider bills to the details of the event that reports it."""

from collections.abc import Mapping
from datetime import datetime
from typing import Final, TypedDict

from producers.normalise.outcome import Line
from producers.tracking import EventDetails
from schemas.events import ATTRIBUTES_MAX

_ACTION: Final = "ai_chat_message"


class ProviderDetails(TypedDict, total=False):
    """What a call that tracks a provider's answer may add; the answer says everything else."""

    action: str
    power_level: str
    hold_id: str | None
    resource_id: str
    own_key: bool
    attributes: Mapping[str, str]
    event_id: str | None
    occurred_at: datetime | None


_NAMES: Final = ProviderDetails.__annotations__.keys()


def details_of(line: Line, given: ProviderDetails, event_id: str) -> tuple[str, EventDetails]:
    """The action and details of the event for one line of the response that has this event id.

    A hold is settled by the first line alone. The app's attributes come before those that were
    found: these fill what is left of the sixteen, and replace none. Raises ValueError or TypeError
    for details that nobody knows or attributes that are none.
    """
    if not given.keys() <= _NAMES:
        raise ValueError(f"no such detail: {', '.join(sorted(given.keys() - _NAMES))}")
    more: EventDetails = {
        "event_id": f"{event_id}{line.suffix}" if line.suffix else event_id,
        "provider": line.provider,
        "model": line.model,
        "tokens": line.tokens,
        "quantity": line.quantity,
        "unit": line.unit,
        "service_tier": line.service_tier.value,
        "billed": line.billed,
        "attributes": _attributes(line, given.get("attributes") or {}),
    }
    if "power_level" in given:
        more["power_level"] = given["power_level"]
    if "resource_id" in given:
        more["resource_id"] = given["resource_id"]
    if "own_key" in given:
        more["own_key"] = given["own_key"]
    if "occurred_at" in given:
        more["occurred_at"] = given["occurred_at"]
    if "hold_id" in given and not line.suffix:
        more["hold_id"] = given["hold_id"]
    return line.action or given.get("action") or _ACTION, more


def _attributes(line: Line, given: Mapping[str, str]) -> dict[str, str]:
    attributes = dict(given)
    for name, text in line.attributes.items():
        if len(attributes) < ATTRIBUTES_MAX:
            attributes.setdefault(name, text)
    return attributes
