"""HTTP/1.1 as the API reads it: what is not well formed is a 400 and the end of the connection."""

import asyncio
import socket
import time
from collections.abc import AsyncIterator

import pytest
import uvicorn
from starlette.types import Receive, Scope, Send

from api import limits

LONG = b"a" * 20_000


async def _echo(_: Scope, receive: Receive, send: Send) -> None:
    body, more = b"", True
    while more:
        message = await receive()
        body, more = body + message.get("body", b""), message.get("more_body", False)
    length = (b"content-length", b"%d" % len(body))
    await send({"type": "http.response.start", "status": 200, "headers": [length]})
    await send({"type": "http.response.body", "body": body})


@pytest.fixture
async def port() -> AsyncIterator[int]:
    listening = socket.create_server(("127.0.0.1", 0))
    config = uvicorn.Config(
        _echo, http=limits.PatientProtocol, ws="none", log_config=None, lifespan="off"
    )
    server = uvicorn.Server(config)
    serving = asyncio.create_task(server.serve(sockets=[listening]))
    while not server.started:
        await asyncio.sleep(0.01)
    yield listening.getsockname()[1]
    server.should_exit = True
    await serving
    listening.close()


def post(*lines: bytes, body: bytes = b"what was sent") -> bytes:
    return b"\r\n".join([b"POST /x HTTP/1.1", b"Host: x", *lines, b"", body])


def get(*lines: bytes, target: bytes = b"/x", method: bytes = b"GET") -> bytes:
    return b"\r\n".join([method + b" " + target + b" HTTP/1.1", *lines, b"", b""])


MALFORMED = {
    "length and chunks": post(b"Content-Length: 13", b"Transfer-Encoding: chunked"),
    "two lengths": post(b"Content-Length: 13", b"Content-Length: 14"),
    "unknown coding": post(b"Transfer-Encoding: xchunked"),
    "a chunk without a size": post(b"Transfer-Encoding: chunked", b"", b"zz"),
    "space before the colon": post(b"X : y", b"Content-Length: 13"),
    "a folded line": post(b"X: y", b" z", b"Content-Length: 13"),
    "NUL": post(b"X: a\0b", b"Content-Length: 13"),
    "a lone CR": post(b"X: a\rb", b"Content-Length: 13"),
    "lone LFs": post(b"Content-Length: 13").replace(b"\r\n", b"\n"),
    "a negative length": post(b"Content-Length: -1"),
    "a length of 26 digits": post(b"Content-Length: " + b"9" * 26),
    "no host": get(),
    "two hosts": get(b"Host: a", b"Host: b"),
    "a tunnel": get(b"Host: x", method=b"CONNECT", target=b"x:1"),
    "a path that is no ASCII": get(b"Host: x", target=b"/h\xc3\xa9"),
    "a long header": get(b"Host: x", b"X: " + LONG),
    "many headers": get(b"Host: x", *[b"X: y"] * 5_000),
    "a long path": get(b"Host: x", target=b"/" + LONG),
    "a header without end": b"GET /x HTTP/1.1\r\nHost: x\r\nX: " + LONG,
    "an offer and a bad header": get(b"Host: x", b"Connection: upgrade", b"Upgrade: h2c", b"X : y"),
}


async def said(port: int, sent: bytes) -> bytes:
    """All that is answered until the connection ends."""
    reader, writer = await asyncio.open_connection("127.0.0.1", port)
    writer.write(sent)
    async with asyncio.timeout(20):
        answered = await reader.read()
    writer.close()
    return answered


async def test_what_is_malformed_is_a_400_and_the_end(port: int) -> None:
    for name, sent in MALFORMED.items():
        answered = await said(port, sent)
        assert answered.startswith(b"HTTP/1.1 400"), name
        assert answered.count(b"HTTP/1.1") == 1, name


@pytest.mark.parametrize("offer", [b"h2c", b"websocket"])
async def test_an_offer_to_upgrade_is_passed_over(port: int, offer: bytes) -> None:
    """Java's HTTP client offers h2c with every request, those with a body too."""
    lines = (b"Connection: Upgrade, HTTP2-Settings", b"Upgrade: " + offer, b"HTTP2-Settings: AAA")
    sent = post(*lines, b"Content-Length: 13") * 2
    answered = await said(port, sent + post(b"Content-Length: 13", b"Connection: close"))
    assert answered.count(b"HTTP/1.1 200") == answered.count(b"what was sent") == 3


async def test_empty_lines_do_not_keep_a_connection(
    port: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    """They come before a request line, and are no head: the time to send one goes on."""
    monkeypatch.setattr(limits, "HEAD_SECONDS_MAX", 0.5)
    reader, writer = await asyncio.open_connection("127.0.0.1", port)

    async def end() -> bytes:
        try:
            return await reader.read()
        except ConnectionResetError:  # a line was on its way that the server never read
            return b""

    async with asyncio.timeout(30):
        ended = asyncio.create_task(end())
        while not ended.done():
            writer.write(b"\r\n")
            await asyncio.sleep(0.05)
        assert await ended == b""
    writer.close()


async def test_an_answered_request_leaves_the_connection_open_for_the_next(port: int) -> None:
    reader, writer = await asyncio.open_connection("127.0.0.1", port)
    async with asyncio.timeout(10):
        for _ in range(3):
            writer.write(post(b"Content-Length: 13"))
            assert (await reader.readuntil(b"what was sent")).startswith(b"HTTP/1.1 200")
    writer.close()


async def test_an_answers_body_does_not_wait_for_its_head_to_be_confirmed(port: int) -> None:
    reader, writer = await asyncio.open_connection("127.0.0.1", port)
    seconds = []
    for _ in range(25):
        began = time.perf_counter()
        writer.write(post(b"Content-Length: 13"))
        answered = await reader.readuntil(b"what was sent")
        seconds.append(time.perf_counter() - began)
        assert answered.startswith(b"HTTP/1.1 200")
    writer.close()
    await writer.wait_closed()
    # The system confirms the first few at once, and then each after 40 ms.
    assert min(seconds[10:]) < 0.03
