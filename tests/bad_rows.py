"""Every kind of bad input, each with the outcome that it must have, as a way to spoil an event."""

import json
from collections.abc import Callable, Sequence
from datetime import UTC, datetime, timedelta
from random import Random
from typing import Any, Literal, NamedTuple

from schemas.events import EVENT_TYPE, Reason

Expected = Literal["charged", "duplicate"] | Reason
Event = dict[str, Any]
DEEP = 30_000


class Record(NamedTuple):
    """What a producer sends, what must become of it, and which row of the matrix it is."""

    key: bytes | None
    value: bytes | None
    expected: Expected
    row: str
    headers: Sequence[tuple[str, bytes]] = ()


class Row(NamedTuple):
    """One row: how to spoil a good event, given as a dict, and what must become of it."""

    expected: Expected
    spoil: Callable[[Event], bytes | None]
    key: Callable[[str], bytes | None] = str.encode
    headers: Sequence[tuple[str, bytes]] = ()


def good_event(rng: Random, number: int, account: str, now: datetime) -> Event:
    """A plain event with a price, at most an hour old."""
    total_input = rng.randint(1, 8_000)
    provider, model = rng.choice(
        [("openai", "gpt-4o"), ("openai", "gpt-4o-mini"), ("openai", "o3")]
    )
    moment = now - timedelta(milliseconds=rng.randint(0, 3_600_000))
    return {
        "specversion": "1.0",
        "id": f"e-{number:08d}",
        "source": "tests/records",
        "type": EVENT_TYPE,
        "subject": account,
        "time": moment.astimezone(UTC).isoformat(),
        "data": {
            "provider": provider,
            "model": model,
            "tokens": {
                "input": total_input,
                "output": rng.randint(1, 2_000),
                "cache_read": rng.randint(0, total_input),
            },
        },
    }


def to_bytes(event: Event) -> bytes:
    return json.dumps(event, ensure_ascii=False).encode()


def _text(change: Callable[[str], str]) -> Callable[[Event], bytes]:
    return lambda event: change(json.dumps(event)).encode()


def _top(**fields: object) -> Callable[[Event], bytes]:
    return lambda event: to_bytes(event | fields)


def _data(**fields: object) -> Callable[[Event], bytes]:
    return lambda event: to_bytes(event | {"data": event["data"] | fields})


def _tokens(**counts: object) -> Callable[[Event], bytes]:
    return lambda event: to_bytes(event | {"data": event["data"] | {"tokens": counts}})


def _without(name: str) -> Callable[[Event], bytes]:
    return lambda event: to_bytes({k: v for k, v in event.items() if k != name})


def _ignored(literal: str) -> Callable[[Event], bytes]:
    """The literal as the value of a field that nobody reads."""
    return _text(lambda text: text[:-1] + f', "ignored": {literal}}}')


def _input(literal: str) -> Callable[[Event], bytes]:
    """The literal where a token count is expected."""
    return _data_literal(f'"tokens": {{"input": {literal}}}')


def _data_literal(members: str) -> Callable[[Event], bytes]:
    return lambda event: to_bytes(event | {"data": {}})[:-2] + members.encode() + b"}}"


def _shifted(**delta: float) -> Callable[[Event], bytes]:
    def spoil(event: Event) -> bytes:
        moment = datetime.fromisoformat(event["time"]) + timedelta(**delta)
        return to_bytes(event | {"time": moment.isoformat()})

    return spoil


def _exactly(size: int) -> Callable[[Event], bytes]:
    def spoil(event: Event) -> bytes:
        bare = len(to_bytes(event | {"ignored": ""}))
        return to_bytes(event | {"ignored": "x" * (size - bare)})

    return spoil


def _same(event: Event) -> bytes:
    return to_bytes(event)


