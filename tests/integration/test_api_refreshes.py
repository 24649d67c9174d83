"""Allowances over HTTP: shown, set, given by hand once a key, and taken back."""

import asyncio
from collections.abc import AsyncIterator

import asyncpg
import httpx2
import pytest

from adapters.postgres import connect
from adapters.settings import Settings
from tests.apis import client, serve, with_tokens
from tests.gates import CREDIT, account, assert_sound

ACME = "/api/v1/accounts/acme"
ADMIN = "/api/v1/admin"
WHY = {"reason": "ticket 42"}


@pytest.fixture
async def connection(settings: Settings) -> AsyncIterator["asyncpg.Connection[asyncpg.Record]"]:
    made = await connect(settings, application_name="test")
    await account(made, "acme", 100 * CREDIT)
    yield made
    await assert_sound(made)
    await made.close()


@pytest.fixture
async def admin(settings: Settings, connection: object) -> AsyncIterator[httpx2.AsyncClient]:
    async with serve(with_tokens(settings)) as address, client(address, "root", "admin") as made:
        yield made


async def test_an_allowance_is_set_given_shown_and_taken_back(admin: httpx2.AsyncClient) -> None:
    path = f"{ADMIN}/accounts/acme/allowance"
    found = await admin.patch(path, json={"custom": "70.5", "preferred_day": 3, **WHY})
    assert found.status_code == 200
    assert (found.json()["custom"], found.json()["preferred_day"]) == ("70.5", 3)
    body = {"accounts": ["acme", "nobody"], **WHY}
    dry = (await admin.post(f"{ADMIN}/refreshes", json=body | {"dry_run": True})).json()
    assert (dry["refreshed"], dry["amount"], dry["missed"]) == (1, "70.5", 1)
    assert (await admin.get(f"{ACME}/balance")).json()["balance"] == "100"
    done = (await admin.post(f"{ADMIN}/refreshes", json=body)).json()
    assert done == {
        "dry_run": False, "refreshed": 1, "amount": "70.5", "replaced": "0", "missed": 1,
        "failures": {},
    }  # fmt: skip
    assert (await admin.get(f"{ACME}/balance")).json()["balance"] == "170.5"
    shown = (await admin.get(f"{ACME}/allowance")).json()
    assert (shown["granted"], shown["remaining"]) == ("70.5", "70.5")
    assert shown["due_at"] is not None
    page = (await admin.get(f"{ACME}/refreshes")).json()
    assert [(r["amount"], r["balance_after"]) for r in page["refreshes"]] == [("70.5", "170.5")]
    undo = f"{ADMIN}/refreshes/{page['refreshes'][0]['refresh_id']}/undo"
    taken = (await admin.post(undo, json=WHY)).json()
    assert (taken["taken"], taken["balance"]) == ("70.5", "100")
    assert (await admin.get(f"{ACME}/balance")).json()["balance"] == "100"
    assert (await admin.post(undo, json=WHY)).status_code == 409
    figures = (await admin.get(f"{ADMIN}/refresh-statistics")).json()
    assert (figures["refreshes"], figures["undone"], figures["enrolled"]) == (1, 1, 1)


async def test_one_refresh_a_key(admin: httpx2.AsyncClient) -> None:
    body, key = {"accounts": ["acme"], **WHY}, {"Idempotency-Key": "k1"}
    answers = await asyncio.gather(
        *(admin.post(f"{ADMIN}/refreshes", json=body, headers=key) for _ in range(5))
    )
    assert {answer.status_code for answer in answers} == {200}
    assert len({answer.text for answer in answers}) == 1
    first, second = "/refreshes?limit=1", "/refreshes?limit=1&below=1"
    assert (await admin.get(ACME + first)).json()["next"] is None
    assert (await admin.get(ACME + second)).json()["refreshes"] == []
    acts = (await admin.get(f"{ADMIN}/audit-log")).json()["acts"]
    assert [(act["action"], act["request_id"]) for act in acts] == [("refresh_now", "k1")]


async def test_what_is_refused(admin: httpx2.AsyncClient) -> None:
    path = f"{ADMIN}/accounts/acme/allowance"
    for body in (WHY, {"paused": True}, {"paused": None, **WHY}, {"preferred_day": 32, **WHY}):
        assert (await admin.patch(path, json=body)).status_code == 422, body
    unknown = f"{ADMIN}/accounts/nobody/allowance"
    assert (await admin.patch(unknown, json={"paused": True, **WHY})).status_code == 404
    assert (await admin.get("/api/v1/accounts/nobody/allowance")).status_code == 404
    assert (await admin.get("/api/v1/accounts/nobody/refreshes")).status_code == 404
    assert (await admin.post(f"{ADMIN}/refreshes", json={"accounts": []})).status_code == 422
    assert (await admin.post(f"{ADMIN}/refreshes/9/undo", json=WHY)).status_code == 409


async def test_002_the_paths_of_the_source(
    admin: httpx2.AsyncClient, connection: asyncpg.Connection
) -> None:
    one = "/api/admin/users/acme"
    settings = {"creditRefreshHold": True, "creditRefreshDay": 5, "customCreditAmount": 12.5}
    answer = await admin.put(f"{one}/refresh-settings", json=settings)
    assert answer.status_code == 200
    assert answer.json() | settings == answer.json()
    dry = (await admin.post(f"{one}/refresh-credits", json={"dryRun": True})).json()
    assert dry == {"dryRun": True, "refreshed": 1, "failed": 0, "amount": 12.5}
    done = (await admin.post(f"{one}/refresh-credits", json={})).json()
    assert done == {"dryRun": False, "refreshed": 1, "failed": 0, "amount": 12.5}
    body = {"userIds": ["acme", "nobody"], "dryRun": True}
    bulk = (await admin.post("/api/admin/credits/bulk-refresh", json=body)).json()
    assert (bulk["refreshed"], bulk["failed"]) == (1, 1)
    history = (await admin.get(f"{one}/refresh-history")).json()
    assert [(h["oldBalance"], h["newBalance"]) for h in history["history"]] == [(100.0, 112.5)]
    query = {"params": {"userId": "acme"}}
    own = await admin.get("/api/user/credits/refresh-history", **query)
    assert own.json() == history
    following = (await admin.get("/api/user/credits/next-refresh", **query)).json()
    assert following["creditRefreshHold"] is True
    assert following["lastCreditRefresh"] is not None
    stats = (await admin.get("/api/admin/credits/refresh-stats")).json()
    assert (stats["totalRefreshes"], stats["totalCredits"]) == (1, 12.5)
    assert (await admin.put(f"{one}/refresh-settings", json={})).status_code == 422
    missing = await admin.post("/api/admin/users/none/refresh-credits", json={})
    assert missing.status_code == 404
