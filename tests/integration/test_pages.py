"""Lists a page at a time: every row once, whatever is written meanwhile."""

from collections.abc import AsyncIterator
from datetime import UTC, datetime, timedelta
from typing import Any

import asyncpg
import httpx2
import pytest

from adapters.accounts import GrantRequest, give
from adapters.postgres import connect
from adapters.settings import Settings
from tests.apis import client, serve, with_tokens
from tests.commands import report, run_tollgate
from tests.gates import CREDIT, account, assert_sound

ACME = "/api/v1/accounts/acme"
HOLD = """INSERT INTO credit_hold (hold_id, account_id, amount_micro, created_at, touched_at, state,
    closed_at) SELECT $1, $2, 1000000, $3, $3, $4, CASE WHEN $4 <> 'open' THEN now() END"""
COUPON = """INSERT INTO coupon (code, kind, amount_micro, created_by, created_at, disabled_at)
    VALUES ($1, 'fixed', 1, 'tests', $2, $3)"""


@pytest.fixture
async def connection(settings: Settings) -> AsyncIterator["asyncpg.Connection[asyncpg.Record]"]:
    made = await connect(settings, application_name="test")
    await account(made, "acme", 100 * CREDIT)
    yield made
    await assert_sound(made)
    await made.close()


@pytest.fixture
async def admin(settings: Settings, connection: object) -> AsyncIterator[httpx2.AsyncClient]:
    async with (
        serve(with_tokens(settings)) as address,
        client(address, "root", "admin") as made,
    ):
        yield made


async def plant_holds(connection: asyncpg.Connection) -> None:
    """Seven of acme, three of them at one moment, every third one closed; and two of another."""
    await account(connection, "other", 100 * CREDIT)
    now = datetime.now(UTC)
    for number in range(9):
        of = "other" if number > 6 else "acme"
        at = now - timedelta(minutes=min(number, 4))
        state = "released" if number % 3 == 2 else "open"
        await connection.execute(HOLD, f"job-{number}", of, at, state)
    await connection.execute(
        """UPDATE account SET held_micro = (
           SELECT coalesce(sum(amount_micro), 0) FROM credit_hold AS h
           WHERE h.account_id = account.account_id AND state = 'open')"""
    )


async def walk(admin: httpx2.AsyncClient, path: str, name: str, **query: Any) -> list[list[Any]]:
    """All pages of two, and every row's id."""
    pages, cursor = [], None
    ids = {"holds": "hold_id", "grants": "grant_id", "coupons": "code"}
    while True:
        params = {**query, "limit": 2} | ({} if cursor is None else {"cursor": cursor})
        answer = await admin.get(path, params=params)
        assert answer.status_code == 200, answer.text
        pages.append([row[ids[name]] for row in answer.json()[name]])
        cursor = answer.json()["next"]
        if cursor is None:
            return pages


async def test_holds_newest_first_each_once(
    admin: httpx2.AsyncClient, connection: asyncpg.Connection
) -> None:
    await plant_holds(connection)
    assert await walk(admin, f"{ACME}/holds", "holds") == [
        ["job-0", "job-1"],
        ["job-2", "job-3"],
        ["job-6", "job-5"],
        ["job-4"],
    ]
    assert await walk(admin, f"{ACME}/holds", "holds", open=True) == [
        ["job-0", "job-1"],
        ["job-3", "job-6"],
        ["job-4"],
    ]


async def test_a_new_hold_shifts_nothing(
    admin: httpx2.AsyncClient, connection: asyncpg.Connection
) -> None:
    await plant_holds(connection)
    first = (await admin.get(f"{ACME}/holds?limit=2")).json()
    assert (await admin.post(f"{ACME}/holds", json={"credits": 1})).status_code == 201
    rest = await admin.get(f"{ACME}/holds", params={"cursor": first["next"], "limit": 2})
    assert [hold["hold_id"] for hold in rest.json()["holds"]] == ["job-2", "job-3"]


async def test_grants_in_the_order_in_which_they_burn_each_once(
    admin: httpx2.AsyncClient, connection: asyncpg.Connection
) -> None:
    soon = datetime.now(UTC) + timedelta(days=1)
    for priority, expires_at in ((100, soon), (10, None), (10, soon), (100, None)):
        await give(
            connection,
            GrantRequest("acme", CREDIT, "test", priority=priority, expires_at=expires_at),
        )
    assert await walk(admin, f"{ACME}/grants", "grants") == [[4, 3], [2, 1], [5]]


async def test_a_page_of_grants_goes_on_behind_one_that_was_spent(
    admin: httpx2.AsyncClient, connection: asyncpg.Connection
) -> None:
    for _ in range(3):
        await give(connection, GrantRequest("acme", CREDIT, "test"))
    first = (await admin.get(f"{ACME}/grants?limit=1")).json()
    assert [grant["grant_id"] for grant in first["grants"]] == [1]
    paid = await admin.post(f"{ACME}/deduct", json={"credits": 100})
    assert paid.status_code == 200
    rest = await admin.get(f"{ACME}/grants", params={"cursor": first["next"]})
    assert [grant["grant_id"] for grant in rest.json()["grants"]] == [2, 3, 4]


async def test_coupons_newest_first_each_once(
    admin: httpx2.AsyncClient, connection: asyncpg.Connection
) -> None:
    now = datetime.now(UTC)
    for number in range(5):
        at = now - timedelta(minutes=min(number, 3))
        gone = at if number == 1 else None
        await connection.execute(COUPON, f"CODE-{number}", at, gone)
    path = "/api/v1/admin/coupons"
    everything = [["CODE-0", "CODE-1"], ["CODE-2", "CODE-4"], ["CODE-3"]]
    assert await walk(admin, path, "coupons") == everything
    usable = [["CODE-0", "CODE-2"], ["CODE-4", "CODE-3"]]
    assert await walk(admin, path, "coupons", usable=True) == usable


@pytest.mark.parametrize("path", [f"{ACME}/holds", f"{ACME}/grants", "/api/v1/admin/coupons"])
async def test_a_cursor_of_no_page_is_refused(admin: httpx2.AsyncClient, path: str) -> None:
    for cursor in ("nonsense!", "MjAyNg", ""):
        answer = await admin.get(path, params={"cursor": cursor})
        assert answer.status_code == 422, (cursor, answer.text)


async def test_commands_page_too(
    environment: dict[str, str], connection: asyncpg.Connection
) -> None:
    await plant_holds(connection)
    seen, after = [], []
    while True:
        page = await report(environment, "hold", "list", "--limit", "4", *after)
        seen += [hold["hold_id"] for hold in page["holds"]]
        if page["next"] is None:
            break
        after = ["--after", page["next"]]
    assert seen == ["job-4", "job-6", "job-7", "job-3", "job-1", "job-0"]
    shown = await run_tollgate(environment, "hold", "list", "--account", "acme", "--limit", "1")
    assert "more holds: --after " in shown.stdout
    for code in ("ONE", "TWO"):
        await run_tollgate(environment, "coupon", "create", code, "--credits", "1")
    first = await report(environment, "coupon", "list", "--limit", "1")
    rest = await report(environment, "coupon", "list", "--before", first["next"])
    assert [c["code"] for page in (first, rest) for c in page["coupons"]] == ["TWO", "ONE"]
