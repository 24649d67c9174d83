"""C10: an account's own key is encrypted at rest, never given back, only used at its provider."""

import asyncio
import json
import logging
import time
from collections.abc import AsyncIterator, Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from threading import Event, Thread
from typing import Any

import asyncpg
import httpx2
import pytest
from cryptography.fernet import Fernet
from pydantic import SecretStr

from adapters.failures import Failure
from adapters.openrouter import ProviderAway, RemoteBalance, WrongKey, read_balance
from adapters.postgres import connect
from adapters.provider_keys import Vault, note_balance, read_sealed, reencrypt, store
from adapters.settings import Settings
from tests.apis import client, serve, with_tokens
from tests.commands import report, run_tollgate
from tests.gates import CREDIT, account

KEY = "sk-or-v1-5f0c9a1be2d34417aa77bcde"
PATH = "/api/v1/accounts/acme/provider-keys/openrouter"


class OpenRouter:
    """A stand-in: answers `GET /key` with what it is told to, one after the other."""

    def __init__(self) -> None:
        self.answers: list[tuple[int, Any]] = []
        self.asked: list[str] = []
        self.silent = False
        self.trickles = False
        self.encoding: str | None = None
        stand_in = self

        class Handler(BaseHTTPRequestHandler):
            def do_GET(self) -> None:
                stand_in.asked.append(f"{self.path} {self.headers['Authorization']}")
                if stand_in.silent:
                    return
                if stand_in.trickles:
                    self.wfile.write(b"HTTP/1.1 200 OK\r\nContent-Length: 400\r\n\r\n")
                    for _ in range(400):
                        self.wfile.write(b" ")
                        if stand_in.closed.wait(0.05):
                            return
                    return
                status, body = stand_in.answers.pop(0) if stand_in.answers else (500, {})
                text = body if isinstance(body, bytes) else json.dumps(body).encode()
                self.send_response(status)
                if stand_in.encoding:
                    self.send_header("Content-Encoding", stand_in.encoding)
                if status == 302:
                    self.send_header("Location", "http://127.0.0.1:1/elsewhere")
                self.send_header("Content-Length", str(len(text)))
                self.end_headers()
                self.wfile.write(text)

            def log_message(self, *_: object) -> None:
                pass

        self.closed = Event()
        self.server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self.address = f"http://127.0.0.1:{self.server.server_port}/api/v1"
        self._thread = Thread(target=self.server.serve_forever, daemon=True)
        self._thread.start()

    def close(self) -> None:
        self.closed.set()
        self.server.shutdown()
        self.server.server_close()
        self._thread.join()


@pytest.fixture
def openrouter() -> Iterator[OpenRouter]:
    made = OpenRouter()
    yield made
    made.close()


@pytest.fixture
async def connection(settings: Settings) -> AsyncIterator["asyncpg.Connection[asyncpg.Record]"]:
    made = await connect(settings, application_name="test")
    await account(made, "acme", 100 * CREDIT)
    yield made
    await made.close()


@pytest.fixture
def configured(settings: Settings, openrouter: OpenRouter) -> Settings:
    return with_tokens(
        settings,
        provider_key_secrets=[secret()],
        openrouter_base_url=openrouter.address,
        openrouter_seconds_max=5.0,
    )


@pytest.fixture
async def app(
    configured: Settings, connection: asyncpg.Connection
) -> AsyncIterator[httpx2.AsyncClient]:
    async with serve(configured) as address, client(address, "acme") as made:
        yield made


def secret() -> SecretStr:
    return SecretStr(Fernet.generate_key().decode())


async def test_a_key_is_stored_and_only_its_hint_is_shown(
    app: httpx2.AsyncClient, connection: asyncpg.Connection, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.DEBUG)
    put = await app.put(PATH, json={"key": KEY})
    listed = await app.get("/api/v1/accounts/acme/provider-keys")
    assert (put.status_code, listed.status_code) == (200, 200)
    assert listed.json() == [put.json()]
    assert put.json()["hint"] == KEY[-4:]
    stored = [dict(row) for row in await connection.fetch("SELECT * FROM provider_key")]
    audited = [dict(row) for row in await connection.fetch("SELECT * FROM audit_log")]
    everything = put.text + listed.text + str(stored) + str(audited) + caplog.text
    assert KEY not in everything
    assert KEY[:-4] not in everything
    assert [row["action"] for row in audited] == ["provider-key.store"]


