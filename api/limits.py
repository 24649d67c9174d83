"""What one request may cost: bytes, time, nesting. Beyond it the answer is a 4xx, not work."""

import asyncio
import socket
from collections.abc import Iterable

import httptools
import structlog
from fastapi import FastAPI, Request
from starlette.responses import JSONResponse, Response
from starlette.types import ASGIApp, Message, Receive, Scope, Send
from uvicorn.protocols.http.httptools_impl import HttpToolsProtocol

from adapters.settings import Settings
from api.problems import MEDIA_TYPE, Kind, Problem, ProblemDocument

log = structlog.get_logger()
BODY = "tollgate.body"  # of the scope: the whole body of a request that passed the limits
HEAD_SECONDS_MAX = 10.0
HEAD_BYTES_MAX = 16_384
_OFFERS = frozenset({b"connection", b"upgrade", b"http2-settings"})
_DRAINED_BYTES_MAX = 4 * 1_048_576
_DRAINED_SECONDS_MAX = 1.0


class RequestLimits:
    """Reads the whole body before the application begins: so many bytes, so many seconds.

    413 for more bytes, however they come; 415 for a compressed body, whose size nobody knows; 408
    for a body that comes too slowly. The connection is closed after each of them.
    """

    def __init__(self, app: ASGIApp, bytes_max: int, seconds_max: float) -> None:
        self._app = app
        self._bytes_max = bytes_max
        self._seconds_max = seconds_max

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Serves one request; other kinds of connection pass."""
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        try:
            body = await self._body(scope["headers"], receive)
        except Problem as problem:
            await _drain(receive)
            await _answer(problem)(scope, receive, send)
            return
        if body is None:
            return
        scope[BODY] = body
        await self._app(scope, _replay(body, receive), send)

    async def _body(self, headers: Iterable[tuple[bytes, bytes]], receive: Receive) -> bytes | None:
        """None when the caller has gone. Raises Problem beyond a limit."""
        for name, value in headers:
            if name == b"content-encoding" and value.strip().lower() != b"identity":
                raise Problem(415, Kind.REFUSED, "A compressed body is not taken")
            if name == b"content-length" and not self._fits(value):
                raise self._too_large()
        try:
            async with asyncio.timeout(self._seconds_max):
                return await self._read(receive)
        except TimeoutError:
            raise Problem(408, Kind.REFUSED, "The body came too slowly") from None

    async def _read(self, receive: Receive) -> bytes | None:
        body = bytearray()
        while True:
            message = await receive()
            if message["type"] == "http.disconnect":
                return None
            body += message.get("body", b"")
            if len(body) > self._bytes_max:
                raise self._too_large()
            if not message.get("more_body", False):
                return bytes(body)

    def _fits(self, declared: bytes) -> bool:
        return declared.isdigit() and len(declared) < 20 and int(declared) <= self._bytes_max

    def _too_large(self) -> Problem:
        return Problem(413, Kind.TOO_LARGE, f"A body has at most {self._bytes_max} bytes")


def _answer(problem: Problem) -> Response:
    document = ProblemDocument(
        type=f"urn:tollgate:problem:{problem.kind}", title=problem.title, status=problem.status
    )
    return JSONResponse(
        document.model_dump(exclude_none=True),
        problem.status,
        headers={"Connection": "close"},
        media_type=MEDIA_TYPE,
    )


async def _drain(receive: Receive) -> None:
    """Takes a little of what still comes, so that the caller reads the answer and not a reset."""
    drained_bytes = 0
    try:
        async with asyncio.timeout(_DRAINED_SECONDS_MAX):
            while drained_bytes < _DRAINED_BYTES_MAX:
                message = await receive()
                drained_bytes += len(message.get("body", b""))
                if not message.get("more_body", False):
                    return
    except TimeoutError:
        return


def _replay(body: bytes, receive: Receive) -> Receive:
    given = False

    async def again() -> Message:
        nonlocal given
        if given:
            return await receive()
        given = True
        return {"type": "http.request", "body": body, "more_body": False}

    return again


class PatientProtocol(HttpToolsProtocol):
    """HTTP/1.1 that closes a connection whose request line and headers do not come in time.

    A head of more than `HEAD_BYTES_MAX`, or without exactly one Host, is a 400. uvicorn itself
    waits for ever for the first byte of the first request and for the last of any, and keeps all of
    it. An offer to change the protocol is passed over: the request is served as it is.
    """

    _timer: asyncio.TimerHandle | None = None
    _in_head = True
    _head_bytes = 0
    _offered = False

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        """The time runs from here."""
        # Head and body of an answer are two writes: without this the body waits, 40 ms, until the
        # caller's system confirms the head. asyncio sets it only on some kinds of socket.
        transport.get_extra_info("socket").setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        super().connection_made(transport)
        self._await_head()

    def data_received(self, data: bytes) -> None:
        """While a head is not complete, more of it does not lengthen its time."""
        self._unset_keepalive_if_required()
        before = self._head_bytes
        try:
            self._feed(data)
        except httptools.HttpParserError:
            self.send_400_response("Invalid HTTP request received.")
            return
        if self.transport.is_closing():
            return
        if self._in_head and before + len(data) > HEAD_BYTES_MAX:
            self.send_400_response("The head of the request is too large.")
        elif not self._in_head and self.cycle is not None and not self.cycle.response_complete:
            self._forget_head()
        else:
            self._head_bytes = before + len(data)
            if self._timer is None:
                self._await_head()

    def on_message_begin(self) -> None:
        """A head begins."""
        self._in_head = True
        self._head_bytes = 0
        super().on_message_begin()

    def on_header(self, name: bytes, value: bytes) -> None:
        """One more header. Raises ValueError beyond the limit, which is a 400."""
        self._head_bytes += len(name) + len(value) + len(": \r\n")
        if self._head_bytes + len(self.url) > HEAD_BYTES_MAX:
            raise ValueError("the head of the request is too large")
        super().on_header(name, value)

    def on_headers_complete(self) -> None:
        """The head is there; what follows is the body's time. Raises ValueError, which is a 400."""
        hosts = sum(name == b"host" for name, _ in self.headers)
        if hosts > 1 or (hosts == 0 and self.parser.get_http_version() == "1.1"):
            raise ValueError("one Host is needed")
        if self.parser.get_method() == b"CONNECT":
            raise ValueError("nothing is behind this server")
        self._offered = self.parser.should_upgrade()
        if not self._offered:
            self._in_head = False
            self._head_bytes = 0
            super().on_headers_complete()

    def on_message_complete(self) -> None:
        """A body is there; that of an offer comes when its head is read again."""
        if not self._offered:
            super().on_message_complete()

    def _feed(self, data: bytes) -> None:
        while True:
            try:
                self.parser.feed_data(data)
            except httptools.HttpParserUpgrade as offer:
                data = self._head_without_offer() + data[offer.args[0] :]
                self.parser = httptools.HttpRequestParser(self)
            else:
                return

    def _head_without_offer(self) -> bytes:
        version = self.parser.get_http_version().encode()
        lines = [self.parser.get_method() + b" " + self.url + b" HTTP/" + version]
        lines += [name + b": " + value for name, value in self.headers if name not in _OFFERS]
        return b"\r\n".join([*lines, b"", b""])

    def connection_lost(self, exc: Exception | None) -> None:
        """Nothing is waited for any more."""
        self._forget_head()
        super().connection_lost(exc)

    def _await_head(self) -> None:
        self._timer = self.loop.call_later(HEAD_SECONDS_MAX, self.transport.close)

    def _forget_head(self) -> None:
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None


def limit_requests(app: FastAPI, settings: Settings) -> None:
    """Puts the limits in front of the application, and answers 422 for two things more.

    Nesting beyond the interpreter's depth, and half a surrogate pair, which UTF-8 does not have.
    """
    app.add_middleware(
        RequestLimits,
        bytes_max=settings.api_body_bytes_max,
        seconds_max=settings.api_body_seconds_max,
    )
    for kind in (RecursionError, UnicodeEncodeError):
        app.add_exception_handler(kind, _unusable)


async def _unusable(request: Request, error: Exception) -> Response:
    log.warning("request refused", path=request.url.path, error=type(error).__name__)
    return _answer(Problem(422, Kind.INVALID, "The request can not be read"))
