"""The paths of the source documents, with the bodies and answers that they print."""

import re
from collections.abc import AsyncIterator
from pathlib import Path

import asyncpg
import httpx2
import pytest

from adapters.postgres import connect
from adapters.settings import Settings
from tests.apis import client, everything_on, serve, with_tokens
from tests.gates import CREDIT, account, assert_sound
from tests.security.routes import operations

PAGE = (Path(__file__).parents[2] / "docs/api.md").read_text(encoding="utf-8")


@pytest.fixture
async def connection(settings: Settings) -> AsyncIterator["asyncpg.Connection[asyncpg.Record]"]:
    made = await connect(settings, application_name="test")
    await account(made, "acme", 100 * CREDIT)
    yield made
    await assert_sound(made)
    await made.close()


@pytest.fixture
async def address(settings: Settings, connection: object) -> AsyncIterator[str]:
    async with serve(with_tokens(settings)) as found:
        yield found


@pytest.fixture
async def user(address: str) -> AsyncIterator[httpx2.AsyncClient]:
    async with client(address, "acme") as made:
        yield made


@pytest.fixture
async def admin(address: str) -> AsyncIterator[httpx2.AsyncClient]:
    async with client(address, "root", "admin") as made:
        yield made


async def test_000_profile_history_and_adjustment(
    user: httpx2.AsyncClient, admin: httpx2.AsyncClient
) -> None:
    profile = (await user.get("/api/users/me")).json()
    assert (profile["username"], profile["credits"], profile["tier"]) == ("acme", 100.0, "free")
    body = {"user_id": "acme", "amount": -0.25, "reason": "ticket 42"}
    adjusted = await admin.post("/api/admin/credits/adjust", json=body)
    assert (adjusted.status_code, adjusted.json()["new_balance"]) == (200, 99.75)
    page = (await user.get("/api/credits/transactions?limit=1")).json()
    assert [(t["type"], t["amount"], t["balance_after"]) for t in page["transactions"]] == [
        ("ADJUSTMENT", -0.25, 99.75)
    ]
    rest = await user.get("/api/credits/transactions", params={"cursor": page["next_cursor"]})
    assert [t["amount"] for t in rest.json()["transactions"]] == [100.0]
    assert rest.json()["next_cursor"] is None
    assert (await user.post("/api/admin/credits/adjust", json=body)).status_code == 403
    other = {**body, "user_id": "none"}
    assert (await admin.post("/api/admin/credits/adjust", json=other)).status_code == 404


async def test_001_balance_allocation_deduction_and_history(
    user: httpx2.AsyncClient, admin: httpx2.AsyncClient
) -> None:
    balance = await user.get("/api/v1/credits/balance")
    assert balance.json() == {"balance": 100.0, "tier": "free", "monthly_cap": None}
    body = {"user_id": "acme", "amount": 50.0, "reason": "test"}
    given = await admin.post("/api/v1/admin/credits/allocate", json=body)
    assert given.status_code == 200
    assert given.json()["new_balance"] == 150.0
    assert given.json()["transaction_id"].isdecimal()
    metadata = {"provider": "openai", "model": "gpt-4o", "tokens_used": 1000}
    paid = await user.post("/api/v1/credits/deduct", json={"amount": 10.0, "metadata": metadata})
    assert (paid.status_code, paid.json()["new_balance"]) == (200, 140.0)
    page = (await user.get("/api/v1/credits/transactions?limit=5")).json()
    assert [t["type"] for t in page["transactions"]] == ["DEDUCT", "GRANT", "GRANT"]
    assert (await user.get("/api/v1/credits/balance")).json()["balance"] == 140.0
    dear = await user.post("/api/v1/credits/deduct", json={"amount": 141})
    assert (dear.status_code, dear.json()["code"]) == (402, "insufficient_credits")
    assert (await user.post("/api/v1/admin/credits/allocate", json=body)).status_code == 403


async def test_001_a_cost_by_the_number_of_tokens(
    user: httpx2.AsyncClient, admin: httpx2.AsyncClient
) -> None:
    path = "/api/v1/credits/calculate-cost"
    body = {"tokens_used": 1000, "model": "gpt-4o", "power_level": "balanced"}
    assert (await user.post(path, json=body)).json() == {"cost": 0.00375}
    assert (await admin.post(path, json=body)).json() == {"cost": 0.00375}
    await admin.patch("/api/v1/admin/accounts/acme", json={"tier": "pro"})
    cheaper = (await admin.post(path, json=body | {"user_id": "acme"})).json()["cost"]
    assert cheaper < 0.00375
    dearer = (await user.post(path, json=body | {"output_tokens": 500})).json()["cost"]
    assert dearer > cheaper
    for wrong in ({"output_tokens": 1001}, {"model": "\ue000"}, {"model": "gpt-none"}):
        assert (await user.post(path, json=body | wrong)).status_code == 422, wrong