async def test_a_key_is_replaced_and_deleted(
    app: httpx2.AsyncClient, connection: asyncpg.Connection
) -> None:
    await app.put(PATH, json={"key": KEY})
    await app.put(PATH, json={"key": KEY[:-4] + "0000"})
    [row] = await connection.fetch("SELECT hint, rotated_at FROM provider_key")
    assert row["hint"] == "0000"
    assert row["rotated_at"] is not None
    assert (await app.delete(PATH)).status_code == 204
    assert (await app.delete(PATH)).status_code == 404
    assert (await app.get("/api/v1/accounts/acme/provider-keys")).json() == []
    acts = await connection.fetch("SELECT action FROM audit_log ORDER BY audit_id")
    assert [row[0] for row in acts] == [*["provider-key.store"] * 2, "provider-key.delete"]


@pytest.mark.parametrize("key", ["", "short", "x" * 513, KEY + "\r\nX: y", KEY + " ", KEY + "é", 7])
async def test_what_can_be_no_key_is_refused_and_not_repeated(
    app: httpx2.AsyncClient, key: object
) -> None:
    answer = await app.put(PATH, json={"key": key})
    assert answer.status_code == 422
    assert KEY not in answer.text


async def test_without_a_secret_no_key_is_taken(
    settings: Settings, connection: asyncpg.Connection
) -> None:
    async with serve(with_tokens(settings)) as address, client(address, "acme") as made:
        answer = await made.put(PATH, json={"key": KEY})
    assert answer.status_code == 409
    assert await connection.fetchval("SELECT count(*) FROM provider_key") == 0


async def test_the_balance_at_the_provider_is_kept_exactly(
    app: httpx2.AsyncClient, openrouter: OpenRouter
) -> None:
    await app.put(PATH, json={"key": KEY})
    openrouter.answers = [(200, {"data": {"limit": 20, "usage": 3.1415926535, "label": "x"}})]
    answer = await app.post(f"{PATH}/sync")
    assert answer.status_code == 200, answer.text
    assert (answer.json()["limit"], answer.json()["usage"]) == ("20", "3.1415926535")
    assert openrouter.asked == [f"/api/v1/key Bearer {KEY}"]
    await app.put(PATH, json={"key": KEY[:-4] + "0000"})
    [replaced] = (await app.get("/api/v1/accounts/acme/provider-keys")).json()
    assert replaced["synced_at"] is None


@pytest.mark.parametrize(
    ("answers", "status", "code", "asked"),
    [
        ([(401, {})], 424, "wrong_provider_key", 1),
        ([(403, {})], 424, "wrong_provider_key", 1),
        ([(500, {}), (503, {}), (500, {})], 502, "provider_away", 3),
        ([(404, {})], 502, "provider_away", 1),
        ([(302, {})], 502, "provider_away", 1),
        ([(200, b"<html>")], 502, "provider_away", 1),
        ([(200, {"data": {"usage": "lots"}})], 502, "provider_away", 1),
        ([(200, b" " * 100_000)], 502, "provider_away", 1),
        ([(500, {}), (200, {"data": {"limit": None, "usage": 0}})], 200, None, 2),
    ],
)
async def test_what_the_provider_says_is_told_clearly(
    app: httpx2.AsyncClient,
    openrouter: OpenRouter,
    answers: list[tuple[int, Any]],
    status: int,
    code: str | None,
    asked: int,
) -> None:
    await app.put(PATH, json={"key": KEY})
    openrouter.answers = answers
    answer = await app.post(f"{PATH}/sync")
    assert (answer.status_code, answer.json().get("code")) == (status, code)
    assert len(openrouter.asked) == asked
    assert KEY not in answer.text


