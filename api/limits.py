"""What one request may cost: bytes, time, nesting. Beyond it the answer is a 4xx, not work."""

import asyncio

import h11
import structlog
from fastapi import FastAPI, Request
from starlette.datastructures import Headers
from starlette.responses import JSONResponse, Response
from starlette.types import ASGIApp, Message, Receive, Scope, Send
from uvicorn.protocols.http.h11_impl import H11Protocol

from adapters.settings import Settings
from api.problems import MEDIA_TYPE, Kind, Problem, ProblemDocument

log = structlog.get_logger()
HEAD_SECONDS_MAX = 10.0
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
            body = await self._body(Headers(scope=scope), receive)
        except Problem as problem:
            await _drain(receive)
            await _answer(problem)(scope, receive, send)
            return
        if body is None:
            return
        await self._app(scope, _replay(body, receive), send)

    async def _body(self, headers: Headers, receive: Receive) -> bytes | None:
        """None when the caller has gone. Raises Problem beyond a limit."""
        if headers.get("content-encoding", "identity").strip().lower() != "identity":
            raise Problem(415, Kind.REFUSED, "A compressed body is not taken")
        declared = headers.get("content-length", "0")
        if not declared.isdecimal() or int(declared) > self._bytes_max:
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


class PatientProtocol(H11Protocol):
    """HTTP/1.1 that closes a connection whose request line and headers do not come in time.

    uvicorn itself waits for ever for the first byte of the first request and for the last of any.
    """

    _head: asyncio.TimerHandle | None = None

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        """The time runs from here."""
        super().connection_made(transport)
        self._await_head()

    def data_received(self, data: bytes) -> None:
        """While a head is not complete, more of it does not lengthen its time."""
        super().data_received(data)
        if self.conn.their_state is not h11.IDLE:
            self._forget_head()
        elif self._head is None and not self.transport.is_closing():
            self._await_head()

    def connection_lost(self, exc: Exception | None) -> None:
        """Nothing is waited for any more."""
        self._forget_head()
        super().connection_lost(exc)

    def _await_head(self) -> None:
        self._head = self.loop.call_later(HEAD_SECONDS_MAX, self.transport.close)

    def _forget_head(self) -> None:
        if self._head is not None:
            self._head.cancel()
            self._head = None


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
