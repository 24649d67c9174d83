"""Every route that changes something honours Idempotency-Key: made from the OpenAPI document."""

from collections.abc import AsyncIterator
from typing import Any

import asyncpg
import httpx2
import pytest

from adapters.postgres import connect
from adapters.settings import Settings
from tests.apis import client, everything_on, serve
from tests.gates import CREDIT, account, assert_sound
from tests.security.routes import Operation, operations

ACME = "/api/v1/accounts/acme"
PROPOSED = """INSERT INTO credit_proposal (kind, account_id, amount_micro, terms, reason,
    proposed_by, request_id, expires_at) VALUES ('adjustment', 'acme', 1, '{}', 'why', 'ann', '',
    now() + interval '1 day') RETURNING proposal_id"""
# Routes that need no key, and why: doing them again does nothing else.
NATURALLY_ONCE = {
    "POST /api/v1/events": "an event has an identity of its own, (subject, id)",
    "POST /api/v1/accounts/{account_id}/provider-keys/{provider}/sync": "asks the provider anew",
    "POST /api/v1/accounts/{account_id}/check": "reserves and charges nothing",
    "POST /api/credits/check": "reserves and charges nothing",
    "POST /api/v1/accounts/{account_id}/calculate-cost": "charges nothing",
    "POST /api/v1/credits/calculate-cost": "charges nothing",
    "POST /api/v1/login": "changes nothing",
    "POST /api/auth/login": "changes nothing",
}
CHANGES = [each for each in operations() if each.method not in {"GET", "HEAD", "OPTIONS"}]
KEYED = [each for each in CHANGES if each.name not in NATURALLY_ONCE]
STATE = (
    "account", "credit_grant", "credit_hold", "credit_transaction", "coupon", "coupon_redemption",
    "allowance", "refresh", "provider_key", "audit_log", "credit_proposal",
)  # fmt: skip


@pytest.fixture
async def connection(settings: Settings) -> AsyncIterator["asyncpg.Connection[asyncpg.Record]"]:
    made = await connect(settings, application_name="test")
    await account(made, "acme", 10_000 * CREDIT)
    yield made
    await assert_sound(made)
    await made.close()


@pytest.fixture
async def admin(
    settings: Settings, connection: object, topics: object
) -> AsyncIterator[httpx2.AsyncClient]:
    async with (
        serve(everything_on(settings)) as address,
        client(address, "root", "admin") as made,
    ):
        yield made


def test_the_list_of_exceptions_is_of_routes_that_are_there() -> None:
    assert set(NATURALLY_ONCE) <= {each.name for each in CHANGES}
    assert len(KEYED) > 20


@pytest.mark.parametrize("each", KEYED, ids=lambda each: each.name)
def test_a_change_documents_the_key(each: Operation) -> None:
    assert "Idempotency-Key" in each.names("header")


async def _prepare(
    admin: httpx2.AsyncClient, connection: asyncpg.Connection, number: int, each: Operation
) -> dict[str, str]:
    """What the path names: things of acme, of this operation alone."""
    values = {"account_id": "acme", "userId": "acme", "provider": "openrouter"}
    for kind in ("hold", "session"):
        if f"{kind}_id" in each.names("path"):
            values[f"{kind}_id"] = f"{kind}-{number}"
            wanted = {"credits": 1, f"{kind}_id": f"{kind}-{number}"}
            assert (await admin.post(f"{ACME}/{kind}s", json=wanted)).status_code == 201
    if "code" in each.names("path"):
        values["code"] = "WITHDRAWN"
        wanted = {"code": "WITHDRAWN", "credits": 1}
        assert (await admin.post("/api/v1/admin/coupons", json=wanted)).status_code == 201
    if "refresh_id" in each.names("path"):
        await admin.post("/api/v1/admin/refreshes", json={"accounts": ["acme"], "reason": "r"})
        given = (await admin.get(f"{ACME}/refreshes")).json()["refreshes"]
        values["refresh_id"] = str(given[0]["refresh_id"])
    if "proposal_id" in each.names("path"):
        values["proposal_id"] = str(await connection.fetchval(PROPOSED))
    if each.method == "DELETE":
        await admin.put(f"{ACME}/provider-keys/openrouter", json={"key": "sk-or-v1-of-acme-only"})
    return values


