"""What a request's bytes ask for: a query, or an INSERT and the data that follows it."""

import re
from collections.abc import Iterator
from dataclasses import dataclass

_TOKEN = re.compile(
    rb"""(?P<skip>\s+|--[^\n]*|\#[!\ ][^\n]*|/\*.*?(?:\*/|\Z))
    |(?P<quoted>'(?:[^'\\]|\\.|'')*'|"(?:[^"\\]|\\.|"")*"|`(?:[^`\\]|\\.|``)*`)
    |(?P<word>[A-Za-z_][A-Za-z0-9_]*)
    |(?P<other>.)""",
    re.VERBOSE | re.DOTALL,
)
_SETTINGS_AFTER_FORMAT = re.compile(
    rb"\s+(SETTINGS\s+\w+\s*=\s*(?:'(?:[^'\\]|\\.)*'|[^\s,']+)"
    rb"(?:\s*,\s*\w+\s*=\s*(?:'(?:[^'\\]|\\.)*'|[^\s,']+))*)",
    re.IGNORECASE,
)
_DATA_START = re.compile(rb"[ \t\f]*;?\r?\n?")
_NOT_DATA = frozenset({b"SELECT", b"WITH", b"FROM", b"WATCH", b"EXPLAIN"})


@dataclass(frozen=True, slots=True)
class Query:
    """A statement whose text is complete; `output_format` is the one that it names, if any."""

    sql: bytes
    output_format: str | None


@dataclass(frozen=True, slots=True)
class Insert:
    """An INSERT up to its data: `sql` without FORMAT, the format, and where the data begins."""

    sql: bytes
    input_format: str
    data_offset: int


def parse(text: bytes) -> Query | Insert:
    """Tells an INSERT with data from every other statement; bytes after the start of an INSERT's
    data are not looked at, so the cost does not depend on their number.
    """
    words = _top_level_words(text)
    first = next(words, None)
    if first is None or text[first[0] : first[1]].upper() != b"INSERT":
        return Query(text, _output_format(text))
    for start, end in words:
        word = text[start:end].upper()
        if word in _NOT_DATA:
            return Query(text, None)
        if word == b"VALUES":
            return Insert(text[:start], "Values", end)
        if word == b"FORMAT":
            return _insert_with_format(text, start, words)
    return Insert(text.rstrip().rstrip(b";"), "Values", len(text))


def _insert_with_format(
    text: bytes, format_start: int, words: Iterator[tuple[int, int]]
) -> Query | Insert:
    name = next(words, None)
    if name is None:
        return Query(text, None)  # the engine words the syntax error
    sql, end = text[:format_start], name[1]
    settings = _SETTINGS_AFTER_FORMAT.match(text, end)
    if settings:
        sql, end = sql + settings.group(1), settings.end()
    skipped = _DATA_START.match(text, end)
    offset = skipped.end() if skipped else end
    return Insert(sql, text[name[0] : name[1]].decode(), offset)


def _output_format(text: bytes) -> str | None:
    """The format named by the last FORMAT clause outside parentheses and quotes."""
    found: str | None = None
    previous = b""
    for start, end in _top_level_words(text):
        word = text[start:end]
        if previous == b"FORMAT":
            found = word.decode()
        previous = word.upper()
    return found


def _top_level_words(text: bytes) -> Iterator[tuple[int, int]]:
    depth = 0
    for token in _TOKEN.finditer(text):
        if token.lastgroup == "word" and depth == 0:
            yield token.span()
        elif token.lastgroup == "other":
            depth += {b"(": 1, b")": -1}.get(token.group(), 0)
