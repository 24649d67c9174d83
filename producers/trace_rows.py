"""Rows of usage out of files: CloudEvents or flat JSON lines, CSV with named columns, known traces.

A trace is recognised by its header:
- Azure LLM inference trace: TIMESTAMP, ContextTokens, GeneratedTokens. No account, no model.
- ServeGen: ts_s, client_id, model, input_tokens, ... Times are seconds since the trace began. In
  the published samples the reasoning tokens never exceed the output tokens, so they are a part of
  them, as in our own counts; image and audio tokens are taken as parts of the input alike. Video
  tokens stay in the input and are noted in the attributes.

What providers answered is never recognised, only read when asked for: `normalise/recorded.py`.
"""

import csv
import json
import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from enum import StrEnum
from pathlib import Path
from typing import Any, Final, TextIO, assert_never


class Format(StrEnum):
    """What a file is taken for."""

    JSON_LINES = "json lines"
    CSV = "csv"
    AZURE = "azure trace"
    SERVEGEN = "servegen trace"
    PROVIDER_USAGE = "provider usage"


class UnreadableError(Exception):
    """The file as a whole cannot be read as usage; the message says what was expected."""


@dataclass(frozen=True, slots=True)
class Row:
    """One line of a file: its number, from 1, and its fields; `problem` when it has none."""

    number: int
    fields: dict[str, Any]
    problem: str = ""


# Every name that a column can be mapped to, besides attributes.NAME.
FIELDS: Final = frozenset(
    {
        "account_id",
        "event_id",
        "time",
        "seconds",
        "action",
        "provider",
        "model",
        "input_tokens",
        "output_tokens",
        "cache_read_tokens",
        "cache_write_tokens",
        "cache_write_1h_tokens",
        "reasoning_tokens",
        "audio_input_tokens",
        "audio_output_tokens",
        "image_input_tokens",
        "image_output_tokens",
        "video_input_tokens",
        "quantity",
        "unit",
        "service_tier",
        "power_level",
        "hold_id",
        "resource_id",
        "own_key",
    }
)
_ABOUT_A_CALL: Final = frozenset(
    {"account_id", "event_id", "time", "action", "power_level", "hold_id", "resource_id", "own_key"}
)
_OTHER_NAMES: Final = {
    "account": "account_id",
    "subject": "account_id",
    "id": "event_id",
    "timestamp": "time",
    "occurred_at": "time",
}
_AZURE: Final = {
    "time": "TIMESTAMP",
    "input_tokens": "ContextTokens",
    "output_tokens": "GeneratedTokens",
}
_SERVEGEN: Final = {
    "seconds": "ts_s",
    "account_id": "client_id",
    "model": "model",
    "input_tokens": "input_tokens",
    "output_tokens": "output_tokens",
    "reasoning_tokens": "reasoning_tokens",
    "image_input_tokens": "image_tokens",
    "audio_input_tokens": "audio_tokens",
    "attributes.video_tokens": "video_tokens",
}
_WHOLE_NUMBER = re.compile(r"-?\d{1,18}", re.ASCII)
_COUNTS: Final = frozenset({name for name in FIELDS if name.endswith("_tokens")} | {"quantity"})


def parse_mapping(pairs: Sequence[str]) -> dict[str, str]:
    """`field=Column` pairs as a mapping from our names to the file's.

    Raises UnreadableError for a pair without `=` or a field that usage does not have.
    """
    mapping = {}
    for pair in pairs:
        field, equals, column = pair.partition("=")
        if not equals or not column:
            raise UnreadableError(f"{pair!r} is not FIELD=COLUMN")
        if field not in FIELDS and not field.startswith("attributes."):
            known = ", ".join(sorted(FIELDS))
            raise UnreadableError(f"{field!r} is not one of {known}, attributes.NAME")
        mapping[field] = column
    return mapping


def recognise(first_line: str) -> Format:
    """The format of a file by its first line."""
    if first_line.lstrip().startswith("{"):
        return Format.JSON_LINES
    columns = {column.strip() for column in first_line.split(",")}
    if columns >= set(_AZURE.values()):
        return Format.AZURE
    if columns >= {"ts_s", "client_id", "model", "input_tokens", "output_tokens"}:
        return Format.SERVEGEN
    return Format.CSV