BAD_JSON = {
    "value null": lambda _event: None,
    "empty": lambda _event: b"",
    "the literal null": lambda _event: b"null",
    "array": lambda event: b"[" + to_bytes(event) + b"]",
    "string": lambda event: json.dumps(json.dumps(event)).encode(),
    "number": lambda _event: b"12",
    "BOM": lambda event: b"\xef\xbb\xbf" + to_bytes(event),
    "UTF-16": lambda event: json.dumps(event).encode("utf-16"),
    "UTF-32": lambda event: json.dumps(event).encode("utf-32-le"),
    "not UTF-8": lambda event: to_bytes(event)[:-1] + b',"x":"\xff"}',
    "overlong UTF-8": lambda event: to_bytes(event)[:-1] + b',"x":"\xc0\xaf"}',
    "surrogate in UTF-8": lambda event: to_bytes(event)[:-1] + b',"x":"\xed\xa0\x80"}',
    "lone surrogate": _data_literal('"resource_id": "\\ud800"'),
    "lone surrogate, ignored field": _ignored('"\\udfff"'),
    "cut off": lambda event: to_bytes(event)[:-1],
    "something after it": lambda event: to_bytes(event) + b"{}",
    "raw NUL in a string": _data_literal('"resource_id": "\x00"'),
    "60,000 nested arrays": lambda _event: b"[" * 2 * DEEP,
    "nested arrays in a field": _ignored("[" * DEEP + "]" * DEEP),
    "nested objects in a field": _ignored('{"":' * 10_000 + "1" + "}" * 10_000),
    "NaN": _input("NaN"),
    "Infinity": _input("Infinity"),
    "-Infinity": _input("-Infinity"),
    "NaN, ignored field": _ignored("NaN"),
    "-Infinity, ignored field": _ignored("[-Infinity]"),
    "5,000 digits": _input("9" * 5_000),
    "leading zero": _input("012"),
    "Arabic digits": _input("١٢"),
    "underscore in a number": _input("1_000"),
    "comment": _text(lambda text: "/* */" + text),
    "single quotes": _text(lambda text: text.replace('"', "'")),
}

INVALID = {
    "1e400": _input("1e400"),
    "1e1000000": _input("1e1000000"),
    "exponent": _input("1e3"),
    "float": _input("12.0"),
    "4,000 digits": _input("9" * 4_000),
    "2^63": _input(str(2**63)),
    "2^64": _input(str(2**64)),
    "over 10^9 tokens": _input(str(10**9 + 1)),
    "bool as number": _input("true"),
    "number as text": _input('"12"'),
    "underscore in text": _input('"1_000"'),
    "null as number": _input("null"),
    "tokens as list": _data(tokens=[1, 2]),
    "unknown kind of token": _tokens(input=5, video_output=5),
    "4,000 unknown kinds of token": _tokens(**{f"k{i}": i for i in range(4_000)}),
    "kind of token in capitals": _tokens(Input=5),
    "image tokens as text": _tokens(output=5, image_output="5"),
    "unknown service tier": _data(service_tier="turbo"),
    "service tier null": _data(service_tier=None),
    "unit in capitals": _data(unit="Seconds"),
    "unit null": _data(unit=None),
    "unit too long": _data(unit="s" * 33),
    "billed without amount": _data(billed={"currency": "USD"}),
    "billed as number": _data(billed=0.5),
    "billed amount as number": _data(billed={"amount": 0.5}),
    "billed amount negative": _data(billed={"amount": "-0.5"}),
    "billed amount with exponent": _data(billed={"amount": "5e-1"}),
    "billed amount with 13 decimals": _data(billed={"amount": "0.0000000000001"}),
    "billed amount of 7 digits": _data(billed={"amount": "1000000"}),
    "billed amount in Arabic digits": _data(billed={"amount": "\u0661"}),
    "billed currency in small letters": _data(billed={"amount": "1", "currency": "usd"}),
    "billed with something unknown": _data(billed={"amount": "1", "discount": "0.5"}),
    "over 10^12 quantity": _data(quantity=10**12 + 1),
    "quantity as bool": _data(quantity=True),
    "bool as number 1": _data(own_key=1),
    "bool as text": _data(own_key="true"),
    "unknown power level": _data(power_level="turbo"),
    "data missing": _without("data"),
    "data null": _top(data=None),
    "data a list": _top(data=[]),
    "data as text": _top(data="{}"),
    "id missing": _without("id"),
    "id empty": _top(id=""),
    "id a number": _top(id=12),
    "id too long": _top(id="x" * 129),
    "id of 60 kB": _top(id="x" * 60_000),
    "id NFC": _top(id="caf\u00e9"),
    "id NFD": _top(id="cafe\u0301"),
    "id with zero width": _top(id="e-1\u200b"),
    "id \\N": _top(id="\\N"),
    "id with NUL": _top(id="e-1\x00"),
    "id with newline": _top(id="e-1\n"),
    "id with SQL": _top(id="'; DROP TABLE charge; --"),
    "subject missing": _without("subject"),
    "subject \\N": _top(subject="\\N"),
    "subject too long": _top(subject="x" * 129),
    "source missing": _without("source"),
    "source empty": _top(source=""),
    "source \\N": _top(source="\\N"),
    "source with space": _top(source="a b"),
    "source too long": _top(source="x" * 257),
    "model with NUL": _data(model="gpt-4o\x00"),
    "model with newline": _data(model="gpt-4o\n"),
    "model \\N": _data(model="\\N"),
    "model too long": _data(model="x" * 201),
    "provider with space": _data(provider="open ai"),
    "action empty": _data(action=""),
    "action in capitals": _data(action="DROP"),
    "resource \\N": _data(resource_id="\\N"),
    "resource with NUL": _data(resource_id="a\x00"),
    "hold empty": _data(hold_id=""),
    "hold \\N": _data(hold_id="\\N"),
    "hold a number": _data(hold_id=7),
    "attribute not text": _data(attributes={"a": 1}),
    "attribute nested": _data(attributes={"a": {"b": "c"}}),
    "attribute with NUL": _data(attributes={"a": "\x00"}),
    "attribute with control": _data(attributes={"a": "\x1b[31m"}),
    "attribute with C1 control": _data(attributes={"a": "\x9b"}),
    "attribute name with NUL": _data(attributes={"a\x00": "b"}),
    "attribute name \\N": _data(attributes={"\\N": "b"}),
    "attribute name empty": _data(attributes={"": "b"}),
    "attribute too long": _data(attributes={"a": "x" * 257}),
    "17 attributes": _data(attributes={f"a{i}": "" for i in range(17)}),
    "4,000 attributes": _data(attributes={f"a{i}": i for i in range(4_000)}),
    "attributes a list": _data(attributes=[["a", "b"]]),
    "specversion missing": _without("specversion"),
    "specversion 0.3": _top(specversion="0.3"),
    "specversion a number": _top(specversion=1.0),
    "type missing": _without("type"),
    "type a number": _top(type=1),
    "time missing": _without("time"),
    "time null": _top(time=None),
    "time naive": _top(time="2026-11-21T09:00:00"),
    "time in Unix seconds": _top(time=1795251600),
    "time in Unix seconds as text": _top(time="1795251600"),
    "time a date": _top(time="2026-11-21"),
    "time without seconds": _top(time="2026-11-21T09:00Z"),
    "time with a space": _top(time="2026-11-21 09:00:00Z"),
    "time 30 February": _top(time="2026-02-30T09:00:00Z"),
    "time with a leap second": _top(time="2026-06-30T23:59:60Z"),
    "time in Arabic digits": _top(time="٢٠٢٦-11-21T09:00:00Z"),
    "time of 60 kB": _top(time="2026-11-21T09:00:00." + "1" * 60_000 + "Z"),
    "time past 9999 in UTC": _top(time="9999-12-31T23:59:59-14:00"),
    "time before year 1 in UTC": _top(time="0001-01-01T00:00:00+14:00"),
    "time with an offset of 25 h": _top(time="2026-11-21T09:00:00+25:00"),
}

