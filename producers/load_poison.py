"""Poison: records that must end as dead letters, one builder for each way to be bad.

Everything is raw bytes, as a broken or hostile app would send it; nothing here goes through the
contract's own encoder.
"""

import json
from collections.abc import Callable
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Any, Final

from producers.connection import RawRecord
from schemas.events import VALUE_BYTES_MAX, Reason


@dataclass(frozen=True, slots=True)
class Poison:
    """One kind of bad record: its name, the reason it must get, how it is made of a good event."""

    name: str
    reason: Reason
    make: Callable[[dict[str, Any]], RawRecord]
    of_earlier: bool = False
    """it must be made of an event that was sent before"""


def _sent(event: dict[str, Any]) -> RawRecord:
    return str(event["subject"]).encode(), json.dumps(event).encode()


def _raw(value: bytes | None) -> Callable[[dict[str, Any]], RawRecord]:
    return lambda event: (event["subject"].encode(), value)


def _text(change: Callable[[str], bytes]) -> Callable[[dict[str, Any]], RawRecord]:
    return lambda event: (event["subject"].encode(), change(json.dumps(event)))


def _with(**fields: object) -> Callable[[dict[str, Any]], RawRecord]:
    return lambda event: _sent({**event, **fields})


def _data(**fields: object) -> Callable[[dict[str, Any]], RawRecord]:
    return lambda event: _sent({**event, "data": {**event["data"], **fields}})


def _tokens(**counts: object) -> Callable[[dict[str, Any]], RawRecord]:
    return _data(tokens={"input": 10, "output": 10, **counts})


def _without(name: str) -> Callable[[dict[str, Any]], RawRecord]:
    return lambda event: _sent({key: value for key, value in event.items() if key != name})


def _shifted(days: int) -> Callable[[dict[str, Any]], RawRecord]:
    def make(event: dict[str, Any]) -> RawRecord:
        moment = datetime.fromisoformat(event["time"]) + timedelta(days=days)
        return _sent({**event, "time": moment.isoformat()})

    return make


def _keyed(key: bytes | None) -> Callable[[dict[str, Any]], RawRecord]:
    return lambda event: (key, json.dumps(event).encode())


def _quantity(literal: str) -> Callable[[dict[str, Any]], RawRecord]:
    return _text(lambda text: f'{text[:-2]}, "quantity": {literal}}}}}'.encode())


KINDS: Final = (
    Poison("empty value", Reason.BAD_JSON, _raw(b"")),
    Poison("null value", Reason.BAD_JSON, _raw(None)),
    Poison("JSON null", Reason.BAD_JSON, _raw(b"null")),
    Poison("JSON array", Reason.BAD_JSON, _raw(b"[1,2,3]")),
    Poison("not JSON", Reason.BAD_JSON, _raw(b"user=42&tokens=100")),
    Poison("cut off", Reason.BAD_JSON, _text(lambda text: text[: len(text) // 2].encode())),
    Poison("byte order mark", Reason.BAD_JSON, _text(lambda text: text.encode("utf-8-sig"))),
    Poison("UTF-16", Reason.BAD_JSON, _text(lambda text: text.encode("utf-16"))),
    Poison("bytes that are no text", Reason.BAD_JSON, _raw(b'{"id":"\xff\xfe"}')),
    Poison("nested 30,000 deep", Reason.BAD_JSON, _raw(b"[" * 30_000)),
    Poison("larger than 64 KiB", Reason.TOO_LARGE, _raw(b" " * (VALUE_BYTES_MAX + 1))),
    Poison("no id", Reason.INVALID, _without("id")),
    Poison("no time", Reason.INVALID, _without("time")),
    Poison("time without a zone", Reason.INVALID, _with(time="2026-11-21T09:00:00")),
    Poison("id of the text \\N", Reason.INVALID, _with(id="\\N")),
    Poison("NUL in the id", Reason.INVALID, _with(id="a\u0000b")),
    Poison("zero width in the id", Reason.INVALID, _with(id="a\u200bb")),
    Poison("count as text", Reason.INVALID, _tokens(input="12")),
    Poison("count as truth", Reason.INVALID, _tokens(input=True)),
    Poison("count as fraction", Reason.INVALID, _tokens(input=1.5)),
    Poison("count of 2^63", Reason.INVALID, _tokens(input=2**63)),
    Poison("quantity beyond any number", Reason.INVALID, _quantity("1e400")),
    Poison("quantity of 5,000 digits", Reason.BAD_JSON, _quantity("9" * 5_000)),
    Poison("quantity that is not a number", Reason.BAD_JSON, _quantity("NaN")),
    Poison("negative tokens", Reason.NEGATIVE, _tokens(input=-5)),
    Poison("negative quantity", Reason.NEGATIVE, _data(quantity=-1)),
    Poison("more cached than input", Reason.INCONSISTENT, _tokens(cache_read=11)),
    Poison("more reasoning than output", Reason.INCONSISTENT, _tokens(reasoning=11)),
    Poison("another account's key", Reason.KEY_MISMATCH, _keyed(b"somebody-else")),
    Poison("no key", Reason.KEY_MISMATCH, _keyed(None)),
    Poison("400 days old", Reason.TOO_OLD, _shifted(-400)),
    Poison("a day ahead", Reason.FUTURE_TIME, _shifted(1)),
    Poison("version 9", Reason.FUTURE_SCHEMA, _with(type="tollgate.usage.v9")),
    Poison("foreign type", Reason.UNKNOWN_TYPE, _with(type="com.example.order.created")),
    # With tokens: work without any is priced by its action, whatever model it names.
    Poison(
        "unknown model",
        Reason.UNPRICED,
        _data(provider="nobody", model="unheard-of-9", tokens={"input": 9, "output": 9}),
    ),
    Poison(
        "same id, other payload", Reason.DUP_MISMATCH, _data(resource_id="other"), of_earlier=True
    ),
)