def read_rows(
    path: Path, mapping: Mapping[str, str], wanted: Format | None = None
) -> tuple[Format, Iterator[Row]]:
    """The format of the file, and its rows in order; the file is read as the rows are taken.

    The format is the `wanted` one, else recognised by the first line. A row that cannot be read is
    a row with a problem. Raises UnreadableError for an empty file, a header without the mapped
    columns, or a CSV that needs a mapping; OSError as the file does.
    """
    with _opened(path) as lines:
        first = lines.readline()
    if not first.strip():
        raise UnreadableError("the file is empty")
    found = wanted or recognise(first)
    match found:
        case Format.PROVIDER_USAGE:
            return found, _json_rows(path, mapping, recorded=True)
        case Format.JSON_LINES:
            return found, _json_rows(path, mapping)
        case Format.AZURE:
            return found, _csv_rows(path, first, _AZURE, mapping)
        case Format.SERVEGEN:
            return found, _csv_rows(path, first, _SERVEGEN, mapping)
        case Format.CSV:
            return found, _csv_rows(path, first, {}, mapping)
        case _:
            assert_never(found)


def _opened(path: Path) -> TextIO:
    return path.open(encoding="utf-8-sig", errors="replace", newline="")


def _csv_rows(
    path: Path, header: str, known: Mapping[str, str], mapping: Mapping[str, str]
) -> Iterator[Row]:
    columns = [column.strip() for column in next(csv.reader([header]))]
    missing = [column for column in mapping.values() if column not in columns]
    if missing:
        raise UnreadableError(f"no column {missing[0]!r}; there are {', '.join(columns)}")
    named = {_named(name): name for name in columns if _named(name) in FIELDS}
    chosen = {**(known or named), **mapping}
    if not chosen:
        raise UnreadableError(
            "no column has a name of ours; name them with --map, as --map input_tokens=PromptTokens"
        )
    return _mapped(path, columns, chosen)


def _mapped(path: Path, columns: list[str], chosen: Mapping[str, str]) -> Iterator[Row]:
    places = {field: columns.index(name) for field, name in chosen.items() if name in columns}
    with _opened(path) as lines:
        cells = csv.reader(lines)
        next(cells)
        for number, row in enumerate(cells, start=1):
            if len(row) == len(columns):
                yield Row(number, _fields({field: row[place] for field, place in places.items()}))
            elif row:
                yield Row(number, {}, f"{len(row)} cells, the header has {len(columns)}")


def _fields(texts: Mapping[str, str]) -> dict[str, Any]:
    """Cells as values: empty ones are absent, counts whole numbers; the rest stays text."""
    fields: dict[str, Any] = {}
    for field, text in texts.items():
        if text == "":
            continue
        name, dot, attribute = field.partition(".")
        if dot and text != "0":
            fields.setdefault(name, {})[attribute] = text
        elif field in _COUNTS and _WHOLE_NUMBER.fullmatch(text):
            fields[field] = int(text)
        elif field == "own_key" and text in {"true", "false"}:
            fields[field] = text == "true"
        elif not dot:
            fields[field] = text
    return fields


def _json_rows(path: Path, mapping: Mapping[str, str], *, recorded: bool = False) -> Iterator[Row]:
    theirs = {column: field for field, column in mapping.items()}
    with _opened(path) as lines:
        for number, line in enumerate(lines, start=1):
            if line.strip():
                yield _json_row(number, line, theirs, recorded=recorded)


def _json_row(number: int, line: str, theirs: Mapping[str, str], *, recorded: bool) -> Row:
    try:
        found = json.loads(line)
    except (ValueError, RecursionError) as error:
        return Row(number, {}, f"not JSON: {error}")
    if not isinstance(found, dict):
        return Row(number, {}, "not a JSON object")
    if recorded:
        return Row(number, {**_of_the_call(_flat(found, theirs)), "recorded": found})
    if "specversion" in found:
        return Row(number, {"cloudevent": line})
    return Row(number, _flat(found, theirs))


def _flat(found: Mapping[str, Any], theirs: Mapping[str, str]) -> dict[str, Any]:
    fields: dict[str, Any] = {}
    for name, value in found.items():
        field = theirs.get(name) or _named(name)
        parent, dot, attribute = field.partition(".")
        if dot and parent == "attributes":
            fields.setdefault(parent, {})[attribute] = value
        else:
            fields[field] = value
    return fields


def _of_the_call(fields: Mapping[str, Any]) -> dict[str, Any]:
    """What a recorded call may say of its own; what was used is told by the usage alone."""
    own = _ABOUT_A_CALL | {"attributes"}
    return {name: value for name, value in fields.items() if name in own}


def _named(name: str) -> str:
    return _OTHER_NAMES.get(name, name)
