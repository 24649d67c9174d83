"""Gifts above the limit over HTTP: 202, seen by admins, decided by another one, once."""

from collections.abc import AsyncIterator
from datetime import datetime, timedelta
from typing import Any

import asyncpg
import httpx2
import pytest

from adapters.api_keys import NewKey, Scope, create_key, rotate_key
from adapters.audit_log import list_acts
from adapters.postgres import connect
from adapters.settings import Settings
from api.proposed import ProposalView
from tests.apis import client, keyed, serve, with_tokens
from tests.gates import CREDIT, account, assert_sound

ADMIN = "/api/v1/admin"
ACME = f"{ADMIN}/accounts/acme"
PROPOSALS = f"{ADMIN}/proposals"
Client = httpx2.AsyncClient


@pytest.fixture
async def connection(settings: Settings) -> AsyncIterator["asyncpg.Connection[asyncpg.Record]"]:
    made = await connect(settings, application_name="test")
    await account(made, "acme", 100 * CREDIT)
    yield made
    await assert_sound(made)
    await made.close()


@pytest.fixture
async def address(settings: Settings, connection: object) -> AsyncIterator[str]:
    limited = with_tokens(settings, dual_control_credits_micro=1_000 * CREDIT)
    async with serve(limited) as found:
        yield found


@pytest.fixture
async def anna(address: str) -> AsyncIterator[Client]:
    async with client(address, "anna", "admin") as made:
        yield made


@pytest.fixture
async def bob(address: str) -> AsyncIterator[Client]:
    async with client(address, "bob", "admin") as made:
        yield made


async def propose(admin: Client, credit: int = 5_000, **headers: str) -> dict[str, Any]:
    body = {"credits": credit, "reason": "contract 7", "priority": 3}
    answer = await admin.post(f"{ACME}/grants", json=body, headers=headers)
    assert answer.status_code == 202, answer.text
    found: dict[str, Any] = answer.json()
    assert answer.headers["Location"] == f"{PROPOSALS}/{found['proposal_id']}"
    return found


async def decide(admin: Client, number: int, what: str = "approve", **headers: str) -> Any:
    path = f"{PROPOSALS}/{number}/{what}"
    return await admin.post(path, json={"reason": "seen"}, headers=headers)


async def test_a_large_grant_waits_and_is_booked_by_another(anna: Client, bob: Client) -> None:
    small = await anna.post(f"{ACME}/grants", json={"credits": 900})
    assert small.status_code == 201
    made = await propose(anna, 200)
    assert (made["kind"], made["state"], made["credits"]) == ("grant", "pending", "200")
    assert (made["proposed_by"], made["account_id"]) == ("anna", "acme")
    assert made["terms"] == {"priority": 3, "expires_at": None}
    age = datetime.fromisoformat(made["expires_at"]) - datetime.fromisoformat(made["proposed_at"])
    assert age == timedelta(days=7)
    number = made["proposal_id"]
    assert (await bob.get(f"{PROPOSALS}/{number}")).json() == made
    assert (await bob.get(f"{ADMIN}/statistics")).json()["pending_proposals"] == 1
    refused = await decide(anna, number)
    assert (refused.status_code, refused.json()["code"]) == (403, "own_proposal")
    done = (await decide(bob, number)).json()
    assert (done["state"], done["decided_by"], done["balance"]) == ("approved", "bob", "1200")
    assert done["decision"] == "seen"
    again = await decide(bob, number)
    assert (again.status_code, again.json()["code"]) == (409, "decided")
    assert (await bob.get(f"{ADMIN}/statistics")).json()["pending_proposals"] == 0
    shown = (await bob.get("/api/v1/accounts/acme/transactions")).json()["entries"][0]
    assert (shown["type"], shown["amount"], shown["reason"]) == ("GRANT", "200", "contract 7")
    assert (await decide(bob, 999)).status_code == 404
    assert (await bob.get(f"{PROPOSALS}/999")).status_code == 404


