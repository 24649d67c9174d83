"""ClickHouse's HTTP requests and answers, apart from any socket."""

import base64
import hmac
import json
from collections.abc import Mapping
from dataclasses import dataclass
from email import message_from_bytes, policy
from email.message import Message
from typing import TypeAlias
from urllib.parse import parse_qsl

from stack.clickhouse_server import compression
from stack.clickhouse_server.engine import DEFAULT_FORMAT, Request, Result
from stack.clickhouse_server.errors import error
from stack.clickhouse_server.sessions import (
    SESSION_SECONDS_DEFAULT,
    SESSION_SECONDS_MAX,
    SessionRequest,
)

# Parameters of the interface itself; every other one is a setting of the statement.
_NOT_SETTINGS = frozenset(
    {
        "query",
        "database",
        "default_format",
        "user",
        "password",
        "quota_key",
        "query_id",
        "session_id",
        "session_timeout",
        "session_check",
        "close_session",
        "stacktrace",
        "role",
        "wait_end_of_query",
        "buffer_size",
        "client_protocol_version",
    }
)
Headers: TypeAlias = "Message[str, str]"

_BINARY = "application/octet-stream"
_CONTENT_TYPES = {
    "JSON": "application/json; charset=UTF-8",
    "JSONCompact": "application/json; charset=UTF-8",
    "JSONEachRow": "application/x-ndjson; charset=UTF-8",
    "CSV": "text/csv; charset=UTF-8; header=absent",
    "CSVWithNames": "text/csv; charset=UTF-8; header=present",
    "TabSeparated": "text/tab-separated-values; charset=UTF-8",
    "TSV": "text/tab-separated-values; charset=UTF-8",
    "TabSeparatedWithNames": "text/tab-separated-values; charset=UTF-8",
    "Native": _BINARY,
    "RowBinary": _BINARY,
    "Parquet": _BINARY,
    "Arrow": _BINARY,
    "ArrowStream": _BINARY,
}


@dataclass(frozen=True, slots=True)
class Access:
    """Who may use the server; an empty password lets everybody in, as ClickHouse's default does."""

    user: str = "default"
    password: str = ""


@dataclass(frozen=True, slots=True)
class Call:
    """One HTTP request as it came: decoded body, parameters of the URL and of a form."""

    parameters: Mapping[str, str]
    headers: Headers
    body: bytes
    by_get: bool


def read_call(query_string: str, headers: Headers, body: bytes, *, by_get: bool) -> Call:
    """Decompresses the body and reads its form, if it is one; raises EngineError."""
    parameters = dict(parse_qsl(query_string, keep_blank_values=True))
    for name in ("compress", "decompress"):
        if parameters.pop(name, "0") not in ("0", "false"):
            message = f"{name}=1 is not supported: use Content-Encoding and Accept-Encoding."
            raise error(48, "NOT_IMPLEMENTED", message)
    plain = compression.decode(body, _header(headers, "Content-Encoding").lower())
    if _header(headers, "Content-Type").startswith("multipart/form-data"):
        parameters.update(_form(_header(headers, "Content-Type"), plain))
        plain = b""
    return Call(parameters, headers, plain, by_get)


def to_request(call: Call) -> Request:
    """What the engine is asked for; what is neither the interface's nor known is a setting."""
    parameters = call.parameters
    return Request(
        query=parameters.get("query", "").encode(),
        data=call.body,
        database=parameters.get("database") or _header(call.headers, "X-ClickHouse-Database"),
        output_format=parameters.get("default_format")
        or _header(call.headers, "X-ClickHouse-Format")
        or DEFAULT_FORMAT,
        settings={key: value for key, value in parameters.items() if key not in _NOT_SETTINGS},
        readonly=call.by_get,
        session=_session(parameters),
    )


def require_access(call: Call, access: Access) -> None:
    """Raises EngineError (516) unless the caller has the password that was set."""
    if not access.password:
        return
    user, password = _credentials(call)
    right = hmac.compare_digest(password.encode(), access.password.encode())
    if user != access.user or not right:
        message = (
            "Authentication failed: password is incorrect, or there is no user with such name."
        )
        raise error(516, "AUTHENTICATION_FAILED", f"{user}: {message}")


def answer_headers(result: Result) -> dict[str, str]:
    """The headers that tell a client the format and the counts."""
    summary = {
        "read_rows": result.rows_read,
        "read_bytes": result.bytes_read,
        "written_rows": result.rows_written,
        "written_bytes": result.bytes_written,
        "elapsed_ns": int(result.elapsed_seconds * 1e9),
    }
    return {
        "Content-Type": _CONTENT_TYPES.get(result.output_format, "text/plain; charset=UTF-8"),
        "X-ClickHouse-Format": result.output_format,
        "X-ClickHouse-Summary": json.dumps({key: str(value) for key, value in summary.items()}),
    }


def answer_encoding(call: Call) -> str:
    """How the answer is to be compressed; empty: not at all."""
    if call.parameters.get("enable_http_compression", "0") in ("0", "false"):
        return ""
    return compression.choose(_header(call.headers, "Accept-Encoding"))


def _header(headers: Headers, name: str) -> str:
    return headers.get(name) or ""


def _session(parameters: Mapping[str, str]) -> SessionRequest | None:
    name = parameters.get("session_id", "")
    if not name:
        return None
    try:
        seconds = float(parameters.get("session_timeout") or SESSION_SECONDS_DEFAULT)
    except ValueError:
        raise error(374, "INVALID_SESSION_TIMEOUT", "Invalid session timeout") from None
    must_exist = parameters.get("session_check", "0") == "1"
    return SessionRequest(name, min(seconds, SESSION_SECONDS_MAX), must_exist)


def _credentials(call: Call) -> tuple[str, str]:
    kind, _, value = _header(call.headers, "Authorization").partition(" ")
    if kind.lower() == "basic":
        try:
            user, _, password = base64.b64decode(value).decode().partition(":")
        except ValueError:
            raise error(516, "AUTHENTICATION_FAILED", "Invalid Authorization header.") from None
        return user or "default", password
    user = _header(call.headers, "X-ClickHouse-User") or call.parameters.get("user") or "default"
    password = _header(call.headers, "X-ClickHouse-Key") or call.parameters.get("password", "")
    return user, password


def _form(content_type: str, body: bytes) -> dict[str, str]:
    """The text fields of a form: how a client sends parameters too long for a URL."""
    form = message_from_bytes(
        b"Content-Type: " + content_type.encode() + b"\r\n\r\n" + body, policy=policy.HTTP
    )
    fields = {}
    for part in form.iter_parts():
        name = part.get_param("name", header="content-disposition")
        if part.get_filename() or not isinstance(name, str):
            raise error(48, "NOT_IMPLEMENTED", "External tables are not supported.")
        payload = part.get_payload(decode=True)
        fields[name] = payload.decode() if isinstance(payload, bytes) else ""
    return fields
