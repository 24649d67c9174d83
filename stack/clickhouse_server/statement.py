"""What a request's bytes ask for: a query, or an INSERT and the data that follows it."""

import re
from collections.abc import Iterator
from dataclasses import dataclass

from stack.clickhouse_server.errors import error

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
_NO_DATA_FOLLOWS = frozenset({b"SELECT", b"WITH", b"FROM", b"WATCH"})


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


@dataclass(frozen=True, slots=True)
class _Word:
    upper: bytes
    start: int
    end: int
    depth: int


def parse(text: bytes) -> Query | Insert:
    """Tells an INSERT with data from every other statement.

    Bytes after the start of an INSERT's data are not looked at, so the cost does not depend on
    their number. Raises EngineError for what a server refuses and the engine would do.
    """
    words = _words(text)
    first = next(words, None)
    if first is None or first.upper != b"INSERT":
        return Query(text, _output_format(text))
    for word in words:
        if word.depth:
            continue
        if word.upper in _NO_DATA_FOLLOWS:
            _refuse_unsupported(text, words, word)
            return Query(text, None)
        if word.upper == b"VALUES":
            return Insert(text[: word.start], "Values", word.end)
        if word.upper == b"FORMAT":
            return _insert_with_format(text, word.start, words)
    return Query(text, None)  # cut off before its data, or wrong: the engine words the error


def _insert_with_format(text: bytes, format_start: int, words: Iterator[_Word]) -> Query | Insert:
    name = next(words, None)
    if name is None:
        return Query(text, None)  # the engine words the syntax error
    sql, end = text[:format_start], name.end
    settings = _SETTINGS_AFTER_FORMAT.match(text, end)
    if settings:
        sql, end = sql + settings.group(1), settings.end()
    skipped = _DATA_START.match(text, end)
    offset = skipped.end() if skipped else end
    return Insert(sql, text[name.start : name.end].decode(), offset)


def _output_format(text: bytes) -> str | None:
    """The format named by the last FORMAT clause outside parentheses and quotes."""
    found: str | None = None
    previous = b""
    for word in _words(text):
        if word.depth:
            continue
        if previous == b"FORMAT":
            found = text[word.start : word.end].decode()
        if (previous, word.upper) == (b"INTO", b"OUTFILE"):
            raise error(358, "INTO_OUTFILE_NOT_ALLOWED", "INTO OUTFILE is not allowed")
        previous = word.upper
    return found


def _refuse_unsupported(text: bytes, words: Iterator[_Word], word: _Word) -> None:
    if word.upper == b"FROM" and (next_word := next(words, None)) and next_word.upper == b"INFILE":
        raise error(78, "UNKNOWN_TYPE_OF_QUERY", "Query has infile and was sent directly to server")
    for later in words:
        # The engine would accept it and silently take no row of the data.
        if later.upper == b"INPUT" and text[later.end :].lstrip()[:1] == b"(":
            raise error(48, "NOT_IMPLEMENTED", "INSERT ... SELECT FROM input() is not supported.")


def _words(text: bytes) -> Iterator[_Word]:
    depth = 0
    for token in _TOKEN.finditer(text):
        if token.lastgroup == "word":
            yield _Word(token.group().upper(), token.start(), token.end(), depth)
        elif token.lastgroup == "other":
            depth += {b"(": 1, b")": -1}.get(token.group(), 0)
