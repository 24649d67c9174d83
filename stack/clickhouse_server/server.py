"""ClickHouse's HTTP interface: what `clickhouse-connect`, curl and ClickHouse's own tools speak."""

import base64
import hmac
import json
import logging
import socket
import uuid
from dataclasses import dataclass
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from urllib.parse import parse_qsl, urlsplit

from stack.clickhouse_server import compression
from stack.clickhouse_server.engine import DEFAULT_FORMAT, Engine, Request, Result
from stack.clickhouse_server.errors import EngineError, error

LOG = logging.getLogger("clickhouse")
BODY_BYTES_MAX = 1 << 30  # a body is held in memory whole: one mistake must not take the machine
IDLE_SECONDS_MAX = 600

# Parameters of the interface itself; every other one is a setting of the statement.
_NOT_SETTINGS = frozenset(
    "query database default_format user password quota_key query_id session_id session_timeout "
    "session_check stacktrace role close_session wait_end_of_query buffer_size".split()
)
_CONTENT_TYPES = {
    "JSON": "application/json; charset=UTF-8",
    "JSONCompact": "application/json; charset=UTF-8",
    "JSONEachRow": "application/x-ndjson; charset=UTF-8",
    "CSV": "text/csv; charset=UTF-8; header=absent",
    "CSVWithNames": "text/csv; charset=UTF-8; header=present",
    "TabSeparated": "text/tab-separated-values; charset=UTF-8",
    "TSV": "text/tab-separated-values; charset=UTF-8",
    "TabSeparatedWithNames": "text/tab-separated-values; charset=UTF-8",
    "Native": "application/octet-stream",
    "RowBinary": "application/octet-stream",
    "Parquet": "application/octet-stream",
    "Arrow": "application/octet-stream",
}


@dataclass(frozen=True, slots=True)
class Access:
    """Who may use the server; an empty password lets everybody in, as ClickHouse's default does."""

    user: str = "default"
    password: str = ""


class Server(ThreadingHTTPServer):
    """One thread per connection. The engine works outside Python's lock, so a long statement
    keeps neither /ping nor other statements waiting.
    """

    daemon_threads = True
    request_queue_size = 128
    allow_reuse_address = True

    def __init__(self, address: tuple[str, int], engine: Engine, access: Access) -> None:
        super().__init__(address, _Handler)
        self.engine = engine
        self.access = access
        self.display_name = socket.gethostname()


