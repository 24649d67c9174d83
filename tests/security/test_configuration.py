"""S17, S19: what is off, what is not said, and what is not repeated."""

import asyncio
import logging
from collections.abc import AsyncIterator

import httpx2
import pytest

from adapters.postgres import connect
from adapters.settings import Settings
from api.server import run
from stack.ports import free_port
from tests.apis import SECRET, client, figures, serve, token, with_tokens
from tests.gates import CREDIT, account

PATH = "/api/v1/accounts/acme/deduct"


@pytest.fixture
async def app(settings: Settings) -> AsyncIterator[httpx2.AsyncClient]:
    made = await connect(settings, application_name="test")
    await account(made, "acme", 100 * CREDIT)
    await made.close()
    async with serve(with_tokens(settings)) as address, client(address, "acme") as caller:
        yield caller


@pytest.mark.parametrize(
    "path", ["/docs", "/metrics", "/redoc", "/debug", "/.env", "/api/v1/login", "/api/auth/login"]
)
async def test_what_is_for_developers_and_operators_is_not_there(
    app: httpx2.AsyncClient, path: str
) -> None:
    assert (await app.get(path)).status_code == 404


async def test_the_metrics_name_no_account_and_no_caller(app: httpx2.AsyncClient) -> None:
    await app.post(PATH, json={"credits": 1})
    shown = figures(str(app.base_url).rstrip("/"))
    assert "deduct" in shown
    assert "acme" not in shown


async def test_the_metrics_are_on_the_port_of_the_probes_alone(settings: Settings) -> None:
    ports = {"api_port": free_port(), "probe_port": free_port()}
    serving = asyncio.create_task(run(with_tokens(settings, **ports)))
    async with httpx2.AsyncClient(timeout=60) as anybody:
        async with asyncio.timeout(60):
            while True:
                try:
                    public = await anybody.get(f"http://127.0.0.1:{ports['api_port']}/metrics")
                    break
                except httpx2.ConnectError:
                    await asyncio.sleep(0.05)
        private = await anybody.get(f"http://127.0.0.1:{ports['probe_port']}/metrics")
        other = await anybody.get(f"http://127.0.0.1:{ports['probe_port']}/api/v1/me")
    serving.cancel()
    await asyncio.gather(serving, return_exceptions=True)
    assert (public.status_code, private.status_code, other.status_code) == (404, 200, 404)
    assert 'stage="api"' in private.text


async def test_no_other_site_may_read_an_answer(app: httpx2.AsyncClient) -> None:
    origin = {"Origin": "http://example.com"}
    asked = await app.get("/api/v1/accounts/acme", headers=origin)
    wanted = {**origin, "Access-Control-Request-Method": "POST"}
    preflight = await app.options("/api/v1/accounts/acme/check", headers=wanted)
    assert asked.status_code == 200
    assert preflight.status_code == 405
    for answer in (asked, preflight):
        assert not [name for name in answer.headers if name.startswith("access-control-")]


async def test_an_answer_does_not_name_what_serves_it(app: httpx2.AsyncClient) -> None:
    answer = await app.get("/api/v1/accounts/acme")
    assert "server" not in answer.headers
    assert "x-powered-by" not in answer.headers


async def test_an_error_does_not_repeat_what_was_sent(app: httpx2.AsyncClient) -> None:
    words = "my password is hunter2"
    for body in ({"credits": words}, {"credits": 1, "reason": {"x": words}}, {"prompt": words}):
        answer = await app.post(PATH, json=body)
        assert answer.status_code == 422
        assert "hunter2" not in answer.text


async def test_no_credential_gets_into_a_log(
    app: httpx2.AsyncClient, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.DEBUG)
    credential = token("acme")
    await app.post(PATH, json={"credits": 1}, headers={"Idempotency-Key": "k1"})
    await app.post(PATH, json={"credits": 1}, headers={"Authorization": f"Bearer {credential}x"})
    assert credential not in caplog.text
    assert SECRET not in caplog.text


async def test_a_credential_in_the_address_is_not_one(app: httpx2.AsyncClient) -> None:
    credential = token("acme")
    del app.headers["Authorization"]
    for place in ({"params": {"token": credential}}, {"params": {"access_token": credential}},
                  {"cookies": {"Authorization": f"Bearer {credential}"}},
                  {"headers": {"Authorization": f"Basic {credential}"}},
                  {"headers": {"X-Api-Key": credential}}):  # fmt: skip
        app.cookies.clear()
        for name, value in place.pop("cookies", {}).items():
            app.cookies.set(name, value)
        answer = await app.get("/api/v1/accounts/acme", **place)  # type: ignore[arg-type]
        assert answer.status_code == 401
