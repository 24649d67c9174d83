"""A check or a hold that takes the short way is answered as by its route, and only if ordinary."""

import re
from collections import Counter
from collections.abc import AsyncIterator
from typing import Any

import httpx2
import pytest

from adapters.patience import Unavailable
from adapters.postgres import connect
from adapters.settings import Settings
from api import short_way, tokens
from tests.apis import client, serve, token, with_tokens
from tests.gates import CREDIT, account

ACME = "/api/v1/accounts/acme"
KIND = {"Content-Type": "application/json"}
Asked = tuple[str, bytes, dict[str, str]]
# What takes the short way, and what must not: each is answered as by the route.
ORDINARY: list[Asked] = [
    ("/check", b'{"credits": 5}', {}),
    ("/check", b'{"credits": "0.000001"}', {}),
    ("/check", b'{"requiredCredits": 0.1}', {}),
    ("/check", b'{"credits": 100000}', {}),
    ("/holds", b'{"credits": 1}', {}),
    ("/holds", b'{"credits": 1, "metadata": {"a": true}, "kind": "session"}', {}),
    ("/holds", b'{"credits": 100000}', {}),
    ("/holds", b'{"credits": 1}', {"Idempotency-Key": "k1"}),
    ("/holds", b'{"credits": 2}', {"Idempotency-Key": "k1"}),
]
OTHERS: list[Asked] = [
    ("/check", b'{"credits": -1}', {}),
    ("/check", b'{"credits": true}', {}),
    ("/check", b'{"credits": NaN}', {}),
    ("/check", b'{"credits": 1, "account_id": "other"}', {}),
    ("/check", b"[]", {}),
    ("/check", b"{", {}),
    ("/check", b"\xff", {}),
    ("/check", b"[" * 100_000, {}),
    ("/check", b'{"credits": 5}', {"Content-Type": "text/plain"}),
    ("/check", b'{"credits": 5}', {"Authorization": "Bearer nobody"}),
    ("/check", b'{"credits": 5}', {"Authorization": "Basic " + token("acme")}),
    ("/check", b'{"credits": 5}', {"Content-Encoding": "gzip"}),
    ("/holds", b'{"credits": 1}', {"Idempotency-Key": "with space"}),
    ("/holds", b'{"credits": 1}', {"Idempotency-Key": ""}),
    ("/holds", b'{"credits": 1, "live_seconds": 0}', {}),
]
CHANGING = re.compile(r'"(hold_id|created_at|expires_at|available)":"[^"]*"')


@pytest.fixture
async def address(settings: Settings) -> AsyncIterator[str]:
    made = await connect(settings, application_name="test")
    for name in ("acme", "other"):
        await account(made, name, 100 * CREDIT)
    await made.close()
    async with serve(with_tokens(settings)) as found:
        yield found


@pytest.fixture
async def app(address: str) -> AsyncIterator[httpx2.AsyncClient]:
    """Of a user who was verified a moment ago."""
    async with client(address, "acme") as made:
        await made.get(f"{ACME}/balance")
        yield made


@pytest.fixture
def taken(monkeypatch: pytest.MonkeyPatch) -> Counter[str]:
    """How often the short way was taken."""
    counted: Counter[str] = Counter()
    for name in ("checked", "held"):
        answer = getattr(short_way, name)

        async def counting(*arguments: Any, name: str = name, answer: Any = answer) -> Any:
            counted[name] += 1
            return await answer(*arguments)

        monkeypatch.setattr(short_way, name, counting)
    return counted


def seen(answer: httpx2.Response) -> tuple[int, dict[str, str], str]:
    headers = {name: value for name, value in answer.headers.items() if name != "date"}
    text = CHANGING.sub(r'"\1":""', answer.text)
    if text != answer.text:
        headers.pop("content-length")
    return answer.status_code, headers, text


async def test_both_ways_answer_alike(app: httpx2.AsyncClient, taken: Counter[str]) -> None:
    for path, body, headers in ORDINARY + OTHERS:
        ordinary = (path, body, headers) in ORDINARY
        before = taken.total()
        short = await app.post(ACME + path, content=body, headers=KIND | headers)
        assert taken.total() - before == ordinary, (path, body, headers)
        # A query, which no route of these reads, is not ordinary.
        long = await app.post(ACME + path + "?x=1", content=body, headers=KIND | headers)
        assert taken.total() - before == ordinary, (path, body, headers)
        assert seen(short) == seen(long), (path, body, headers)


async def test_another_account_is_not_found(app: httpx2.AsyncClient, taken: Counter[str]) -> None:
    for path in ("/check", "/holds"):
        answer = await app.post(f"/api/v1/accounts/other{path}", json={"credits": 1})
        assert answer.status_code == 404
    assert not taken


async def test_a_caller_who_was_not_verified_takes_the_long_way(
    address: str, taken: Counter[str]
) -> None:
    async with client(address, "acme", jti="new") as made:
        for ways in (0, 1, 2):
            assert (await made.post(f"{ACME}/check", json={"credits": 1})).status_code == 200
            assert taken.total() == ways


async def test_a_token_is_not_remembered_for_longer_than_said(
    address: str, taken: Counter[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(tokens, "REMEMBERED_SECONDS", 0.0)
    async with client(address, "acme", jti="brief") as made:
        for _ in range(2):
            assert (await made.post(f"{ACME}/check", json={"credits": 1})).status_code == 200
    assert not taken


async def test_a_shown_balance_is_forgotten_by_a_hold(app: httpx2.AsyncClient) -> None:
    assert (await app.get(f"{ACME}/balance")).json()["available"] == "100"
    assert (await app.post(f"{ACME}/holds", json={"credits": 7})).status_code == 201
    assert (await app.get(f"{ACME}/balance")).json()["available"] == "93"


async def test_trouble_is_a_503(app: httpx2.AsyncClient, monkeypatch: pytest.MonkeyPatch) -> None:
    async def away(*_: object) -> None:
        raise Unavailable("away")

    monkeypatch.setattr(short_way, "checked", away)
    answer = await app.post(f"{ACME}/check", json={"credits": 1})
    assert (answer.status_code, answer.headers["retry-after"]) == (503, "1")
    assert answer.json()["type"] == "urn:tollgate:problem:unavailable"