async def test_003_allocate_check_and_balance(
    user: httpx2.AsyncClient, admin: httpx2.AsyncClient, address: str
) -> None:
    body = {"userId": "newcomer", "credits": 250.5, "expiryDays": 30, "notes": "trial"}
    given = await admin.post("/api/credits/allocate", json=body)
    assert given.status_code == 201
    allocation = given.json()
    assert (allocation["totalCredits"], allocation["remainingCredits"]) == (250.5, 250.5)
    assert (allocation["allocatedBy"], allocation["notes"]) == ("root", "trial")
    async with client(address, "newcomer") as newcomer:
        found = (await newcomer.get("/api/credits/balance")).json()
        welcome, trial = sorted(found["activeAllocations"], key=lambda one: one["id"])
        assert found["totalCredits"] == 1250.5
        assert welcome["totalCredits"] == 1000.0
        assert trial == allocation | {"allocatedAt": trial["allocatedAt"]}
        yes = await newcomer.post("/api/credits/check", json={"requiredCredits": 1250.5})
        no = await newcomer.post("/api/credits/check", json={"credits": 1250.6})
    assert yes.json() == {"sufficient": True, "message": "Sufficient credits"}
    assert (no.status_code, no.json()["sufficient"]) == (200, False)
    assert (await user.post("/api/credits/allocate", json=body)).status_code == 403
    as_admin = await admin.post("/api/credits/check", json={"credits": 1, "userId": "newcomer"})
    assert as_admin.json()["sufficient"] is True


@pytest.mark.parametrize(
    "body",
    [{}, {"credits": 0}, {"credits": -5}, {"requiredCredits": 0}, {"credits": "many"}, [],
     {"credits": None}],
)  # fmt: skip
async def test_003_a_check_that_is_not_positive_is_a_bad_request(
    user: httpx2.AsyncClient, body: object
) -> None:
    answer = await user.post("/api/credits/check", json=body)
    assert answer.status_code == 400
    assert answer.headers["content-type"] == "application/problem+json"


PATHS = [
    ("GET", "/api/users/me", "user_id"),
    ("GET", "/api/v1/credits/balance", "user_id"),
    ("GET", "/api/v1/credits/transactions", "user_id"),
    ("GET", "/api/credits/balance", "userId"),
]


@pytest.mark.parametrize(("method", "path", "name"), PATHS)
async def test_another_account_is_not_found_and_none_is_asked_for(
    user: httpx2.AsyncClient, admin: httpx2.AsyncClient, method: str, path: str, name: str
) -> None:
    foreign = await user.request(method, path, params={name: "other"})
    missing = await admin.request(method, path, params={name: "other"})
    assert foreign.status_code == missing.status_code == 404
    assert foreign.json() == missing.json()
    assert (await admin.request(method, path)).status_code == 422
    assert (await admin.request(method, path, params={name: "acme"})).status_code == 200


async def test_a_user_deducts_and_checks_on_the_own_account_only(user: httpx2.AsyncClient) -> None:
    deducted = await user.post("/api/v1/credits/deduct", json={"amount": 1, "user_id": "other"})
    checked = await user.post("/api/credits/check", json={"credits": 1, "userId": "other"})
    assert (deducted.status_code, checked.status_code) == (404, 404)


async def test_a_body_that_can_not_be_written_back_is_refused(user: httpx2.AsyncClient) -> None:
    answer = await user.post(
        "/api/v1/accounts/acme/check",
        content=b'{"\\ud800": 1}',
        headers={"Content-Type": "application/json"},
    )
    assert answer.status_code == 422


async def test_figures_beyond_the_ledger_are_refused(
    admin: httpx2.AsyncClient, connection: asyncpg.Connection
) -> None:
    """Held back by PostgreSQL: a balance is a 64-bit integer."""
    path = "/api/v1/admin/accounts/acme/grants"
    full = 2**63 - 1 - 100 * CREDIT
    await connection.execute(
        "INSERT INTO credit_grant (account_id, source, granted_by, notes, priority, amount_micro,"
        " remaining_micro, spent) VALUES ('acme', 'grant', 't', '', 1, $1, $1, false)",
        full,
    )
    await connection.execute(
        "INSERT INTO credit_transaction (account_id, type, amount_micro, balance_after_micro,"
        " actor, reason) VALUES ('acme', 'GRANT', $1, $2, 't', '')",
        full,
        2**63 - 1,
    )
    await connection.execute("UPDATE account SET balance_micro = $1", 2**63 - 1)
    answer = await admin.post(path, json={"credits": 1})
    assert (answer.status_code, answer.json()["type"][-7:]) == (409, "refused")


async def test_every_path_of_the_sources_answers(settings: Settings, connection: object) -> None:
    """Walks the table of docs/api.md, with the sample that the OpenAPI document has of each."""
    table = PAGE.partition("<!-- compatible paths -->")[2].partition("<!-- end of")[0]
    theirs = re.findall(r"^\| `([A-Z]+ [^`]+)` \|", table, re.MULTILINE)
    known = {each.name: each for each in operations()}
    statuses = {}
    async with (
        serve(everything_on(settings)) as address,
        client(address, "root", "admin") as admin,
    ):
        for name in theirs:
            each = known[name]
            fields = (each.body or {}).get("properties", {})
            changes = {key: "acme" for key in ("user_id", "userId") if key in fields}
            values = {"account_id": "acme", "userId": "acme", "user_id": "acme"}
            request = each.request(
                **changes,
                **({"userIds": ["acme"]} if "userIds" in fields else {}),
                **({"creditRefreshHold": True} if "creditRefreshHold" in fields else {}),
            )
            answer = await admin.request(each.method, each.address(**values), **request)
            statuses[name] = answer.status_code
    assert len(statuses) > 20
    assert {name: status for name, status in statuses.items() if status not in {200, 201}} == {}
