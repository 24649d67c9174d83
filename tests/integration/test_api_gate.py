"""The gate over HTTP, on a real server and a real PostgreSQL."""

import asyncio
from collections.abc import AsyncIterator

import asyncpg
import httpx2
import pytest

from adapters.postgres import connect
from adapters.settings import Settings
from tests.apis import client, serve, with_tokens
from tests.gates import CREDIT, account, assert_sound


@pytest.fixture
async def connection(settings: Settings) -> AsyncIterator["asyncpg.Connection[asyncpg.Record]"]:
    made = await connect(settings, application_name="test")
    await account(made, "acme", 100 * CREDIT)
    yield made
    await assert_sound(made)
    await made.close()


@pytest.fixture
async def address(settings: Settings) -> AsyncIterator[str]:
    async with serve(with_tokens(settings)) as found:
        yield found


@pytest.fixture
async def app(address: str, connection: asyncpg.Connection) -> AsyncIterator[httpx2.AsyncClient]:
    async with client(address, "chat", "service") as made:
        yield made


@pytest.mark.parametrize("field", ["credits", "requiredCredits"])
async def test_a_check_says_yes_and_no(app: httpx2.AsyncClient, field: str) -> None:
    yes = await app.post("/api/v1/accounts/acme/check", json={field: 100})
    no = await app.post("/api/v1/accounts/acme/check", json={field: 100.000001})
    assert (yes.status_code, yes.json()["sufficient"]) == (200, True)
    assert (no.status_code, no.json()["sufficient"]) == (200, False)
    assert no.json() == {
        "sufficient": False,
        "message": "Insufficient credits",
        "code": "insufficient_credits",
        "available": "100",
    }


@pytest.mark.parametrize(
    "body",
    [{}, {"credits": 0}, {"credits": -1}, {"credits": "x"}, {"credits": True}, {"credits": None},
     {"credits": 1, "requiredCredits": 1}, {"credits": 1e300}, {"credits": 0.0000001}, [], None],
)  # fmt: skip
async def test_a_check_of_nonsense_is_refused(app: httpx2.AsyncClient, body: object) -> None:
    answer = await app.post("/api/v1/accounts/acme/check", json=body)
    assert answer.status_code == 422
    assert answer.headers["content-type"] == "application/problem+json"
    assert answer.json()["type"] == "urn:tollgate:problem:invalid"


async def test_a_hold_lives_and_is_settled_by_its_usage(app: httpx2.AsyncClient) -> None:
    held = await app.post("/api/v1/accounts/acme/holds", json={"credits": 40, "hold_id": "h1"})
    assert held.status_code == 201
    assert held.json()["available"] == "60"
    grown = await app.post("/api/v1/accounts/acme/holds/h1/extend", json={"credits": "10.5"})
    assert grown.json()["credits"] == "50.5"
    usage = {"provider": "openai", "model": "gpt-4o", "tokens": {"input": 1000}}
    closed = await app.post("/api/v1/accounts/acme/holds/h1/settle", json={"usage": usage})
    assert closed.status_code == 200
    assert closed.json() | {"transaction_id": 0} == {
        "hold_id": "h1",
        "status": "COMPLETED",
        "reserved": "50.5",
        "charged": "0.00375",
        "balance": "99.99625",
        "transaction_id": 0,
    }
    again = await app.post("/api/v1/accounts/acme/holds/h1/release")
    assert (again.status_code, again.json()["code"]) == (409, "hold_not_open")


async def test_more_than_there_is_is_payment_required(app: httpx2.AsyncClient) -> None:
    held = await app.post("/api/v1/accounts/acme/holds", json={"credits": 101})
    assert held.status_code == 402
    assert held.json() == {
        "type": "urn:tollgate:problem:denied",
        "title": "Insufficient credits",
        "status": 402,
        "detail": "100 credits can be promised",
        "code": "insufficient_credits",
    }


async def test_one_key_one_effect(app: httpx2.AsyncClient, connection: asyncpg.Connection) -> None:
    path, key = "/api/v1/accounts/acme/deduct", {"Idempotency-Key": "k1"}
    answers = await asyncio.gather(
        *(app.post(path, json={"credits": 10}, headers=key) for _ in range(50))
    )
    assert {answer.status_code for answer in answers} == {200}
    assert {answer.text for answer in answers} == {answers[0].text}
    assert await connection.fetchval("SELECT balance_micro FROM account") == 90 * CREDIT
    other = await app.post(path, json={"credits": 11}, headers=key)
    assert other.status_code == 409


async def test_a_user_reaches_one_account_and_sees_no_other(address: str, app: object) -> None:
    async with client(address, "acme") as own, client(address, "eve") as other:
        assert (
            await own.post("/api/v1/accounts/acme/check", json={"credits": 1})
        ).status_code == 200
        foreign = await other.post("/api/v1/accounts/acme/check", json={"credits": 1})
        missing = await other.post("/api/v1/accounts/nobody/check", json={"credits": 1})
    assert foreign.status_code == missing.status_code == 404
    assert foreign.text == missing.text


async def test_nobody_enters_without_a_token(address: str) -> None:
    async with client(address) as nobody:
        answer = await nobody.post("/api/v1/accounts/acme/check", json={"credits": 1})
    assert answer.status_code == 401
    assert answer.headers["www-authenticate"] == "Bearer"


async def test_a_user_does_not_end_the_hold_of_an_app(
    app: httpx2.AsyncClient, address: str, connection: asyncpg.Connection
) -> None:
    """Settled for nothing, the app's own settlement would find it closed: work that nobody paid."""
    holds = "/api/v1/accounts/acme/holds"
    await app.post(holds, json={"credits": 50, "hold_id": "h1"})
    acts = {"h1/settle": {"credits": 0}, "h1/release": {}, "h1/extend": {"credits": 1}}
    session = {"h1/finalise": {"credits": 0}, "h1/abort": {}}
    async with client(address, "acme") as user:
        tried = [await user.post(f"{holds}/{act}", json=body) for act, body in acts.items()]
        sessions = "/api/v1/accounts/acme/sessions"
        tried += [await user.post(f"{sessions}/{act}", json=body) for act, body in session.items()]
        assert {(answer.status_code, answer.json()["code"]) for answer in tried} == {
            (403, "hold_of_another")
        }
        mine = (await user.post(holds, json={"credits": 1})).json()["hold_id"]
        assert (await user.post(f"{holds}/{mine}/release")).status_code == 200
    done = await app.post(f"{holds}/h1/settle", json={"credits": 40})
    assert (done.status_code, done.json()["balance"]) == (200, "60")


async def test_one_person_with_two_accounts_has_two_keys_of_one_name(
    address: str, connection: asyncpg.Connection
) -> None:
    await account(connection, "second", 100 * CREDIT)
    for name in ("acme", "second", "second"):
        async with client(address, "ann", account=name) as user:
            answer = await user.post(
                "/api/v1/credits/deduct", json={"amount": 5}, headers={"Idempotency-Key": "k1"}
            )
        assert answer.json()["new_balance"] == 95
    balances = await connection.fetch("SELECT balance_micro FROM account")
    assert [row["balance_micro"] for row in balances] == [95 * CREDIT, 95 * CREDIT]