NEGATIVE = {
    "negative input": _tokens(input=-1),
    "negative output": _tokens(output=-(2**63)),
    "negative cached": _tokens(input=5, cache_read=-5),
    "negative beyond 64 bits": _input("-" + "9" * 30),
    "negative quantity": _data(quantity=-1),
}

INCONSISTENT = {
    "cached over input": _tokens(input=10, cache_read=11),
    "cache parts over input": _tokens(input=10, cache_read=6, cache_write=5),
    "audio over input": _tokens(input=10, audio_input=11),
    "image over input": _tokens(input=10, cache_read=5, image_input=6),
    "video over input": _tokens(input=10, audio_input=5, video_input=6),
    "cached without input": _tokens(cache_read=1),
    "hour-long writes over writes": _tokens(input=10, cache_write=4, cache_write_1h=5),
    "reasoning over output": _tokens(output=10, reasoning=11),
    "output parts over output": _tokens(output=10, reasoning=6, audio_output=5),
    "image over output": _tokens(output=10, reasoning=5, image_output=6),
}

_HOSTILE_HEADERS = (("tenant", b"acct-0000"), ("account_id", b"\xff\xfe"), ("type", b""))

ROWS: dict[str, Row] = {
    **{name: Row(Reason.BAD_JSON, spoil) for name, spoil in BAD_JSON.items()},
    **{name: Row(Reason.INVALID, spoil) for name, spoil in INVALID.items()},
    **{name: Row(Reason.NEGATIVE, spoil) for name, spoil in NEGATIVE.items()},
    **{name: Row(Reason.INCONSISTENT, spoil) for name, spoil in INCONSISTENT.items()},
    "64 KiB and a byte": Row(Reason.TOO_LARGE, _exactly(65_537)),
    "200 KiB": Row(Reason.TOO_LARGE, _exactly(200_000)),
    "200 KiB of zeros": Row(Reason.TOO_LARGE, lambda _event: bytes(200_000)),
    "key null": Row(Reason.KEY_MISMATCH, _same, key=lambda _account: None),
    "key empty": Row(Reason.KEY_MISMATCH, _same, key=lambda _account: b""),
    "key of another account": Row(Reason.KEY_MISMATCH, _same, key=lambda _account: b"acct-other"),
    "key not UTF-8": Row(
        Reason.KEY_MISMATCH, _same, key=lambda account: b"\xff" + account.encode()
    ),
    "key in capitals": Row(
        Reason.KEY_MISMATCH, _same, key=lambda account: account.upper().encode()
    ),
    "key with NUL": Row(Reason.KEY_MISMATCH, _same, key=lambda account: account.encode() + b"\x00"),
    "forged tenant header": Row(
        Reason.KEY_MISMATCH, _same, key=lambda _account: None, headers=_HOSTILE_HEADERS
    ),
    "time 1900": Row(Reason.TOO_OLD, _top(time="1900-01-01T00:00:00Z")),
    "time year 1": Row(Reason.TOO_OLD, _top(time="0001-01-01T00:00:00Z")),
    "time -400 d": Row(Reason.TOO_OLD, _shifted(days=-400)),
    "time 9999": Row(Reason.FUTURE_TIME, _top(time="9999-12-31T23:59:59.999999Z")),
    "time +1 d": Row(Reason.FUTURE_TIME, _shifted(days=1, hours=2)),
    "next version": Row(Reason.FUTURE_SCHEMA, _top(type="tollgate.usage.v2")),
    "version 12 in another shape": Row(
        Reason.FUTURE_SCHEMA, _top(type="tollgate.usage.v12", data=None, time="later")
    ),
    "another type": Row(Reason.UNKNOWN_TYPE, _top(type="com.example.invoice.paid")),
    "version 0": Row(Reason.UNKNOWN_TYPE, _top(type="tollgate.usage.v0")),
    "version without number": Row(Reason.UNKNOWN_TYPE, _top(type="tollgate.usage.v")),
    "version in Arabic digits": Row(Reason.UNKNOWN_TYPE, _top(type="tollgate.usage.v٢")),
    "unknown model": Row(Reason.UNPRICED, _data(provider="", model="no-such-model")),
    "unknown action": Row(Reason.UNPRICED, _top(data={"action": "no_such_action", "quantity": 3})),
}

