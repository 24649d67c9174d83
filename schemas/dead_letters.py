"""What is published to usage.dead: why a record was not charged, where it stood, its bytes."""

from base64 import b64decode, b64encode
from datetime import datetime
from typing import Annotated, Final

from pydantic import AwareDatetime, ConfigDict, Field, PlainSerializer, TypeAdapter
from pydantic.dataclasses import dataclass
from pydantic_core import from_json

from schemas.reasons import Reason

PAYLOAD_BYTES_MAX: Final = 65_536
KEY_BYTES_MAX: Final = 1_024


def _base64(limit: int) -> PlainSerializer:
    """Standard base64 with padding (pydantic's own is the URL alphabet), cut at `limit` bytes."""
    return PlainSerializer(lambda raw: b64encode(raw[:limit]).decode("ascii"), return_type=str)


Key = Annotated[bytes, _base64(KEY_BYTES_MAX)]
Payload = Annotated[bytes, _base64(PAYLOAD_BYTES_MAX)]
Sha256 = Annotated[
    bytes,
    Field(min_length=32, max_length=32),
    PlainSerializer(lambda digest: digest.hex(), return_type=str),
]
Count = Annotated[int, Field(ge=0)]


@dataclass(frozen=True, slots=True, config=ConfigDict(strict=True))
class Origin:
    """Where the record stands: with it, the original can be read again while Kafka keeps it."""

    topic: str
    partition: Count
    offset: Count
    epoch: Count


@dataclass(frozen=True, slots=True, config=ConfigDict(strict=True))
class DeadLetter:
    """One record that was not charged. Published at least once: (origin) tells copies apart.

    `payload_bytes` and `payload_sha256` are of the whole value, also where `payload` is only its
    first 64 KiB. `account_id` and `event_id` are what the record claims, when valid.
    """

    reason: Reason
    detail: str
    origin: Origin
    appended_at: AwareDatetime
    dead_at: AwareDatetime
    account_id: str | None
    event_id: str | None
    key: Annotated[Key | None, Field(serialization_alias="key_base64")]
    payload: Annotated[Payload, Field(serialization_alias="payload_base64")]
    payload_bytes: Count
    payload_sha256: Sha256


_to_json = TypeAdapter(DeadLetter).serializer.to_json


def encode_dead_letter(letter: DeadLetter) -> bytes:
    """The bytes to publish: UTF-8 JSON, the reason first, always below the topic's size limit."""
    return _to_json(letter, by_alias=True)


def decode_dead_letter(value: bytes | None) -> DeadLetter | None:
    """The letter in a record of usage.dead, or None when it holds none. Never raises.

    Fields that a later release adds are not looked at.
    """
    try:
        found = from_json(value or b"")
        return DeadLetter(
            reason=Reason(found["reason"]),
            detail=found["detail"],
            origin=Origin(**{name: found["origin"][name] for name in Origin.__slots__}),
            appended_at=datetime.fromisoformat(found["appended_at"]),
            dead_at=datetime.fromisoformat(found["dead_at"]),
            account_id=found["account_id"],
            event_id=found["event_id"],
            key=None if found["key_base64"] is None else b64decode(found["key_base64"]),
            payload=b64decode(found["payload_base64"]),
            payload_bytes=found["payload_bytes"],
            payload_sha256=bytes.fromhex(found["payload_sha256"]),
        )
    except (ValueError, KeyError, TypeError):
        return None
