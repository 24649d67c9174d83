"""Every route that changes something has a row in the audit log when an admin uses it."""

from collections.abc import AsyncIterator

import asyncpg
import httpx2
import pytest

from adapters.audit_log import list_acts
from adapters.postgres import connect
from adapters.settings import Settings
from tests.apis import client, everything_on, serve, token
from tests.gates import CREDIT, account, assert_sound
from tests.integration.test_every_change_takes_a_key import (
    ACME,
    KEYED,
    NATURALLY_ONCE,
    _changes,
    _prepare,
)

ACTS = "SELECT count(*) FROM audit_log"


@pytest.fixture
async def connection(settings: Settings) -> AsyncIterator["asyncpg.Connection[asyncpg.Record]"]:
    made = await connect(settings, application_name="test")
    await account(made, "acme", 10_000 * CREDIT)
    yield made
    await assert_sound(made)
    await made.close()


@pytest.fixture
async def address(settings: Settings, connection: object) -> AsyncIterator[str]:
    async with serve(everything_on(settings)) as made:
        yield made


async def test_on_every_route(address: str, connection: asyncpg.Connection) -> None:
    async with client(address, "root", "admin") as admin:
        coupon = {"code": "SPRING-26", "credits": 1}
        assert (await admin.post("/api/v1/admin/coupons", json=coupon)).status_code == 201
        for number, each in enumerate(KEYED):
            place = each.address(**await _prepare(admin, connection, number, each))
            request = each.request(**_changes(each))
            before = await connection.fetchval(ACTS)
            answer = await admin.request(each.method, place, **request)
            assert answer.is_success, (each.name, answer.text)
            assert await connection.fetchval(ACTS) == before + 1, each.name
    assert len(KEYED) + len(NATURALLY_ONCE) > 30


async def test_the_short_way_writes_it_down_too(
    address: str, connection: asyncpg.Connection
) -> None:
    async with client(address, "root", "admin") as admin:
        for number in range(2):  # the second time the caller is known, and the way is the short one
            body = {"credits": 1, "hold_id": f"h-{number}"}
            assert (await admin.post(f"{ACME}/holds", json=body)).status_code == 201
    acts = await list_acts(connection, subject="acme", action="place_hold")
    assert [act["after"]["hold_id"] for act in acts] == ["h-1", "h-0"]
    assert acts[0]["actor"] == "root"
    assert acts[0]["before"] == {"balance_micro": 10_000 * CREDIT, "held_micro": CREDIT}


async def test_of_services_and_users_the_ledger_tells(
    address: str, connection: asyncpg.Connection
) -> None:
    for role in ("service", "user"):
        async with client(address, "acme", role) as caller:
            held = await caller.post(f"{ACME}/holds", json={"credits": 1})
            place = f"{ACME}/holds/{held.json()['hold_id']}/settle"
            settled = await caller.post(place, json={"credits": 1})
            assert settled.status_code == 200
    assert await connection.fetchval(ACTS) == 0


async def test_what_was_refused_or_repeated_is_no_act(
    address: str, connection: asyncpg.Connection
) -> None:
    headers = {"Authorization": f"Bearer {token('root', 'admin')}", "Idempotency-Key": "k-1"}
    async with httpx2.AsyncClient(base_url=address, headers=headers, timeout=20) as admin:
        for _ in range(2):
            assert (await admin.post(f"{ACME}/deduct", json={"credits": 1})).status_code == 200
        other = {"Idempotency-Key": "k-2"}
        much = await admin.post(f"{ACME}/deduct", json={"credits": 99_999}, headers=other)
        assert much.status_code == 402
    [act] = await list_acts(connection)
    assert (act["action"], act["request_id"], act["reason"]) == ("deduct", "k-1", "")
