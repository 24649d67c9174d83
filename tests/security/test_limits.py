"""S12: what one caller may take: bytes, time, nesting, rows. Others do not notice."""

import asyncio
import contextlib
import gzip
import time
from collections.abc import AsyncIterator

import httpx2
import pytest

from adapters.postgres import connect
from adapters.settings import Settings
from api import limits
from tests.apis import client, serve, token, with_tokens
from tests.gates import CREDIT, account
from tests.security.routes import operations

PATH = "/api/v1/accounts/acme/check"
ONE = b'{"credits": 1}'
ROWS_MAX = 1_000


@pytest.fixture
async def funded(settings: Settings) -> Settings:
    """Of an API that takes 10,000 bytes and has an account with credits."""
    made = await connect(settings, application_name="test")
    await account(made, "acme", 100 * CREDIT)
    await made.close()
    return with_tokens(settings, api_body_bytes_max=10_000, api_body_seconds_max=20.0)


@pytest.fixture
async def address(funded: Settings) -> AsyncIterator[str]:
    async with serve(funded) as found:
        yield found


@pytest.fixture
async def hasty(funded: Settings, monkeypatch: pytest.MonkeyPatch) -> AsyncIterator[str]:
    """Where a head and a body have a second each."""
    monkeypatch.setattr(limits, "HEAD_SECONDS_MAX", 1.0)
    async with serve(funded.model_copy(update={"api_body_seconds_max": 1.0})) as found:
        yield found


@pytest.fixture
async def app(address: str) -> AsyncIterator[httpx2.AsyncClient]:
    async with client(address, "acme") as made:
        yield made


async def talk(address: str, *parts: bytes, pause_seconds: float = 0.0) -> bytes:
    """Sends the parts with pauses and returns all that is answered until the end."""
    host, _, port = address.removeprefix("http://").partition(":")
    reader, writer = await asyncio.open_connection(host, int(port))
    answered = bytearray()

    async def listen() -> None:
        with contextlib.suppress(ConnectionError):
            while data := await reader.read(65_536):
                answered.extend(data)

    listening = asyncio.create_task(listen())
    with contextlib.suppress(ConnectionError):
        for part in parts:
            writer.write(part)
            await writer.drain()
            await asyncio.sleep(pause_seconds)
    await asyncio.wait_for(listening, 30)
    writer.close()
    with contextlib.suppress(ConnectionError):
        await writer.wait_closed()
    return bytes(answered)


def head(*lines: str) -> bytes:
    standard = (f"POST {PATH} HTTP/1.1", "Host: x", f"Authorization: Bearer {token('acme')}")
    return "\r\n".join([*standard, "Content-Type: application/json", *lines, "", ""]).encode()


async def test_a_body_at_the_limit_is_taken_and_one_byte_more_is_not(
    app: httpx2.AsyncClient,
) -> None:
    full = ONE + b" " * (10_000 - len(ONE))
    kind = {"Content-Type": "application/json"}
    taken = await app.post(PATH, content=full, headers=kind)
    refused = await app.post(PATH, content=full + b" ", headers=kind)
    assert (taken.status_code, refused.status_code) == (200, 413)
    assert refused.headers["content-type"] == "application/problem+json"
    assert refused.json()["type"] == "urn:tollgate:problem:too-large"


async def test_a_chunked_body_has_the_same_limit(app: httpx2.AsyncClient) -> None:
    async def chunks(count: int) -> AsyncIterator[bytes]:
        yield ONE
        for _ in range(count):
            yield b" " * 1_000

    kind = {"Content-Type": "application/json"}
    assert (await app.post(PATH, content=chunks(9), headers=kind)).status_code == 200
    assert (await app.post(PATH, content=chunks(10), headers=kind)).status_code == 413


async def test_a_hundred_megabytes_are_refused_before_they_are_read(address: str) -> None:
    began = time.monotonic()
    answer = await talk(address, head("Content-Length: 104857600"), b"x" * 1_000)
    assert answer.startswith(b"HTTP/1.1 413")
    assert b"connection: close" in answer.lower()
    assert time.monotonic() - began < 15


async def test_a_hundred_megabytes_in_chunks_are_cut_off(address: str) -> None:
    sent = 0

    async def upload() -> None:
        nonlocal sent
        host, _, port = address.removeprefix("http://").partition(":")
        _, writer = await asyncio.open_connection(host, int(port))
        with contextlib.suppress(ConnectionError):
            writer.write(head("Transfer-Encoding: chunked"))
            for _ in range(1_600):
                writer.write(b"10000\r\n" + b"x" * 65_536 + b"\r\n")
                await writer.drain()
                sent += 65_536
        writer.close()

    await upload()
    assert sent < 20_000_000


