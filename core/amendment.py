"""Amending a recorded event: what is right, merged into what was recorded, within the limits.

The merge is RFC 7396 (JSON Merge Patch): named fields replace, objects merge field by field, null
goes back to the default, everything else stays. Identity, source and time are never amended.
"""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any, Final

from pydantic import TypeAdapter, ValidationError

from schemas.usage import UsageEvent

if TYPE_CHECKING:
    from collections.abc import Mapping

# A correction has no place for the others: they say where the work came from, not what it was.
AMENDABLE: Final = (
    "action", "provider", "model", "tokens", "quantity", "power_level", "own_key", "service_tier",
    "unit", "billed",
)  # fmt: skip
_EVENT = TypeAdapter(UsageEvent)


class AmendmentError(ValueError):
    """The amendment cannot be made; the message is one line that names the place."""


def amended(event: UsageEvent, patch: Mapping[str, Any]) -> UsageEvent:
    """The event with the amended usage; every limit of a usage event holds for it.

    Raises:
        AmendmentError: the patch names a field that is not amendable, or breaks a limit.
    """
    strange = [name for name in patch if name not in AMENDABLE]
    if strange:
        raise AmendmentError(
            f"{strange[0]!r} can not be amended; what can is {', '.join(AMENDABLE)}"
        )
    document = _EVENT.dump_python(event, mode="json", exclude_none=True)
    document["data"] = _merged(document["data"], patch)
    try:
        return _EVENT.validate_json(json.dumps(document))
    except ValidationError as error:
        first = error.errors(include_url=False, include_input=False, include_context=False)[0]
        place = ".".join(str(part) for part in first["loc"]) or "data"
        raise AmendmentError(f"{place}: {first['msg']}") from None


def _merged(target: Any, patch: Any) -> Any:
    if not isinstance(patch, dict):
        return patch
    merged = dict(target) if isinstance(target, dict) else {}
    for name, value in patch.items():
        if value is None:
            merged.pop(name, None)
        else:
            merged[name] = _merged(merged.get(name), value)
    return merged
