"""What the API says about itself while its dependencies come and go."""

import asyncio
import socket
import threading
import time
from collections.abc import AsyncIterator

import asyncpg
import httpx2
import pytest
from pydantic import SecretStr

from adapters.dependencies import clickhouse_answers, kafka_answers
from adapters.postgres import connect
from adapters.settings import Settings
from tests.apis import client, serve, with_tokens
from tests.gates import CREDIT, account

NOWHERE = SecretStr("postgresql://tollgate@127.0.0.1:1/none")


@pytest.fixture
async def connection(settings: Settings) -> AsyncIterator["asyncpg.Connection[asyncpg.Record]"]:
    made = await connect(settings, application_name="test")
    yield made
    await made.close()


async def _states(nobody: httpx2.AsyncClient, path: str = "/health") -> dict[str, str]:
    found = (await nobody.get(path)).json()
    return {"all": found["status"]} | {d["name"]: d["status"] for d in found["dependencies"]}


async def _comes_to(nobody: httpx2.AsyncClient, wanted: dict[str, str], path: str) -> None:
    """Within half a minute: on a busy machine a dependency takes longer than it may, for once."""
    end = time.monotonic() + 30
    while (found := await _states(nobody, path)) != wanted:
        assert time.monotonic() < end, found
        await asyncio.sleep(0.2)


async def _ready_comes_to(nobody: httpx2.AsyncClient, status: int) -> httpx2.Response:
    end = time.monotonic() + 30
    while (answer := await nobody.get("/ready")).status_code != status:
        assert time.monotonic() < end, answer.text
        await asyncio.sleep(0.2)
    return answer


@pytest.mark.parametrize("path", ["/health", "/api/health", "/api/v1/system/status"])
async def test_health_names_each_dependency(settings: Settings, path: str) -> None:
    async with serve(with_tokens(settings)) as address, client(address) as nobody:
        wanted = {"all": "ok", "postgres": "ok", "kafka": "ok", "clickhouse": "ok"}
        await _comes_to(nobody, wanted, path)
        assert (await _ready_comes_to(nobody, 200)).json() == {"ready": True}


async def test_without_what_only_the_pipeline_needs_it_is_degraded(settings: Settings) -> None:
    changed = with_tokens(settings, clickhouse=SecretStr("http://127.0.0.1:1"))
    async with serve(changed) as address, client(address) as nobody:
        wanted = {"all": "degraded", "postgres": "ok", "kafka": "ok", "clickhouse": "down"}
        await _comes_to(nobody, wanted, "/health")
        assert (await nobody.get("/health")).status_code == 200
        await _ready_comes_to(nobody, 200)


async def test_without_postgres_it_is_not_ready_and_every_answer_is_no(settings: Settings) -> None:
    changed = with_tokens(settings, postgres=NOWHERE, gate_seconds_max=0.9)
    async with serve(changed) as address, client(address, "root", "admin") as admin:
        assert (await admin.get("/ready")).status_code == 503
        assert (await admin.get("/health")).status_code == 503
        assert (await _states(admin))["postgres"] == "down"
        for method, path, body in (
            ("POST", "/api/v1/accounts/acme/check", {"credits": 1}),
            ("POST", "/api/v1/accounts/acme/holds", {"credits": 1}),
            ("GET", "/api/v1/accounts/acme", None),
            ("GET", "/api/v1/admin/statistics", None),
            ("POST", "/api/v1/admin/accounts", {"account_id": "b"}),
            ("POST", "/api/credits/check", {"credits": 1, "userId": "acme"}),
        ):
            began = time.monotonic()
            answer = await admin.request(method, path, json=body)
            assert answer.status_code == 503, path
            assert answer.headers["retry-after"] == "1"
            assert time.monotonic() - began < 5


async def test_readiness_follows_a_read_only_postgres(
    settings: Settings, connection: asyncpg.Connection
) -> None:
    await account(connection, "acme", CREDIT)
    database = await connection.fetchval("SELECT current_database()")
    async with serve(with_tokens(settings)) as address, client(address) as nobody:
        await _ready_comes_to(nobody, 200)
        await connection.execute(
            f'ALTER DATABASE "{database}" SET default_transaction_read_only = on'
        )
        await connection.execute(
            "SELECT pg_terminate_backend(pid) FROM pg_stat_activity"
            " WHERE application_name = 'tollgate-api' AND datname = current_database()"
        )
        await _ready_comes_to(nobody, 503)
        await connection.execute("SET default_transaction_read_only = off")
        await connection.execute(f'ALTER DATABASE "{database}" RESET default_transaction_read_only')
        await connection.execute(
            "SELECT pg_terminate_backend(pid) FROM pg_stat_activity"
            " WHERE application_name = 'tollgate-api' AND datname = current_database()"
        )
        await _ready_comes_to(nobody, 200)


async def test_a_server_that_takes_connections_and_says_nothing_is_down(
    settings: Settings,
) -> None:
    with socket.create_server(("127.0.0.1", 0)) as silent:
        port = silent.getsockname()[1]
        changed = settings.model_copy(
            update={
                "kafka": f"127.0.0.1:{port}",
                "clickhouse": SecretStr(f"http://user:secret@127.0.0.1:{port}"),
            }
        )
        began = time.monotonic()
        found = await asyncio.gather(kafka_answers(changed, 0.3), clickhouse_answers(changed, 0.3))
        assert found == [False, False]
        assert time.monotonic() - began < 10


async def test_many_silent_servers_are_waited_for_at_once(settings: Settings) -> None:
    with socket.create_server(("127.0.0.1", 0)) as silent:
        port = silent.getsockname()[1]
        servers = ",".join([f"127.0.0.1:{port}"] * 5)
        began = time.monotonic()
        assert await kafka_answers(settings.model_copy(update={"kafka": servers}), 1.0) is False
        assert time.monotonic() - began < 4  # one after the other: 5 s
        one = settings.model_copy(update={"kafka": f"{servers},{settings.kafka}"})
        began = time.monotonic()
        assert await kafka_answers(one, 30) is True
        assert time.monotonic() - began < 15


async def test_what_is_not_clickhouse_is_down(settings: Settings) -> None:
    """It was an error of the health route: BadStatusLine is no OSError."""
    with socket.create_server(("127.0.0.1", 0)) as other:

        def babble() -> None:
            accepted, _ = other.accept()
            with accepted:
                accepted.recv(1_000)
                accepted.sendall(b"\x00\x01 not HTTP\r\n\r\n")

        thread = threading.Thread(target=babble)
        thread.start()
        address = SecretStr(f"http://127.0.0.1:{other.getsockname()[1]}")
        changed = settings.model_copy(update={"clickhouse": address})
        assert await clickhouse_answers(changed, 0.5) is False
        thread.join()


async def test_what_is_not_kafka_is_not_taken_for_it(settings: Settings) -> None:
    """Another protocol on the port: what it says is not an answer to our question."""
    with socket.create_server(("127.0.0.1", 0)) as other:

        def babble() -> None:
            accepted, _ = other.accept()
            with accepted:
                accepted.sendall(b"HTTP/1.1 400 Bad Request\r\n\r\n")

        thread = threading.Thread(target=babble)
        thread.start()
        changed = settings.model_copy(
            update={"kafka": f"127.0.0.1:{other.getsockname()[1]},127.0.0.1:1,nonsense"}
        )
        assert await kafka_answers(changed, 0.5) is False
        thread.join()
    assert await kafka_answers(settings, 5) is True
    assert await clickhouse_answers(settings, 5) is True