@pytest.mark.parametrize("encoding", ["gzip", "deflate", "br", "zstd", "gzip, identity", "GZIP"])
async def test_a_compressed_body_is_not_taken(app: httpx2.AsyncClient, encoding: str) -> None:
    bomb = gzip.compress(b" " * 5_000_000 + ONE)
    headers = {"Content-Type": "application/json", "Content-Encoding": encoding}
    answer = await app.post(PATH, content=bomb, headers=headers)
    assert answer.status_code == 415
    plain = {**headers, "Content-Encoding": "identity"}
    assert (await app.post(PATH, content=ONE, headers=plain)).status_code == 200


async def test_a_body_that_drips_is_answered_with_408(hasty: str) -> None:
    drips = [b" "] * 12
    answer = await talk(hasty, head("Content-Length: 5000"), *drips, pause_seconds=0.2)
    assert answer.startswith(b"HTTP/1.1 408")


@pytest.mark.parametrize(
    "parts",
    [(), (b"GET /health HTTP/1.1\r\n", *(b"X: y\r\n",) * 8)],
    ids=["silence", "drips"],
)
async def test_a_head_that_does_not_come_is_cut_off(hasty: str, parts: tuple[bytes, ...]) -> None:
    """Without a limit the server would never end it, and `talk` gives up."""
    assert await talk(hasty, *parts, pause_seconds=0.2) == b""


async def test_a_second_head_on_a_connection_is_cut_off_too(hasty: str) -> None:
    whole = b"GET /nothing HTTP/1.1\r\nHost: x\r\n\r\n"
    answer = await talk(hasty, whole, b"GET /hea", pause_seconds=0.5)
    assert answer.startswith(b"HTTP/1.1 404")
    assert answer.count(b"HTTP/1.1") == 1


async def test_slow_clients_do_not_slow_others(funded: Settings) -> None:
    kind = {"Content-Type": "application/json"}
    slow_head = head("Content-Length: 5000")
    patient = funded.model_copy(update={"api_body_seconds_max": 4.0})
    async with serve(patient) as address, client(address, "acme") as app:
        slow = [
            asyncio.create_task(talk(address, slow_head, b" ", pause_seconds=0.5))
            for _ in range(100)
        ]
        await asyncio.sleep(0.3)
        answers = [await app.post(PATH, content=ONE, headers=kind) for _ in range(10)]
        assert {answer.status_code for answer in answers} == {200}
        assert not any(task.done() for task in slow)
        assert all(answer.startswith(b"HTTP/1.1 408") for answer in await asyncio.gather(*slow))


@pytest.mark.parametrize("depth", [100, 900, 2_000, 4_900])
async def test_deep_json_is_the_callers_mistake(app: httpx2.AsyncClient, depth: int) -> None:
    for body in (b"[" * depth + b"]" * depth, b'{"usage":' + b"[" * depth + b"]" * depth + b"}"):
        answer = await app.post(
            "/api/v1/accounts/acme/deduct",
            content=body,
            headers={"Content-Type": "application/json"},
        )
        assert answer.status_code in {400, 422}


def test_every_page_has_a_largest_size() -> None:
    found = []
    for each in operations():
        for parameter in each.parameters:
            schema = parameter.get("schema", {})
            kinds = [schema, *schema.get("anyOf", ())]
            if parameter["name"] in {"limit", "count", "page_size", "per_page", "size"}:
                largest = [kind["maximum"] for kind in kinds if "maximum" in kind]
                if not largest or largest[0] > ROWS_MAX:
                    found.append(f"{each.name}: {parameter['name']}")
    assert found == []


async def test_open_holds_have_a_largest_number(settings: Settings) -> None:
    made = await connect(settings, application_name="test")
    await account(made, "acme", 100 * CREDIT)
    await made.close()
    async with (
        serve(with_tokens(settings, open_holds_max=3)) as found,
        client(found, "acme") as app,
    ):
        answers = [
            await app.post("/api/v1/accounts/acme/holds", json={"credits": 1}) for _ in range(5)
        ]
    assert [answer.status_code for answer in answers] == [201, 201, 201, 429, 429]
    assert answers[-1].headers["retry-after"] == "1"