ODD_BUT_GOOD: dict[str, Row] = {
    "exactly 64 KiB": Row("charged", _exactly(65_536)),
    "duplicate keys": Row("charged", _text(lambda text: '{"id": -1, "data": [],' + text[1:])),
    "unknown fields": Row("charged", _top(dataschema="x", traceparent="00-1", extra={"a": [1]})),
    "unknown field in data": Row("charged", _data(temperature=0.7, nested={"a": None})),
    "1e1000000, ignored field": Row("charged", _ignored("1e1000000")),
    "4,000 digits, ignored field": Row("charged", _ignored("[" + "9" * 4_000 + "]")),
    "billed beside the counts": Row("charged", _data(billed={"amount": "0.000123456789"})),
    "unit without quantity": Row("charged", _data(unit="seconds")),
    "NaN inside text": Row("charged", _data(attributes={"a": "NaN and -Infinity"})),
    "escaped text": Row(
        "charged", _text(lambda text: text.replace("tests/records", "tests\\/record\\u0073"))
    ),
    "white space": Row("charged", lambda event: json.dumps(event, indent=2).encode() + b"\r\n\t "),
    "100 ns in the time": Row(
        "charged", lambda event: to_bytes(event | {"time": event["time"][:19] + ".1234567Z"})
    ),
    "time with an offset": Row(
        "charged",
        lambda event: to_bytes(
            event
            | {
                "time": (datetime.fromisoformat(event["time"]) + timedelta(hours=5)).isoformat()[
                    :19
                ]
                + "+05:00"
            }
        ),
    ),
    "attributes in any script": Row("charged", _data(attributes={"team": "日本語 🚀 e\u0301"})),
    "attribute that looks like NULL": Row("charged", _data(attributes={"a": "\\N"})),
    "hold of nobody": Row("charged", _data(hold_id="no-such-hold")),
    "hostile headers": Row("charged", _same, headers=_HOSTILE_HEADERS),
    "1,000 headers": Row("charged", _same, headers=[("h", b"\xff")] * 1_000),
}


def record_of(row: str, event: Event) -> Record:
    """The record of one row of the matrix, spoiled from the good event."""
    recipe = ROWS.get(row) or ODD_BUT_GOOD[row]
    return Record(
        recipe.key(event["subject"]), recipe.spoil(event), recipe.expected, row, recipe.headers
    )
