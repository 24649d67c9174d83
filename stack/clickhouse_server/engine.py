"""The engine: one per process, many connections, each with settings of its own."""

import threading
import time
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from stack.clickhouse_server.errors import EngineError, error, from_engine
from stack.clickhouse_server.sessions import Connections, SessionRequest
from stack.clickhouse_server.statement import Insert, Query, parse

DEFAULT_FORMAT = "TabSeparated"
STATEMENTS_MAX = 100  # at once, as ClickHouse's own default; more would only share the same cores


@dataclass(frozen=True, slots=True)
class Request:
    """One statement: `query` and `data` are joined as ClickHouse joins `?query=` and the body."""

    query: bytes
    data: bytes
    database: str = ""
    output_format: str = DEFAULT_FORMAT
    settings: Mapping[str, str] = field(default_factory=dict)
    readonly: bool = False
    session: SessionRequest | None = None


@dataclass(frozen=True, slots=True)
class Result:
    """What a statement gave: the bytes in `output_format`, untouched, and the counts.

    The bytes stay in the engine's memory; `owner` must live as long as they are used.
    """

    body: memoryview
    owner: object
    output_format: str
    rows_read: int
    bytes_read: int
    rows_written: int
    bytes_written: int
    elapsed_seconds: float


class Engine:
    """ClickHouse's engine over one directory. Only one process at a time may open it.

    Safe to use from many threads: no two statements share a connection.
    """

    def __init__(self, path: Path, *, memory_bytes_max: int) -> None:
        self._connections = Connections(f"{path}?max_server_memory_usage={memory_bytes_max}")
        self._free = threading.Semaphore(STATEMENTS_MAX)
        # Held to the end: the engine would close its files with the last connection.
        self._held = self._connections.of(None)
        held = self._held.__enter__()
        about = held.query("SELECT version(), timezone()", DEFAULT_FORMAT)
        self.version, self.timezone = about.bytes().decode().split()

    def close(self, *, wait_seconds: float) -> bool:
        """Lets no statement begin, waits for the running ones and closes the files.

        False when some still run after the time: nothing is closed then, and the process may end
        as it is, because a statement that was not answered may be there or not.
        """
        deadline = time.monotonic() + wait_seconds
        for _ in range(STATEMENTS_MAX):
            if not self._free.acquire(timeout=max(0.0, deadline - time.monotonic())):
                return False
        self._connections.close()
        self._held.__exit__(None, None, None)
        return True

    def execute(self, request: Request) -> Result:
        """Runs one statement; raises EngineError.

        An INSERT's data goes into the engine as it is, and none of its rows is there when it fails
        while parsing. Settings of the request hold for this statement, also in a session.
        """
        if not self._free.acquire(timeout=1):
            message = f"Too many simultaneous queries. Maximum: {STATEMENTS_MAX}"
            raise error(202, "TOO_MANY_SIMULTANEOUS_QUERIES", message)
        try:
            with self._connections.of(request.session) as connection:
                return _execute(connection, request)
        except RuntimeError as failure:
            raise from_engine(str(failure)) from None
        finally:
            self._free.release()


def _execute(connection: Any, request: Request) -> Result:
    if request.database:
        name = request.database.replace("\\", "\\\\").replace("`", "\\`")
        connection.query(f"USE `{name}`", DEFAULT_FORMAT)
    try:
        if request.settings:
            pairs = (f"{_name(key)} = {_quote(value)}" for key, value in request.settings.items())
            connection.query(f"SET {', '.join(pairs)}", DEFAULT_FORMAT)
        return _run(connection, request)
    finally:
        if request.session:
            _unset(connection, request.settings)


def _unset(connection: Any, settings: Mapping[str, str]) -> None:
    for name in settings:
        if not name.startswith("param_"):
            try:
                connection.query(f"SET {_name(name)} = DEFAULT", DEFAULT_FORMAT)
            except (RuntimeError, EngineError):
                continue  # it was refused before, so there is nothing to take back


def _run(connection: Any, request: Request) -> Result:
    head, data = _statement(request)
    if request.readonly and not _only_reads(connection, head):
        message = "default: Cannot execute query in readonly mode."
        raise error(
            164, "READONLY", f"{message} For queries over HTTP, method GET implies readonly."
        )
    if isinstance(head, Insert):
        return _insert(connection, head, data)
    return _query(connection, head, request.output_format)


def _statement(request: Request) -> tuple[Query | Insert, list[bytes]]:
    """The statement, and an INSERT's data in parts that were never joined or looked at."""
    if not request.query:
        whole = request.data
    else:
        head = parse(request.query)
        if isinstance(head, Insert):
            return head, [request.query[head.data_offset :], request.data]
        if not request.data:
            return head, []
        whole = request.query + b"\n" + request.data
    head = parse(whole)
    return head, [whole[head.data_offset :]] if isinstance(head, Insert) else []


def _only_reads(connection: Any, statement: Insert | Query) -> bool:
    # Not the setting `readonly`: a session could never take it back.
    if isinstance(statement, Insert):
        return False
    kind: str = connection.classify_query(_text(statement.sql))["query_class"].name
    return kind in ("READ_ONLY", "UNKNOWN")  # what does not parse gets its syntax error


def _insert(connection: Any, statement: Insert, data: list[bytes]) -> Result:
    """As one text, any bytes in it. The engine's streaming insert would save a copy, but it answers
    well when a constraint, a view or a full disk refused the rows.
    """
    head = (statement.sql, b" FORMAT ", statement.input_format.encode(), b"\n")
    return _result(connection.query(b"".join((*head, *data)), DEFAULT_FORMAT), DEFAULT_FORMAT)


def _query(connection: Any, statement: Query, default_format: str) -> Result:
    sql = _text(statement.sql)
    if not sql.strip():
        raise error(62, "SYNTAX_ERROR", "Syntax error: Empty query")
    if ";" in sql.rstrip().rstrip(";") and connection.classify_query(sql)["statement_count"] > 1:
        raise error(62, "SYNTAX_ERROR", "Syntax error (Multi-statements are not allowed)")
    output_format = statement.output_format or default_format
    return _result(connection.query(sql, output_format), output_format)


def _result(done: Any, output_format: str) -> Result:
    if done.has_error():
        raise from_engine(done.error_message())
    owner = done.get_memview()
    return Result(
        body=owner.view() if done.size() else memoryview(b""),
        owner=owner,
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