async def test_a_provider_that_is_silent_or_gone_is_given_up(
    configured: Settings, openrouter: OpenRouter
) -> None:
    openrouter.silent = True
    with pytest.raises(ProviderAway):
        await asyncio.wait_for(read_balance(configured, SecretStr(KEY)), 8)
    gone = configured.model_copy(update={"openrouter_base_url": "http://127.0.0.1:1"})
    with pytest.raises(ProviderAway):
        await read_balance(gone, SecretStr(KEY))


async def test_an_answer_that_can_not_be_decoded_is_no_error_of_ours(
    configured: Settings, openrouter: OpenRouter
) -> None:
    openrouter.encoding = "gzip"
    openrouter.answers = [(200, b"no gzip")] * 3
    with pytest.raises(ProviderAway):
        await read_balance(configured, SecretStr(KEY))


async def test_an_answer_that_trickles_is_given_up(
    configured: Settings, openrouter: OpenRouter
) -> None:
    """Each read is quick; the whole takes twenty seconds."""
    openrouter.trickles = True
    quick = configured.model_copy(update={"openrouter_seconds_max": 0.1})
    began = time.monotonic()
    with pytest.raises(ProviderAway):
        await read_balance(quick, SecretStr(KEY))
    assert time.monotonic() - began < 10


async def test_a_wrong_key_is_asked_about_once(
    configured: Settings, openrouter: OpenRouter
) -> None:
    openrouter.answers = [(401, {})]
    with pytest.raises(WrongKey) as refused:
        await read_balance(configured, SecretStr(KEY))
    assert KEY not in str(refused.value)
    assert len(openrouter.asked) == 1


async def test_a_balance_of_a_replaced_key_is_not_kept(connection: asyncpg.Connection) -> None:
    vault = Vault([secret()])
    await store(connection, vault, "acme", "openrouter", SecretStr(KEY), "test")
    sealed = await read_sealed(connection, "acme", "openrouter")
    assert sealed is not None
    await store(connection, vault, "acme", "openrouter", SecretStr(KEY + "new"), "test")
    balance = RemoteBalance("1", "0")
    assert await note_balance(connection, "acme", "openrouter", sealed, balance) is None


async def test_a_ciphertext_moved_to_another_account_is_worth_nothing() -> None:
    vault = Vault([secret()])
    sealed = vault.seal("acme", "openrouter", KEY)
    assert vault.unseal("acme", "openrouter", sealed) == KEY
    with pytest.raises(Failure, match="another account"):
        vault.unseal("eve", "openrouter", sealed)
    with pytest.raises(Failure, match="can not be decrypted"):
        Vault([secret()]).unseal("acme", "openrouter", sealed)


def test_a_secret_that_is_none_is_named_and_not_shown() -> None:
    with pytest.raises(Failure, match="TOLLGATE_PROVIDER_KEY_SECRETS") as failed:
        Vault([SecretStr("hunter2")])
    assert "hunter2" not in str(failed.value)


async def test_keys_are_put_under_a_new_secret(
    connection: asyncpg.Connection, environment: dict[str, str]
) -> None:
    old, new = secret(), secret()
    await store(connection, Vault([old]), "acme", "openrouter", SecretStr(KEY), "test")
    secrets = json.dumps([new.get_secret_value(), old.get_secret_value()])
    with_both = {**environment, "TOLLGATE_PROVIDER_KEY_SECRETS": secrets}
    assert await report(with_both, "provider-key", "reencrypt") == {"reencrypted": 1}
    sealed = await read_sealed(connection, "acme", "openrouter")
    assert sealed is not None
    assert Vault([new]).unseal("acme", "openrouter", sealed) == KEY
    with pytest.raises(Failure):
        Vault([old]).unseal("acme", "openrouter", sealed)
    with pytest.raises(Failure, match="can not be decrypted"):
        await reencrypt(connection, Vault([secret()]))
    done = await run_tollgate(environment, "provider-key", "reencrypt")
    assert done.returncode == 1
    assert "TOLLGATE_PROVIDER_KEY_SECRETS is empty" in done.stderr
