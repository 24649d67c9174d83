"""From the bytes of a Kafka record to a usage event or the one reason why it is not one."""

import re
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Final

from pydantic import TypeAdapter, ValidationError
from pydantic_core import ErrorDetails, from_json

from schemas.names import is_account_id, is_identifier
from schemas.reasons import Reason, Rejected
from schemas.usage import EVENT_TYPE, UsageEvent, priced_as

VALUE_BYTES_MAX: Final = 65_536
_DAY_MS = 86_400_000
_EPOCH = datetime(1970, 1, 1, tzinfo=UTC)
_FAMILY = "tollgate.usage.v"

_DETAIL_MAX = 300
_RANK = {"greater_than_equal": 1, "inconsistent": 2}
# All fields of an event wrong at once are fewer: more can only be names that nobody knows, and to
# list those takes longer than one record may.
_PROBLEMS_MAX = 100
_UNKNOWN_NAME = "unexpected_keyword_argument"
_NAME = re.compile(r"[a-z][a-z0-9_]{0,31}")

_validate = TypeAdapter(UsageEvent).validator.validate_json


@dataclass(frozen=True, slots=True)
class TimeWindow:
    """How far an event's time may be before and after the time Kafka appended it, inclusive."""

    age_ms_max: int = 35 * _DAY_MS
    ahead_ms_max: int = 5 * 60_000


ANY_TIME = TimeWindow(age_ms_max=2**62, ahead_ms_max=2**62)
"""For a record whose time was judged before, or is judged elsewhere."""


def decode(
    value: bytes | None, key: bytes | None, appended_at_ms: int, window: TimeWindow
) -> UsageEvent | Rejected:
    """The event in `value`, or the first thing that is wrong with the record. Never raises.

    Order of the checks: size, JSON, version and type, fields, key, time. Pure: the same record
    gives the same answer on every replay. Headers are no input, so they can forge nothing.
    """
    if value is None:
        return Rejected(Reason.BAD_JSON, "the value is null", _known(key))
    try:
        if len(value) > VALUE_BYTES_MAX:
            detail = f"{len(value)} bytes are more than {VALUE_BYTES_MAX}"
            return Rejected(Reason.TOO_LARGE, detail, _known(key))
        if b"NaN" in value or b"Infinity" in value:
            from_json(value, allow_inf_nan=False)
        event = _validate(value)
    except ValidationError as error:
        return _explain(error, value, key)
    except ValueError:
        return Rejected(Reason.BAD_JSON, "NaN and Infinity are not JSON", _known(key))
    if key is None or key != event.subject.encode():
        detail = "the record has no key" if key is None else "the key is not the subject"
        return _refused(event, Reason.KEY_MISMATCH, detail)
    return _within(event, appended_at_ms, window)


def _within(event: UsageEvent, appended_at_ms: int, window: TimeWindow) -> UsageEvent | Rejected:
    """Compares in whole microseconds: no float, and no date that can overflow."""
    since = event.time - _EPOCH
    behind_us = appended_at_ms * 1000 - (
        (since.days * 86_400 + since.seconds) * 1_000_000 + since.microseconds
    )
    if behind_us > window.age_ms_max * 1000:
        detail = f"{behind_us // 1_000_000} s before the append, over {window.age_ms_max // 1000} s"
        return _refused(event, Reason.TOO_OLD, detail)
    if -behind_us > window.ahead_ms_max * 1000:
        detail = (
            f"{-behind_us // 1_000_000} s after the append, over {window.ahead_ms_max // 1000} s"
        )
        return _refused(event, Reason.FUTURE_TIME, detail)
    return event


def _refused(event: UsageEvent, reason: Reason, detail: str) -> Rejected:
    return Rejected(reason, detail, event.subject, event.id, priced_as(event.data))


def _explain(error: ValidationError, value: bytes, key: bytes | None) -> Rejected:
    """The slow path: reads the record a second time, loosely, to name the reason."""
    problems = _problems(error)
    if problems and not problems[0]["loc"]:
        return Rejected(Reason.BAD_JSON, _printable(problems[0]["msg"]), _known(key))
    record = from_json(value)
    subject, event_id = record.get("subject"), record.get("id")
    account_id = subject if is_account_id(subject) else _known(key)
    reason, detail = _version(record.get("type")) or _worst(problems)
    return Rejected(reason, detail, account_id, event_id if is_identifier(event_id) else None)


def _problems(error: ValidationError) -> list[ErrorDetails]:
    """What is wrong, place by place; nothing when it is too much to be listed in time."""
    if error.error_count() > _PROBLEMS_MAX:
        return []
    return error.errors(include_url=False, include_input=False, include_context=False)


def _version(event_type: object) -> tuple[Reason, str] | None:
    """Judged before the fields: another version may look different everywhere else."""
    if not isinstance(event_type, str) or event_type == EVENT_TYPE:
        return None
    number = event_type.removeprefix(_FAMILY)
    if number != event_type and number.isascii() and number.isdigit() and number[0] != "0":
        return Reason.FUTURE_SCHEMA, f"a later version than {EVENT_TYPE}"
    return Reason.UNKNOWN_TYPE, f"the type is not {EVENT_TYPE}"


def _worst(problems: list[ErrorDetails]) -> tuple[Reason, str]:
    """A shape that is wrong outranks a negative count, which outranks counts that do not add up."""
    if not problems:
        return Reason.INVALID, f"more than {_PROBLEMS_MAX} unknown names"
    ranked = min(problems, key=lambda problem: _RANK.get(problem["type"], 0))
    reason = (Reason.INVALID, Reason.NEGATIVE, Reason.INCONSISTENT)[_RANK.get(ranked["type"], 0)]
    if ranked["type"] == _UNKNOWN_NAME:
        return reason, _unknown(ranked["loc"])
    return reason, _printable(f"{_place(ranked['loc'])}: {ranked['msg']}")


def _unknown(loc: tuple[int | str, ...]) -> str:
    """Names the unknown kind, so that an app sees what is to be removed: only what reads as one."""
    name = str(loc[-1])
    shown = f" {name}" if _NAME.fullmatch(name) else ""
    return f"{_place(loc[:-1])}: no such field{shown}"


def _place(loc: tuple[int | str, ...]) -> str:
    """The field. Names of attributes are the record's own text, so they are left out."""
    names = [str(part) for part in loc]
    if "attributes" in names:
        names = names[: names.index("attributes") + 1]
    return ".".join(names)


def _printable(text: str) -> str:
    return "".join(mark if " " <= mark <= "~" else "?" for mark in text[:_DETAIL_MAX])


def _known(key: bytes | None) -> str | None:
    """The account that the key names, when it is a valid one."""
    text = b"" if key is None else key
    named = text.decode("ascii") if text.isascii() else ""
    return named if is_account_id(named) else None
