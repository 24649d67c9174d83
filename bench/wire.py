"""A light HTTP client: what a measuring process spends itself is missing to those it measures."""

import asyncio
from typing import Self, cast
from urllib.parse import urlsplit

import httptools

CONNECT_SECONDS_MAX = 5.0


class _Connection(asyncio.Protocol):
    """One request after the other over one connection that is kept open."""

    def __init__(self) -> None:
        self._parser = httptools.HttpResponseParser(self)
        self._body = b""
        self._answer: asyncio.Future[tuple[int, bytes]] | None = None
        self._transport: asyncio.Transport
        self.open = False

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = cast("asyncio.Transport", transport)  # TCP gives this kind
        self.open = True

    def data_received(self, data: bytes) -> None:
        self._parser.feed_data(data)

    def on_body(self, body: bytes) -> None:
        self._body += body

    def on_message_complete(self) -> None:
        status, body, self._body = self._parser.get_status_code(), self._body, b""
        self.open = self.open and self._parser.should_keep_alive()
        self._parser = httptools.HttpResponseParser(self)
        if self._answer is not None and not self._answer.done():
            self._answer.set_result((status, body))

    def connection_lost(self, _: Exception | None) -> None:
        self.open = False
        if self._answer is not None and not self._answer.done():
            self._answer.set_exception(ConnectionError("closed without an answer"))

    async def send(self, request: bytes) -> tuple[int, bytes]:
        """The status and body that come back. Raises OSError when nothing does."""
        self._answer = asyncio.get_running_loop().create_future()
        self._transport.write(request)
        return await self._answer

    def close(self) -> None:
        """Ends the connection."""
        self._transport.close()


class Wire:
    """Requests to one server over as many kept connections as wait at once."""

    def __init__(self, address: str, headers: dict[str, str]) -> None:
        place = urlsplit(address)
        self._host, self._port = place.hostname, place.port
        common = {"Host": place.netloc, "Content-Type": "application/json", **headers}
        self._head = "".join(f"{name}: {value}\r\n" for name, value in common.items())
        self._free: list[_Connection] = []

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(self, *_: object) -> None:
        for connection in self._free:
            connection.close()

    async def ask(self, method: str, path: str, body: bytes = b"") -> tuple[int, bytes]:
        """The status and the body of the answer. Raises OSError when there is none."""
        while self._free and not self._free[-1].open:  # the server ends those that were idle
            self._free.pop()
        connection = self._free.pop() if self._free else await self._connect()
        head = f"{method} {path} HTTP/1.1\r\n{self._head}Content-Length: {len(body)}\r\n\r\n"
        try:
            answer = await connection.send(head.encode("ascii") + body)
        except BaseException:
            connection.close()
            raise
        if connection.open:
            self._free.append(connection)
        return answer

    async def _connect(self) -> _Connection:
        loop = asyncio.get_running_loop()
        async with asyncio.timeout(CONNECT_SECONDS_MAX):
            _, connection = await loop.create_connection(_Connection, self._host, self._port)
        return connection
