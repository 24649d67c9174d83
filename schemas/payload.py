"""What an event says, as one number: deliveries of one event agree, other payloads differ."""

from hashlib import blake2b
from typing import TYPE_CHECKING

from schemas.usage import ServiceTier

if TYPE_CHECKING:
    from schemas.usage import UsageData, UsageEvent


def payload_hash(event: "UsageEvent") -> int:
    """A signed 64-bit hash of `data`; id, source, subject and time are no part of it.

    The same in every process and release: it is stored with the charge, and a change of it would
    turn every late retry into a conflict. Fields join with a separator that none of them can hold,
    so two different payloads have different texts.
    """
    data = event.data
    tokens = data.tokens
    text = (
        f"{data.action}\n{data.provider}\n{data.model}\n{data.quantity}\n{data.power_level}\n"
        f"{data.hold_id or ''}\n{data.resource_id}\n{data.own_key:d}\n"
        f"{tokens.input}\n{tokens.output}\n{tokens.cache_read}\n{tokens.cache_write}\n"
        f"{tokens.cache_write_1h}\n{tokens.reasoning}\n{tokens.audio_input}\n"
        f"{tokens.audio_output}\n{tokens.image_input}"
    )
    if data.attributes:
        text += _attributes(data)
    if (
        data.unit
        or data.billed is not None
        or data.service_tier is not ServiceTier.STANDARD
        or tokens.image_output
        or tokens.video_input
    ):
        text += _later_fields(data)
    return int.from_bytes(blake2b(text.encode(), digest_size=8).digest(), "big", signed=True)


def _later_fields(data: "UsageData") -> str:
    """Named, and only when set: an event without them keeps the hash it always had."""
    tokens, billed = data.tokens, data.billed
    fields = {
        "service_tier": "" if data.service_tier is ServiceTier.STANDARD else data.service_tier,
        "unit": data.unit,
        "billed": "" if billed is None else f"{billed.amount} {billed.currency}",
        "image_output": tokens.image_output or "",
        "video_input": tokens.video_input or "",
    }
    return "".join(f"\n{name}={value}" for name, value in fields.items() if value)


def _attributes(data: "UsageData") -> str:
    """Sorted, so that the order in which an app sets them is no difference."""
    return "".join(
        f"\nattributes.{name}={data.attributes[name]}" for name in sorted(data.attributes)
    )