async def test_a_key_answers_again_as_it_did(anna: Client, bob: Client) -> None:
    first = await propose(anna, **{"Idempotency-Key": "k-1"})
    assert await propose(anna, **{"Idempotency-Key": "k-1"}) == first
    done = await decide(bob, first["proposal_id"], **{"Idempotency-Key": "k-2"})
    again = await decide(bob, first["proposal_id"], **{"Idempotency-Key": "k-2"})
    assert (done.status_code, again.content) == (200, done.content)
    assert await propose(anna, **{"Idempotency-Key": "k-1"}) == first
    balance = (await bob.get("/api/v1/accounts/acme/balance")).json()["balance"]
    assert balance == "5100"


async def test_an_api_key_is_an_admin_like_a_person(
    anna: Client, address: str, connection: asyncpg.Connection
) -> None:
    wanted = NewKey("tool", "admin", frozenset({Scope.ADMIN}), "cli:ops")
    credential = (await create_key(connection, wanted)).credential
    async with keyed(address, credential) as tool:
        own = await propose(tool)
        assert (await decide(tool, own["proposal_id"])).status_code == 403
        assert (await decide(anna, own["proposal_id"])).status_code == 200
        hers = await propose(anna)
        assert (await decide(tool, hers["proposal_id"])).status_code == 200


async def test_a_key_and_its_successor_are_one_admin(
    anna: Client, address: str, connection: asyncpg.Connection
) -> None:
    wanted = NewKey("tool", "admin", frozenset({Scope.ADMIN}), "cli:ops")
    old = await create_key(connection, wanted)
    new = await rotate_key(connection, old.key_id, overlap_seconds=60, actor="cli:ops")
    async with keyed(address, old.credential) as tool, keyed(address, new.credential) as successor:
        number = (await propose(tool))["proposal_id"]
        assert (await decide(successor, number)).status_code == 403
        assert (await decide(successor, number, "reject")).json()["state"] == "withdrawn"
        alone = [await each.post(f"{ACME}/grants", json={"credits": 600}) for each in (tool, anna)]
        assert [each.status_code for each in alone] == [201, 201]
        assert (await successor.post(f"{ACME}/grants", json={"credits": 600})).status_code == 202
        taken = await successor.post(
            f"{ACME}/adjustments", json={"credits": -600, "reason": "back"}
        )
        assert taken.status_code == 202
    acts = await list_acts(connection, actor=f"key:{new.key_id}")
    assert [act["action"] for act in acts] == ["propose", "propose", "withdraw_proposal"]


async def test_an_expired_one_is_a_conflict_and_stays_one(
    anna: Client, bob: Client, connection: asyncpg.Connection
) -> None:
    number = (await propose(anna))["proposal_id"]
    await connection.execute("ALTER TABLE credit_proposal DISABLE TRIGGER USER")
    await connection.execute("UPDATE credit_proposal SET expires_at = now()")
    await connection.execute("ALTER TABLE credit_proposal ENABLE TRIGGER USER")
    assert (await bob.get(f"{PROPOSALS}/{number}")).json()["state"] == "expired"
    for what in ("approve", "approve", "reject"):
        answer = await decide(bob, number, what, **{"Idempotency-Key": what})
        assert (answer.status_code, answer.json()["code"]) == (409, "expired")
        assert answer.headers["content-type"] == "application/problem+json"
    assert len(await list_acts(connection, action="expire_proposal")) == 1


async def test_rejected_withdrawn_and_listed(anna: Client, bob: Client) -> None:
    numbers = [(await propose(anna))["proposal_id"] for _ in range(5)]
    assert (await decide(bob, numbers[0], "reject")).json()["state"] == "rejected"
    assert (await decide(anna, numbers[1], "reject")).json()["state"] == "withdrawn"
    without = await bob.post(f"{PROPOSALS}/{numbers[2]}/reject", json={})
    assert without.status_code == 422
    first = (await bob.get(PROPOSALS, params={"limit": 2, "state": "pending"})).json()
    assert [each["proposal_id"] for each in first["proposals"]] == [numbers[4], numbers[3]]
    more = {"limit": 2, "state": "pending", "below": first["next"]}
    rest = (await bob.get(PROPOSALS, params=more)).json()
    assert [each["proposal_id"] for each in rest["proposals"]] == [numbers[2]]
    assert rest["next"] is None
    every = (await bob.get(PROPOSALS, params={"account_id": "acme"})).json()["proposals"]
    assert [each["proposal_id"] for each in every] == numbers[::-1]
    nobody = (await bob.get(PROPOSALS, params={"account_id": "nobody"})).json()
    assert nobody == {"proposals": [], "next": None}


