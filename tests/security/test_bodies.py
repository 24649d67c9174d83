"""S3, S4, S14: what stands in a request beside what is asked for, and what hides in its strings."""

import json
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack
from typing import Any

import asyncpg
import httpx2
import pytest

from adapters.postgres import connect
from adapters.settings import Settings
from tests.apis import client, everything_on, serve
from tests.gates import CREDIT, account, assert_sound
from tests.security.routes import Access, operations, strings

WITH_BODY = [each for each in operations() if each.body is not None]
PRIVILEGED = {
    "balance": "1000000",
    "balance_micro": 10**12,
    "is_admin": True,
    "role": "admin",
    "account_id": "acme",
    "owner": "root",
    "granted_by": "root",
    "actor": "root",
    "tier": "pro",
    "demo": False,
    "priority": 1,
    "expires_at": "2099-01-01T00:00:00Z",
    "monthly_cap": None,
    "created_at": "2020-01-01T00:00:00Z",
    "spent": True,
    "__proto__": {"role": "admin"},
}
# What SQL, a terminal, a spreadsheet or a database's encoding could take for something else.
HOSTILE = [
    "' OR '1'='1",
    "'; DROP TABLE account; --",
    "acme'); DELETE FROM charge; --",
    "\\'; SELECT pg_sleep(9); --",
    '" OR ""="',
    "1; UPDATE account SET balance_micro = 0",
    "${jndi:ldap://x}",
    "{{7*7}}",
    "%s%s%n",
    "x\r\nSet-Cookie: admin=1",
    "x\x1b[2Jx",
    "=cmd|' /C calc'!A0",
    "x\x00y",
    "\ud800",
    "\u202e\ufeff\uffff",
    "a" * 100_000,
]

Clients = dict[str, httpx2.AsyncClient]


@pytest.fixture
async def connection(settings: Settings) -> AsyncIterator["asyncpg.Connection[asyncpg.Record]"]:
    made = await connect(settings, application_name="test")
    await account(made, "acme", 100 * CREDIT)
    yield made
    await assert_sound(made)
    await made.close()


@pytest.fixture
async def callers(
    settings: Settings, connection: asyncpg.Connection, topics: dict[str, str]
) -> AsyncIterator[Clients]:
    async with AsyncExitStack() as stack:
        address = await stack.enter_async_context(serve(everything_on(settings)))
        yield {
            "user": await stack.enter_async_context(client(address, "acme")),
            "admin": await stack.enter_async_context(client(address, "root", "admin")),
        }


def caller(callers: Clients, access: Access | None) -> httpx2.AsyncClient:
    return callers["admin" if access in {Access.ADMIN, Access.SELLER} else "user"]


def test_every_body_refuses_what_it_does_not_know() -> None:
    lax = [
        each.name
        for each in WITH_BODY
        if each.body
        and each.body.get("type") == "object"
        and each.body.get("additionalProperties") is not False
    ]
    assert WITH_BODY
    assert lax == []


async def test_a_field_that_nobody_asked_for_is_refused(callers: Clients) -> None:
    found = []
    for each in WITH_BODY:
        assert each.body
        if each.body.get("type") != "object":
            continue
        for name, value in PRIVILEGED.items():
            if name in each.body.get("properties", {}):
                continue
            answer = await caller(callers, each.access).request(
                each.method, each.address(account_id="acme"), **each.request(**{name: value})
            )
            if answer.status_code not in {400, 422}:
                found.append(f"{each.name} with {name}: {answer.status_code}")
    assert found == []


async def test_text_is_text_in_every_field_of_every_body(callers: Clients) -> None:
    found = []
    for each in WITH_BODY:
        for name in strings(each.body or {}):
            for text in HOSTILE:
                request = each.request(**{name: text})
                answer = await caller(callers, each.access).request(
                    each.method,
                    each.address(account_id="acme"),
                    content=json.dumps(request["json"]),
                    headers=request["headers"],
                )
                found += wrong(f"{each.name} {name}={text[:20]!r}", answer)
    assert found == []


async def test_text_is_text_in_every_path_query_and_key(callers: Clients) -> None:
    found = []
    for each in operations():
        for place in ("path", "query"):
            for name in each.names(place):
                for text in HOSTILE[:-1]:
                    found += wrong(
                        f"{each.name} {name}={text!r}",
                        await asked(caller(callers, each.access), each, name, text),
                    )
    assert found == []


async def asked(
    made: httpx2.AsyncClient, each: Any, name: str, text: str
) -> httpx2.Response | None:
    try:
        address = each.address(**{"account_id": "acme", name: quoted(text)})
    except httpx2.InvalidURL:
        return None
    return await made.request(each.method, httpx2.URL(address), **each.request())


def quoted(text: str) -> str:
    return "".join(f"%{byte:02X}" for byte in text.encode("utf-8", "surrogatepass"))


def wrong(what: str, answer: httpx2.Response | None) -> list[str]:
    if answer is None or answer.status_code < 500:
        return []
    return [f"{what}: {answer.status_code}"]


@pytest.mark.parametrize(
    ("body", "media_type"),
    [
        (b"", "application/json"),
        (b"{", "application/json"),
        (b"\xff\xfe", "application/json"),
        (b'{"credits": 1} trailing', "application/json"),
        (b'{"credits": NaN}', "application/json"),
        (b'{"credits": Infinity}', "application/json"),
        (b'{"credits": 1e400}', "application/json"),
        (b'{"credits": ' + b"9" * 5_000 + b"}", "application/json"),
        (b"credits=1", "application/x-www-form-urlencoded"),
        (b"<credits>1</credits>", "application/xml"),
        (b'{"credits": ' + b"[" * 50_000 + b"]" * 50_000 + b"}", "application/json"),
        (b'{"usage": ' + b'{"attributes":' * 900 + b"1" + b"}" * 901, "application/json"),
    ],
)
async def test_a_broken_body_is_the_callers_mistake(
    callers: Clients, body: bytes, media_type: str
) -> None:
    for path in ("check", "deduct"):
        answer = await callers["user"].post(
            f"/api/v1/accounts/acme/{path}", content=body, headers={"Content-Type": media_type}
        )
        assert answer.status_code in {400, 402, 413, 415, 422}, answer.text
        assert answer.headers["content-type"] == "application/problem+json"
        assert "Traceback" not in answer.text