def _changes(each: Operation) -> dict[str, Any]:
    """Where the sample of the document does not fit what is there."""
    fields = (each.body or {}).get("properties", {})
    naming = {name: "acme" for name in ("user_id", "userId") if name in fields}
    several = {name: ["acme"] for name in ("accounts", "userIds") if name in fields}
    made = {"account_id": "fresh"} if "account_id" in fields else {}
    coupon = {"code": "MADE-HERE"} if each.path == "/api/v1/admin/coupons" else {}
    bought = {"coupon": None} if each.path.endswith("/top-ups") else {}
    spent = {"credits": 1} if {"credits", "usage"} <= set(fields) else {}
    set_ = {"demo": False} if each.name == "PATCH /api/v1/admin/accounts/{account_id}" else {}
    paused = {"paused": True} if each.method == "PATCH" and "paused" in fields else {}
    held = {"creditRefreshHold": True} if "creditRefreshHold" in fields else {}
    worth = {"credits": 1} if "percent" in fields else {}
    others = {**several, **made, **coupon}
    return {**naming, **others, **bought, **spent, **set_, **paused, **held, **worth}


async def _state(connection: asyncpg.Connection) -> list[Any]:
    return [
        await connection.fetchval(f"SELECT json_agg(t ORDER BY t::text)::text FROM {table} t")  # noqa: S608
        for table in STATE
    ]


async def test_the_same_key_has_one_effect_and_one_answer_on_every_route(
    admin: httpx2.AsyncClient, connection: asyncpg.Connection
) -> None:
    coupon = {"code": "SPRING-26", "credits": 1}
    assert (await admin.post("/api/v1/admin/coupons", json=coupon)).status_code == 201
    for number, each in enumerate(KEYED):
        address = each.address(**await _prepare(admin, connection, number, each))
        request = each.request(**_changes(each))
        request["headers"] = {**request.get("headers", {}), "Idempotency-Key": f"k-{number}"}
        first = await admin.request(each.method, address, **request)
        assert first.is_success, (each.name, first.text)
        before = await _state(connection)
        again = await admin.request(each.method, address, **request)
        assert (again.status_code, again.content) == (first.status_code, first.content), each.name
        assert await _state(connection) == before, each.name
        key = {"Idempotency-Key": f"k-{number}"}
        other = await admin.post(f"{ACME}/deduct", json={"credits": 0.5}, headers=key)
        assert other.status_code == 409, each.name
        assert other.json()["type"].endswith("idempotency-key-conflict"), each.name


async def test_a_late_retry_undoes_no_newer_key(admin: httpx2.AsyncClient) -> None:
    path = f"{ACME}/provider-keys/openrouter"
    old, new = {"key": "sk-or-v1-the-old-one-0001"}, {"key": "sk-or-v1-the-new-one-0002"}
    stored = {"Idempotency-Key": "put-1"}
    assert (await admin.put(path, json=old, headers=stored)).json()["hint"] == "0001"
    gone = await admin.delete(path, headers={"Idempotency-Key": "delete-1"})
    assert gone.status_code == 204
    assert (await admin.put(path, json=new)).json()["hint"] == "0002"
    assert (await admin.put(path, json=old, headers=stored)).json()["hint"] == "0001"
    again = await admin.delete(path, headers={"Idempotency-Key": "delete-1"})
    assert (again.status_code, again.headers["Idempotent-Replayed"]) == (204, "true")
    assert [key["hint"] for key in (await admin.get(f"{ACME}/provider-keys")).json()] == ["0002"]
