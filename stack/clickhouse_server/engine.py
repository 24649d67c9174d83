"""The engine: one per process, many connections, each with settings of its own."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from chdb import _chdb  # the C++ class: `chdb.session` adds Python around every call

from stack.clickhouse_server.errors import error, from_engine
from stack.clickhouse_server.statement import Insert, Query, parse

DEFAULT_FORMAT = "TabSeparated"


@dataclass(frozen=True, slots=True)
class Request:
    """One statement: `query` and `data` are joined as ClickHouse joins `?query=` and the body."""

    query: bytes
    data: bytes
    database: str = ""
    output_format: str = DEFAULT_FORMAT
    settings: Mapping[str, str] = field(default_factory=dict)
    parameters: Mapping[str, str] = field(default_factory=dict)
    readonly: bool = False


@dataclass(frozen=True, slots=True)
class Result:
    """What a statement gave: the bytes in `output_format`, untouched, and the counts."""

    body: bytes
    output_format: str
    rows_read: int
    bytes_read: int
    rows_written: int
    bytes_written: int
    elapsed_seconds: float


class Engine:
    """ClickHouse's engine over one directory. Only one process at a time may open it.

    Safe to use from many threads: every statement has a connection of its own.
    """

    def __init__(self, path: Path, *, memory_bytes_max: int) -> None:
        self._address = f"{path}?max_server_memory_usage={memory_bytes_max}"
        self._keeps_engine_open = _chdb.connect(self._address)
        about = self._keeps_engine_open.query("SELECT version(), timezone()", "TabSeparated")
        self.version, self.timezone = about.bytes().decode().split()

    def close(self) -> None:
        """Lets running merges end and closes the files."""
        self._keeps_engine_open.close()

    def execute(self, request: Request) -> Result:
        """Runs one statement; raises EngineError. An INSERT's data goes into the engine as it is,
        and none of its rows is there when it fails while parsing.
        """
        connection = _chdb.connect(self._address)
        try:
            self._prepare(connection, request)
            return self._run(connection, request)
        except RuntimeError as failure:
            raise from_engine(str(failure)) from None
        finally:
            connection.close()

    def _prepare(self, connection: Any, request: Request) -> None:
        if request.database:
            name = request.database.replace("\\", "\\\\").replace("`", "\\`")
            connection.query(f"USE `{name}`", DEFAULT_FORMAT)
        settings = {**request.settings}
        settings.update({f"param_{name}": value for name, value in request.parameters.items()})
        if settings:
            pairs = ", ".join(f"{_name(key)} = {_quote(value)}" for key, value in settings.items())
            connection.query(f"SET {pairs}", DEFAULT_FORMAT)
        if request.readonly:
            connection.query("SET readonly = 2", DEFAULT_FORMAT)

    def _run(self, connection: Any, request: Request) -> Result:
        separator = b"\n" if request.query and request.data else b""
        if request.query:
            statement = parse(request.query)
            if isinstance(statement, Insert):
                inline = request.query[statement.data_offset :]
                return _insert(connection, statement, [inline, request.data])
            return _query(connection, parse(request.query + separator + request.data), request)
        statement = parse(request.data)
        if isinstance(statement, Insert):
            body = memoryview(request.data)[statement.data_offset :]
            return _insert(connection, statement, [bytes(body)])
        return _query(connection, statement, request)


def _insert(connection: Any, statement: Insert, data: list[bytes]) -> Result:
    handle = connection.send_insert(_text(statement.sql), statement.input_format)
    try:
        for part in data:
            if part:
                connection.insert_append(handle, part)
    except RuntimeError:
        connection.insert_cancel(handle)
        raise
    return _result(connection.insert_done(handle), DEFAULT_FORMAT)


def _query(connection: Any, statement: Query | Insert, request: Request) -> Result:
    sql = _text(statement.sql)
    if not sql.strip():
        raise error(62, "SYNTAX_ERROR", "Empty query")
    if ";" in sql.rstrip().rstrip(";") and connection.classify_query(sql)["statement_count"] > 1:
        raise error(62, "SYNTAX_ERROR", "Syntax error (Multi-statements are not allowed)")
    named = statement.output_format if isinstance(statement, Query) else None
    output_format = named or request.output_format
    return _result(connection.query(sql, output_format), output_format)


def _result(done: Any, output_format: str) -> Result:
    if done.has_error():
        raise from_engine(done.error_message())
    return Result(
        body=done.bytes(),
        output_format=output_format,
        rows_read=done.storage_rows_read(),
        bytes_read=done.storage_bytes_read(),
        rows_written=done.rows_written(),
        bytes_written=done.bytes_written(),
        elapsed_seconds=done.elapsed(),
    )


def _text(sql: bytes) -> str:
    try:
        return sql.decode()
    except UnicodeDecodeError:
        raise error(62, "SYNTAX_ERROR", "Syntax error: the query is not UTF-8") from None


def _name(key: str) -> str:
    if not key.replace("_", "a").isalnum():
        raise error(115, "UNKNOWN_SETTING", f"Unknown setting '{key}'.")
    return key


def _quote(value: str) -> str:
    return "'" + value.replace("\\", "\\\\").replace("'", "\\'") + "'"
