"""S6, S12: an identity provider that is silent, slow or wrong is a 503 in time, for everybody."""

import asyncio
import contextlib
import json
import socket
import struct
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from contextlib import asynccontextmanager

import jwt
import pytest

from adapters import published_keys
from adapters.failures import Failure
from adapters.patience import Unavailable
from adapters.settings import Settings
from api.tokens import TokenAuthenticator
from tests.identity import RSA_KEY, Provider, of, signed

PATIENCE_SECONDS = 0.3
# Within which 0.3 s are over on any machine; the silent and the dripping provider take longer.
BUSY_SECONDS_MAX = 10.0
Handler = Callable[[asyncio.StreamReader, asyncio.StreamWriter], Awaitable[None]]
Asked = list[asyncio.Task[None] | None]


@pytest.fixture
def provider() -> Iterator[Provider]:
    made = Provider()
    made.publish(RSA_KEY, "one", "RS256")
    yield made
    made.close()


async def silent(reader: asyncio.StreamReader, _: asyncio.StreamWriter) -> None:
    await reader.read()


async def dripping(_: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    writer.write(b"HTTP/1.1 200 OK\r\nContent-Length: 1000\r\n\r\n")
    with contextlib.suppress(OSError):
        while not writer.is_closing():
            writer.write(b" ")
            await writer.drain()
            await asyncio.sleep(0.02)


async def reset(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    await reader.read(1)
    at_once = struct.pack("ii", 1, 0)
    writer.get_extra_info("socket").setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, at_once)
    writer.close()


def late(seconds: float, handle: Handler) -> Handler:
    async def wait(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await asyncio.sleep(seconds)
        await handle(reader, writer)

    return wait


def published(*keys: object) -> bytes:
    """A document of an identity provider: its own key, and these before it."""
    own = json.loads(jwt.algorithms.RSAAlgorithm.to_jwk(RSA_KEY.public_key()))
    return json.dumps({"keys": [*keys, {**own, "kid": "one", "alg": "RS256"}]}).encode()


def saying(body: bytes, status: bytes = b"200 OK") -> Handler:
    async def handle(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.readuntil(b"\r\n\r\n")
        length = str(len(body)).encode()
        head = b"Location: http://127.0.0.1:1/\r\nContent-Length: " + length
        writer.write(b"HTTP/1.1 " + status + b"\r\n" + head + b"\r\n\r\n" + body)
        await writer.drain()
        writer.close()

    return handle


@asynccontextmanager
async def answering(handle: Handler) -> AsyncIterator[tuple[Settings, Asked]]:
    """Settings with an identity provider that behaves so, and each time that it was asked."""
    asked: Asked = []

    async def one(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        asked.append(asyncio.current_task())
        with contextlib.suppress(OSError, asyncio.IncompleteReadError):
            await handle(reader, writer)
            writer.close()
            await writer.wait_closed()

    server = await asyncio.start_server(one, "127.0.0.1", 0)
    address = f"http://127.0.0.1:{server.sockets[0].getsockname()[1]}/jwks"
    try:
        yield (
            Settings(
                jwt_jwks_url=address, jwt_algorithm="RS256", gate_seconds_max=PATIENCE_SECONDS
            ),
            asked,
        )
    finally:
        server.close()
        await asyncio.gather(*filter(None, asked))


@pytest.mark.parametrize(
    "handle",
    [
        silent,
        dripping,
        reset,
        saying(b"<html>"),
        saying(b"\xff"),
        saying(b"[]"),
        saying(b'{"keys": []}'),
        saying(b'{"keys": [{"kty": "oct", "k": "AA"}]}'),
        saying(b"[" * 100_000),
        saying(b" " * 2_000_000),
        saying(published({"kty": "RSA", "kid": "two", "alg": ["RS256"]})),
        saying(b"", b"500 Trouble"),
        saying(b"", b"302 Found"),
    ],
    ids=["silent", "dripping", "reset", "html", "bytes", "list", "none", "nameless", "nested",
         "long", "types", "500", "redirect"],
)  # fmt: skip
async def test_whatever_the_identity_provider_does_is_a_503_in_time(
    handle: Handler, monkeypatch: pytest.MonkeyPatch
) -> None:
    """S12: all who wait wait for one answer, and not for as long as the provider likes; who comes
    after them waits for none.
    """
    monkeypatch.setattr(published_keys, "FAILED_SECONDS", 600.0)
    monkeypatch.setattr(published_keys, "READ_SECONDS_MAX", PATIENCE_SECONDS)
    async with answering(handle) as (settings, asked):
        judge = TokenAuthenticator(settings)
        begun = time.monotonic()
        tokens = [judge.authenticate(signed(sub=f"user-{number}")) for number in range(8)]
        answers = await asyncio.gather(*tokens, return_exceptions=True)
        assert {type(answer) for answer in answers} == {Unavailable}
        assert time.monotonic() - begun < BUSY_SECONDS_MAX
        with pytest.raises(Unavailable):
            await judge.authenticate(signed())
        assert len(asked) == 1


async def test_a_provider_slower_than_a_caller_may_wait_is_read_for_the_next_one() -> None:
    """Each reading was given up with its first caller, and begun anew for the next: for ever."""
    slow = late(4 * PATIENCE_SECONDS, saying(published()))
    async with answering(slow) as (settings, asked):
        judge = TokenAuthenticator(settings)
        with pytest.raises(Unavailable):
            await judge.authenticate(signed())
        await asyncio.wait_for(_admitted(judge), BUSY_SECONDS_MAX)
        assert len(asked) == 1


async def _admitted(judge: TokenAuthenticator) -> None:
    while True:
        with contextlib.suppress(Unavailable):
            assert await judge.authenticate(signed()) is not None
            return


async def test_invented_kids_keep_nobody_waiting(
    provider: Provider, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A provider that falls silent while its keys are known: only who is unknown hears of it."""
    async with answering(silent) as (settings, asked):
        changed = {"jwt_jwks_url": provider.address, "gate_seconds_max": 3.0}
        judge = TokenAuthenticator(settings.model_copy(update=changed))
        assert await judge.authenticate(signed()) is not None
        monkeypatch.setattr(published_keys, "AGAIN_SECONDS", 0.0)
        monkeypatch.setattr(published_keys, "READ_SECONDS_MAX", 2.0)
        judge._keys._url = settings.jwt_jwks_url  # type: ignore[union-attr]
        invented = asyncio.create_task(judge.authenticate(signed(kid="invented")))
        while not asked:
            await asyncio.sleep(0.01)
        assert await judge.authenticate(signed(sub="another")) is not None
        assert not invented.done()
        with pytest.raises(Unavailable):
            await invented


async def test_a_failure_is_forgotten_after_a_moment(
    provider: Provider, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(published_keys, "FAILED_SECONDS", 600.0)
    judge = TokenAuthenticator(of(provider))
    known, provider.keys = provider.keys, []
    with pytest.raises(Unavailable):
        await judge.authenticate(signed())
    provider.keys = known
    with pytest.raises(Unavailable):
        await judge.authenticate(signed())
    monkeypatch.setattr(published_keys, "FAILED_SECONDS", 0.0)
    assert await judge.authenticate(signed()) is not None
    assert provider.asked == 2


def test_keys_are_read_by_http_alone() -> None:
    for address in ("file:///etc/keys.json", "keys.json", "ftp://example.com/keys"):
        with pytest.raises(Failure, match="TOLLGATE_JWT_JWKS_URL"):
            TokenAuthenticator(Settings(jwt_jwks_url=address, jwt_algorithm="RS256"))