async def test_no_other_path_leads_around_it(
    anna: Client, bob: Client, address: str, connection: asyncpg.Connection
) -> None:
    why = {"reason": "why"}
    ways: list[tuple[str, dict[str, Any]]] = [
        (f"{ACME}/adjustments", {"credits": 1_001, **why}),
        (f"{ACME}/adjustments", {"credits": -1_001, **why}),
        ("/api/admin/credits/adjust", {"user_id": "acme", "amount": 1_001, **why}),
        ("/api/v1/admin/credits/allocate", {"user_id": "acme", "amount": 1_001}),
        ("/api/v1/admin/credits/allocate", {"user_id": "fresh", "amount": 1_001}),
        ("/api/credits/allocate", {"userId": "acme", "credits": 1_001}),
        (f"{ADMIN}/coupons", {"code": "LARGE", "credits": 101, "uses_max": 10}),
    ]
    for path, body in ways:
        answer = await anna.post(path, json=body)
        assert answer.status_code == 202, (path, answer.text)
        ProposalView.model_validate(answer.json(), extra="forbid")
    top_up = "/api/v1/accounts/acme/top-ups"
    assert (await anna.post(top_up, json={"credits": 1_001})).status_code == 403
    assert (await anna.post(top_up, json={"credits": 999})).status_code == 201
    assert (await anna.post(f"{ACME}/grants", json={"credits": 2})).status_code == 202
    large = {"custom": 1_001, **why}
    assert (await anna.patch(f"{ACME}/allowance", json=large)).status_code == 409
    camel = "/api/admin/users/acme/refresh-settings"
    assert (await anna.put(camel, json={"customCreditAmount": 1_001})).status_code == 409
    assert (await anna.put(camel, json={"customCreditAmount": 1_000})).status_code == 200
    async with client(address, "shop", "service") as shop:
        assert (await shop.post(top_up, json={"credits": 9_000})).status_code == 201
    assert await connection.fetchval("SELECT count(*) FROM coupon") == 0
    found = (await bob.get(PROPOSALS, params={"state": "pending"})).json()["proposals"]
    for each in found:
        assert (await decide(bob, each["proposal_id"])).status_code == 200
    assert await connection.fetchval("SELECT count(*) FROM coupon") == 1
    balance = await connection.fetchval("SELECT balance_micro FROM account WHERE account_id='acme'")
    assert balance == (100 + 999 + 9_000 + 3 * 1_001 + 2) * CREDIT


async def test_a_percentage_is_no_way_around_it(
    anna: Client, address: str, connection: asyncpg.Connection
) -> None:
    tenfold = {"code": "TENFOLD", "percent": 1_000, "account_uses_max": 9}
    assert (await anna.post(f"{ADMIN}/coupons", json=tenfold)).status_code == 201
    top_up, with_it = "/api/v1/accounts/acme/top-ups", {"coupon": "TENFOLD"}
    assert (await anna.post(top_up, json={"credits": 100, **with_it})).status_code == 403
    assert (await anna.post(top_up, json={"credits": 50, **with_it})).status_code == 201
    assert (await anna.post(top_up, json={"credits": 451})).status_code == 403, "550 are given"
    assert (await anna.post(f"{ACME}/grants", json={"credits": 451})).status_code == 202
    assert (await anna.post(top_up, json={"credits": 450})).status_code == 201
    async with client(address, "shop", "service") as shop:
        sold = await shop.post(top_up, json={"credits": 1_000, **with_it})
        assert sold.status_code == 201
    balance = await connection.fetchval("SELECT balance_micro FROM account WHERE account_id='acme'")
    assert balance == (100 + 550 + 450 + 11_000) * CREDIT


async def test_without_a_limit_nothing_waits(settings: Settings, connection: object) -> None:
    async with (
        serve(with_tokens(settings)) as address,
        client(address, "anna", "admin") as anna,
    ):
        answer = await anna.post(f"{ACME}/grants", json={"credits": 1_000_000_000})
        assert answer.status_code == 201
        coupon = {"code": "ENDLESS", "credits": 1_000_000_000}
        assert (await anna.post(f"{ADMIN}/coupons", json=coupon)).status_code == 201