class _Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    timeout = IDLE_SECONDS_MAX
    wbufsize = 1 << 16
    disable_nagle_algorithm = True
    server: Server

    def do_GET(self) -> None:
        """Statements by GET may only read, as in ClickHouse."""
        self._answer(readonly=True)

    def do_POST(self) -> None:
        """Statements by POST may do anything."""
        self._answer(readonly=False)

    def log_message(self, format: str, *args: object) -> None:  # noqa: A002 - the base class's name
        """Requests are not logged: a log line per insert says nothing that the data does not."""

    def _answer(self, *, readonly: bool) -> None:
        url = urlsplit(self.path)
        parameters = dict(parse_qsl(url.query, keep_blank_values=True))
        query_id = parameters.get("query_id") or str(uuid.uuid4())
        try:
            body = self._read_body()
            if url.path in ("/ping", "/replicas_status") or (url.path == "/" and not url.query and not body):
                self._send(200, b"Ok.\n", {"Content-Type": "text/html; charset=UTF-8"})
            elif url.path != "/":
                self._send(404, b"There is no handle " + url.path.encode() + b"\n", {})
            else:
                self._require_access(parameters)
                request = self._request(parameters, body, readonly=readonly)
                self._send_result(self.server.engine.execute(request), parameters, query_id)
        except EngineError as failure:
            self._send_error(failure, query_id)
        except (ConnectionError, TimeoutError):
            self.close_connection = True
        except Exception as failure:
            LOG.exception("request failed")
            self._send_error(error(1001, "STD_EXCEPTION", repr(failure)), query_id)

    def _request(self, parameters: dict[str, str], body: bytes, *, readonly: bool) -> Request:
        if parameters.pop("decompress", "0") != "0" or parameters.pop("compress", "0") != "0":
            raise error(48, "NOT_IMPLEMENTED", "compress/decompress: use Content-Encoding.")
        header = self.headers.get
        known = {key: value for key, value in parameters.items() if key not in _NOT_SETTINGS}
        bound = {key[6:]: value for key, value in known.items() if key.startswith("param_")}
        return Request(
            query=parameters.get("query", "").encode(),
            data=body,
            database=parameters.get("database") or header("X-ClickHouse-Database", ""),
            output_format=parameters.get("default_format")
            or header("X-ClickHouse-Format", DEFAULT_FORMAT),
            settings={key: value for key, value in known.items() if not key.startswith("param_")},
            parameters=bound,
            readonly=readonly,
        )

    def _require_access(self, parameters: dict[str, str]) -> None:
        access = self.server.access
        if not access.password:
            return
        user, password = self._credentials(parameters)
        right = hmac.compare_digest(password.encode(), access.password.encode())
        if user != access.user or not right:
            message = f"{user}: Authentication failed: password is incorrect, or there is no user with such name."
            raise error(516, "AUTHENTICATION_FAILED", message)

    def _credentials(self, parameters: dict[str, str]) -> tuple[str, str]:
        kind, _, value = self.headers.get("Authorization", "").partition(" ")
        if kind.lower() == "basic":
            try:
                user, _, password = base64.b64decode(value).decode().partition(":")
            except ValueError:
                raise error(516, "AUTHENTICATION_FAILED", "Invalid Authorization header.") from None
            return user or "default", password
        user = self.headers.get("X-ClickHouse-User") or parameters.get("user") or "default"
        return user, self.headers.get("X-ClickHouse-Key") or parameters.get("password", "")

    def _read_body(self) -> bytes:
        if "chunked" in self.headers.get("Transfer-Encoding", "").lower():
            body = self._read_chunks()
        else:
            length = int(self.headers.get("Content-Length") or 0)
            if length > BODY_BYTES_MAX:
                self.close_connection = True
                raise error(223, "QUERY_IS_TOO_LARGE", f"The body is over {BODY_BYTES_MAX} bytes.")
            body = self.rfile.read(length)
            if len(body) != length:
                raise ConnectionError("the client left in the middle of its body")
        return compression.decode(body, self.headers.get("Content-Encoding", "").lower())

    def _read_chunks(self) -> bytes:
        parts, total = [], 0
        while True:
            length = int(self.rfile.readline(1024).split(b";")[0] or b"x", 16)
            if length == 0:
                while self.rfile.readline(1024) not in (b"\r\n", b"\n", b""):
                    pass
                return b"".join(parts)
            total += length
            if total > BODY_BYTES_MAX:
                self.close_connection = True
                raise error(223, "QUERY_IS_TOO_LARGE", f"The body is over {BODY_BYTES_MAX} bytes.")
            part = self.rfile.read(length)
            if len(part) != length:
                raise ConnectionError("the client left in the middle of its body")
            parts.append(part)
            self.rfile.readline(8)

    def _send_result(self, result: Result, parameters: dict[str, str], query_id: str) -> None:
        summary = {
            "read_rows": result.rows_read,
            "read_bytes": result.bytes_read,
            "written_rows": result.rows_written,
            "written_bytes": result.bytes_written,
            "elapsed_ns": int(result.elapsed_seconds * 1e9),
        }
        headers = {
            "Content-Type": _CONTENT_TYPES.get(result.output_format, "text/plain; charset=UTF-8"),
            "X-ClickHouse-Server-Display-Name": self.server.display_name,
            "X-ClickHouse-Query-Id": query_id,
            "X-ClickHouse-Format": result.output_format,
            "X-ClickHouse-Timezone": self.server.engine.timezone,
            "X-ClickHouse-Summary": json.dumps({key: str(value) for key, value in summary.items()}),
        }
        body = result.body
        if body and parameters.get("enable_http_compression", "0") not in ("0", "false"):
            encoding = compression.choose(self.headers.get("Accept-Encoding", ""))
            if encoding:
                headers["Content-Encoding"] = encoding
                body = compression.encode(body, encoding)
        self._send(200, body, headers)

    def _send_error(self, failure: EngineError, query_id: str) -> None:
        text = str(failure).rstrip()
        version = self.server.engine.version
        if "(version " not in text:
            text += f" (version {version} (official build))"
        headers = {
            "Content-Type": "text/plain; charset=UTF-8",
            "X-ClickHouse-Query-Id": query_id,
            "X-ClickHouse-Exception-Code": str(failure.code),
        }
        self._send(failure.status, text.encode() + b"\n", headers)

    def _send(self, status: int, body: bytes, headers: dict[str, str]) -> None:
        self.send_response(status)
        for name, value in headers.items():
            self.send_header(name, value)
        self.send_header("Content-Length", str(len(body)))
        self.send_header("Connection", "close" if self.close_connection else "Keep-Alive")
        self.end_headers()
        self.wfile.write(body)
        self.wfile.flush()
