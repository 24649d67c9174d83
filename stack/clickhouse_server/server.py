"""ClickHouse's HTTP interface: what `clickhouse-connect`, curl and ClickHouse's own tools speak."""

import logging
import socket
import uuid
from collections.abc import Mapping
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from urllib.parse import parse_qs, urlsplit

from stack.clickhouse_server import compression, protocol
from stack.clickhouse_server.engine import Engine
from stack.clickhouse_server.errors import EngineError, error
from stack.clickhouse_server.protocol import Access, Call

LOG = logging.getLogger("clickhouse")
BODY_BYTES_MAX = 1 << 30  # a body is held in memory whole: one mistake must not take the machine
IDLE_SECONDS_MAX = 600
LINE_BYTES_MAX = 1024


class Server(ThreadingHTTPServer):
    """One thread per connection.

    The engine works outside Python's lock, so a long statement keeps neither /ping nor other
    statements waiting.
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
        self._answer(by_get=True)

    def do_POST(self) -> None:
        """Statements by POST may do anything."""
        self._answer(by_get=False)

    def log_message(self, format: str, *args: object) -> None:  # noqa: A002 - the base class's name
        """Requests are not logged: a log line per insert says nothing that the data does not."""

    def _answer(self, *, by_get: bool) -> None:
        url = urlsplit(self.path)
        query_id = parse_qs(url.query).get("query_id", [str(uuid.uuid4())])[0]
        try:
            body = self._read_body()
            if url.path != "/":
                self._answer_path(url.path)
            elif not url.query and not body:
                self._send(200, b"Ok.\n", {})
            else:
                call = protocol.read_call(url.query, self.headers, body, by_get=by_get)
                self._execute(call, query_id)
        except EngineError as failure:
            self._send_error(failure, query_id)
        except (ConnectionError, TimeoutError):
            self.close_connection = True  # nobody is there to be told
        except Exception as failure:
            LOG.exception("request failed")
            self.close_connection = True
            self._send_error(error(1001, "STD_EXCEPTION", repr(failure)), query_id)

    def _answer_path(self, path: str) -> None:
        if path in ("/ping", "/replicas_status"):
            self._send(200, b"Ok.\n", {})
        else:
            self._send(404, f"There is no handle {path}\n".encode(), {})

    def _execute(self, call: Call, query_id: str) -> None:
        protocol.require_access(call, self.server.access)
        result = self.server.engine.execute(protocol.to_request(call))
        headers = protocol.answer_headers(result)
        headers["X-ClickHouse-Query-Id"] = query_id
        headers["X-ClickHouse-Timezone"] = self.server.engine.timezone
        headers["X-ClickHouse-Server-Display-Name"] = self.server.display_name
        encoding = protocol.answer_encoding(call) if result.body else ""
        if encoding:
            headers["Content-Encoding"] = encoding
            self._send(200, compression.encode(bytes(result.body), encoding), headers)
        else:
            self._send(200, result.body, headers)

    def _read_body(self) -> bytes:
        if "chunked" in self.headers.get("Transfer-Encoding", "").lower():
            return self._read_chunks()
        length = int(self.headers.get("Content-Length") or 0)
        self._require_size(length)
        return self._read_exactly(length)

    def _read_chunks(self) -> bytes:
        parts: list[bytes] = []
        total = 0
        while length := int(self.rfile.readline(LINE_BYTES_MAX).split(b";")[0], 16):
            total += length
            self._require_size(total)
            parts.append(self._read_exactly(length))
            self.rfile.readline(LINE_BYTES_MAX)
        while self.rfile.readline(LINE_BYTES_MAX) not in (b"\r\n", b"\n", b""):
            pass  # trailers
        return b"".join(parts)

    def _read_exactly(self, length: int) -> bytes:
        part = self.rfile.read(length)
        if len(part) != length:
            raise ConnectionError("the client left in the middle of its body")
        return part

    def _require_size(self, length: int) -> None:
        if not 0 <= length <= BODY_BYTES_MAX:
            self.close_connection = True
            raise error(229, "QUERY_IS_TOO_LARGE", f"The body is over {BODY_BYTES_MAX} bytes.")

    def _send_error(self, failure: EngineError, query_id: str) -> None:
        text = str(failure).rstrip()
        if "(version " not in text:
            text += f" (version {self.server.engine.version} (official build))"
        headers = {
            "X-ClickHouse-Query-Id": query_id,
            "X-ClickHouse-Exception-Code": str(failure.code),
        }
        self._send(failure.status, text.encode() + b"\n", headers)

    def _send(self, status: int, body: bytes | memoryview, headers: Mapping[str, str]) -> None:
        self.send_response(status)
        for name, value in {"Content-Type": "text/plain; charset=UTF-8", **headers}.items():
            self.send_header(name, value)
        self.send_header("Content-Length", str(len(body)))
        self.send_header("Connection", "close" if self.close_connection else "Keep-Alive")
        self.end_headers()
        try:
            self.wfile.write(body)
            self.wfile.flush()
        except OSError:
            self.close_connection = True  # the client did not wait for the answer
