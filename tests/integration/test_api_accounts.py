"""What accounts see and buy, and what admins do, over HTTP: each route, and what it refuses."""

import asyncio
from collections.abc import AsyncIterator
from typing import Any

import asyncpg
import httpx2
import pytest

from adapters.postgres import connect
from adapters.settings import Settings
from tests.apis import client, figures, serve, with_tokens
from tests.gates import CREDIT, account, assert_sound
from tests.planted_ledger import Batch, plant, run_sql

ACME = "/api/v1/accounts/acme"
ADMIN = "/api/v1/admin"


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
async def user(address: str, connection: asyncpg.Connection) -> AsyncIterator[httpx2.AsyncClient]:
    async with client(address, "acme") as made:
        yield made


@pytest.fixture
async def app(address: str, connection: asyncpg.Connection) -> AsyncIterator[httpx2.AsyncClient]:
    async with client(address, "shop", "service") as made:
        yield made


@pytest.fixture
async def admin(address: str, connection: asyncpg.Connection) -> AsyncIterator[httpx2.AsyncClient]:
    async with client(address, "root", "admin") as made:
        yield made


async def test_me_is_the_caller_with_the_account_of_a_user(
    user: httpx2.AsyncClient, app: httpx2.AsyncClient
) -> None:
    own = (await user.get("/api/v1/me")).json()
    assert own["account"] | {"created_at": "", "as_of": ""} == {
        "account_id": "acme",
        "tier": "free",
        "demo": False,
        "balance": "100",
        "held": "0",
        "available": "100",
        "overdraft": "0",
        "monthly_cap": None,
        "spent_this_month": "0",
        "open_holds": 0,
        "created_at": "",
        "as_of": "",
    }
    assert own["account"] == (await user.get(ACME)).json()
    other = (await app.get("/api/v1/me")).json()
    assert other == {"subject": "shop", "role": "service", "account": None}


async def test_me_without_an_account_is_not_found(address: str, user: object) -> None:
    async with client(address, "eve") as eve:
        assert (await eve.get("/api/v1/me")).status_code == 404


async def test_a_shown_balance_is_kept_for_a_minute_and_forgotten_by_a_change(
    user: httpx2.AsyncClient, connection: asyncpg.Connection, address: str
) -> None:
    first = (await user.get(f"{ACME}/balance")).json()
    assert (await user.get(f"{ACME}/balance")).json() == first
    await user.post(f"{ACME}/deduct", json={"credits": 25})
    after = (await user.get(f"{ACME}/balance")).json()
    assert (first["balance"], after["balance"]) == ("100", "75")
    assert after["as_of"] > first["as_of"]
    shown = figures(address)
    assert 'tollgate_balance_reads_total{outcome="hit",stage="api"} 1.0' in shown
    assert 'tollgate_balance_reads_total{outcome="miss",stage="api"} 2.0' in shown
    route = "/api/v1/accounts/{account_id}/balance"
    labels = f'method="GET",route="{route}",stage="api",status="200"'
    assert f"tollgate_api_requests_total{{{labels}}} 3.0" in shown
    assert "acme" not in shown


async def test_no_kept_balance_decides(
    user: httpx2.AsyncClient, connection: asyncpg.Connection
) -> None:
    assert (await user.get(f"{ACME}/balance")).json()["available"] == "100"
    await connection.execute("UPDATE account SET monthly_cap_micro = 0")
    answer = await user.post(f"{ACME}/check", json={"credits": 50})
    assert answer.json()["code"] == "monthly_cap"


async def test_grants_are_listed_in_the_order_in_which_they_burn(
    user: httpx2.AsyncClient, admin: httpx2.AsyncClient
) -> None:
    body = {"credits": "7.5", "priority": 1, "expires_at": "2100-01-01T00:00:00Z", "reason": "x"}
    given = await admin.post(f"{ADMIN}/accounts/acme/grants", json=body)
    assert given.status_code == 201
    assert given.json()["balance"] == "107.5"
    grants = (await user.get(f"{ACME}/grants")).json()["grants"]
    assert [(grant["remaining"], grant["granted_by"]) for grant in grants] == [
        ("7.5", "root"),
        ("100", "test"),
    ]
    assert len((await user.get(f"{ACME}/grants?limit=1")).json()["grants"]) == 1


async def test_history_is_paged_and_filtered(user: httpx2.AsyncClient) -> None:
    for n in range(5):
        await user.post(f"{ACME}/deduct", json={"credits": 1, "reason": f"n{n}"})
    held = (await user.post(f"{ACME}/holds", json={"credits": 5})).json()["hold_id"]
    path = f"{ACME}/transactions"
    found: list[dict[str, Any]] = []
    cursor: str | None = ""
    while cursor is not None:
        query = {"limit": 2} | ({"cursor": cursor} if cursor else {})
        page = (await user.get(path, params=query)).json()
        found += page["entries"]
        cursor = page["next"]
    assert [entry["type"] for entry in found] == ["HOLD", *["DEDUCT"] * 5, "GRANT"]
    assert [entry["balance_after"] for entry in found[1:]] == ["95", "96", "97", "98", "99", "100"]
    pending = (await user.get(f"{path}?status=PENDING")).json()["entries"]
    assert [(entry["hold_id"], entry["amount"]) for entry in pending] == [(held, "-5")]
    both = (await user.get(f"{path}?type=GRANT&type=HOLD")).json()["entries"]
    assert [entry["type"] for entry in both] == ["HOLD", "GRANT"]
    moment = found[3]["at"]
    since = (await user.get(path, params={"since": moment})).json()["entries"]
    until = (await user.get(path, params={"until": moment})).json()["entries"]
    assert since + until == found


@pytest.mark.parametrize(
    "query",
    ["cursor=x", "cursor=MDAwMS0wMS0wMVQwMDowMDowMCsxNDowMHx0OjE", "type=NOTHING", "status=done",
     "since=yesterday", "since=2026-01-01T00:00:00", "until=0001-01-01T00:00:00%2B14:00",
     "limit=0", "limit=501", "limit=x"],
)  # fmt: skip
async def test_a_history_of_nonsense_is_refused(user: httpx2.AsyncClient, query: str) -> None:
    answer = await user.get(f"{ACME}/transactions?{query}")
    assert answer.status_code == 422
    assert answer.headers["content-type"] == "application/problem+json"


async def test_holds_are_listed_and_shown(user: httpx2.AsyncClient) -> None:
    first, second = [
        (await user.post(f"{ACME}/holds", json={"credits": amount})).json()["hold_id"]
        for amount in (5, 6)
    ]
    await user.post(f"{ACME}/holds/{first}/settle", json={"credits": 2})
    every = (await user.get(f"{ACME}/holds")).json()["holds"]
    assert [(h["hold_id"], h["status"], h["charged"]) for h in every] == [
        (second, "PENDING", None),
        (first, "COMPLETED", "2"),
    ]
    still = (await user.get(f"{ACME}/holds?open=true")).json()["holds"]
    assert [hold["hold_id"] for hold in still] == [second]
    assert (await user.get(f"{ACME}/holds/{first}")).json() == every[1]
    assert (await user.get(f"{ACME}/holds/h3")).status_code == 404


async def test_a_session_is_opened_extended_and_finalised(user: httpx2.AsyncClient) -> None:
    path = f"{ACME}/sessions"
    opened = await user.post(path, json={"credits": 10})
    assert (opened.status_code, opened.json()["kind"]) == (201, "session")
    usage = {"provider": "openai", "model": "gpt-4o", "tokens": {"input": 1000}}
    mine = f"{path}/{opened.json()['hold_id']}"
    grown = await user.post(f"{mine}/extend", json={"credits": 5, "usage": usage})
    assert grown.json()["credits"] == "15"
    closed = await user.post(f"{mine}/finalise", json={"usage": usage})
    assert (closed.json()["status"], closed.json()["charged"]) == ("COMPLETED", "0.00375")
    assert (await user.post(f"{mine}/abort")).status_code == 409


async def test_an_aborted_session_costs_nothing(user: httpx2.AsyncClient) -> None:
    opened = (await user.post(f"{ACME}/sessions", json={"credits": 10})).json()
    aborted = (await user.post(f"{ACME}/sessions/{opened['hold_id']}/abort")).json()
    assert (aborted["status"], aborted["charged"], aborted["balance"]) == ("FAILED", "0", "100")
    assert (await user.post(f"{ACME}/sessions/s2/extend", json={"credits": 1})).status_code == 404


async def test_a_cost_is_the_price_of_the_event(user: httpx2.AsyncClient) -> None:
    usage = {"provider": "openai", "model": "gpt-4o", "tokens": {"input": 1000}}
    found = (await user.post(f"{ACME}/calculate-cost", json={"usage": usage})).json()
    assert found["credits"] == "0.00375"
    assert found["explanation"]["rated_micro"] == 3750
    unknown = {"usage": {"provider": "openai", "model": "gpt-none", "tokens": {"input": 1}}}
    refused = await user.post(f"{ACME}/calculate-cost", json=unknown)
    assert (refused.status_code, refused.json()["code"]) == (422, "unpriced")
    early = await user.post(
        f"{ACME}/calculate-cost", json={"usage": usage, "at": "2001-01-01T00:00:00Z"}
    )
    assert (early.status_code, early.json()["code"]) == (422, "unpriced")


async def test_a_coupon_is_made_redeemed_once_and_withdrawn(
    user: httpx2.AsyncClient, admin: httpx2.AsyncClient
) -> None:
    made = await admin.post(f"{ADMIN}/coupons", json={"code": "SPRING", "credits": 20})
    assert (made.status_code, made.json()) == (201, {"code": "SPRING", "usable": True})
    again = await admin.post(f"{ADMIN}/coupons", json={"code": "SPRING", "credits": 20})
    assert again.status_code == 409
    first = await user.post(f"{ACME}/coupons/redeem", json={"code": "SPRING"})
    assert (first.status_code, first.json()["balance"]) == (200, "120")
    second = await user.post(f"{ACME}/coupons/redeem", json={"code": "SPRING"})
    assert (second.status_code, second.json()["code"]) == (409, "coupon_used_by_account")
    nothing = await user.post(f"{ACME}/coupons/redeem", json={"code": "NOTHING"})
    assert (nothing.status_code, nothing.json()["code"]) == (404, "unknown_coupon")
    gone = await admin.post(f"{ADMIN}/coupons/SPRING/disable")
    assert gone.json() == {"code": "SPRING", "usable": False}
    listed = (await admin.get(f"{ADMIN}/coupons")).json()["coupons"]
    assert [(c["code"], c["kind"], c["credits"], c["uses"]) for c in listed] == [
        ("SPRING", "fixed", "20", 1)
    ]
    assert (await admin.get(f"{ADMIN}/coupons?usable=true")).json() == {
        "coupons": [],
        "next": None,
    }
    assert (await admin.post(f"{ADMIN}/coupons/NOTHING/disable")).status_code == 404


async def test_a_top_up_with_a_percentage(
    app: httpx2.AsyncClient, admin: httpx2.AsyncClient, user: httpx2.AsyncClient
) -> None:
    await admin.post(f"{ADMIN}/coupons", json={"code": "TEN", "percent": 10})
    bought = await app.post(f"{ACME}/top-ups", json={"credits": 50, "coupon": "TEN"})
    assert bought.status_code == 201
    assert (bought.json()["added"]["credits"], bought.json()["balance"]) == ("5", "155")
    again = await app.post(f"{ACME}/top-ups", json={"credits": 50, "coupon": "TEN"})
    assert again.status_code == 409
    assert (await user.get(f"{ACME}/balance")).json()["balance"] == "155"
    assert (await user.post(f"{ACME}/top-ups", json={"credits": 50})).status_code == 403
    unknown = "/api/v1/accounts/nobody"
    assert (await app.post(f"{unknown}/top-ups", json={"credits": 5})).status_code == 404


async def test_an_account_is_created_and_changed(
    admin: httpx2.AsyncClient, connection: asyncpg.Connection
) -> None:
    body = {"account_id": "new", "tier": "pro", "monthly_cap": 50, "reason": "contract 7"}
    made = await admin.post(f"{ADMIN}/accounts", json=body)
    assert made.status_code == 201
    assert made.json() == {
        "account_id": "new", "tier": "pro", "demo": False, "monthly_cap": "50", "balance": "1000",
    }  # fmt: skip
    assert (await admin.post(f"{ADMIN}/accounts", json=body)).status_code == 409
    over = await admin.post("/api/v1/accounts/new/holds", json={"credits": 51})
    assert (over.status_code, over.json()["code"]) == (402, "monthly_cap")
    freed = await admin.patch(f"{ADMIN}/accounts/new", json={"monthly_cap": None, "demo": True})
    assert (freed.json()["monthly_cap"], freed.json()["demo"]) == (None, True)
    kept = await admin.patch(f"{ADMIN}/accounts/new", json={"tier": "free"})
    assert (kept.json()["tier"], kept.json()["demo"]) == ("free", True)
    assert (await admin.patch(f"{ADMIN}/accounts/new", json={})).status_code == 422
    assert (await admin.patch(f"{ADMIN}/accounts/new", json={"tier": "gold"})).status_code == 409
    assert (await admin.patch(f"{ADMIN}/accounts/none", json={"demo": True})).status_code == 404
    acts = (await admin.get(f"{ADMIN}/audit-log?subject=new")).json()["acts"]
    assert [act["action"] for act in acts] == ["set_account", "set_account", "create_account"]
    assert acts[1]["before"] == {"tier": "pro", "demo": False, "monthly_cap_micro": 50 * CREDIT}
    assert acts[1]["after"] == {"tier": "pro", "demo": True, "monthly_cap_micro": None}
    assert (acts[2]["actor"], acts[2]["reason"]) == ("root", "contract 7")


async def test_an_adjustment_up_and_down_is_in_the_audit_log(admin: httpx2.AsyncClient) -> None:
    path = f"{ADMIN}/accounts/acme/adjustments"
    up = await admin.post(path, json={"credits": "0.5", "reason": "goodwill"})
    assert (up.status_code, up.json()["balance"]) == (201, "100.5")
    down = await admin.post(
        path, json={"credits": -110, "reason": "fraud"}, headers={"Idempotency-Key": "k9"}
    )
    assert (down.json()["balance_before"], down.json()["balance"]) == ("100.5", "-9.5")
    page = (await admin.get(f"{ADMIN}/audit-log?limit=1")).json()
    assert (page["acts"][0]["reason"], page["acts"][0]["request_id"]) == ("fraud", "k9")
    rest = (await admin.get(f"{ADMIN}/audit-log?below={page['next']}&action=adjust")).json()
    assert [act["reason"] for act in rest["acts"]] == ["goodwill"]
    assert rest["next"] is None
    assert (await admin.post(path, json={"credits": 0, "reason": "x"})).status_code == 422
    assert (await admin.post(path, json={"credits": 1, "reason": " "})).status_code == 422
    other = f"{ADMIN}/accounts/none"
    body = {"credits": 1, "reason": "x"}
    assert (await admin.post(f"{other}/adjustments", json=body)).status_code == 404
    assert (await admin.post(f"{other}/grants", json={"credits": 1})).status_code == 404


async def test_statistics_add_up(admin: httpx2.AsyncClient) -> None:
    await admin.post(f"{ACME}/deduct", json={"credits": 3})
    await admin.post(f"{ACME}/sessions", json={"credits": 5})
    found = (await admin.get(f"{ADMIN}/statistics")).json()
    assert found["tiers"] == [
        {"tier": "free", "accounts": 1, "demo_accounts": 0, "overdrawn_accounts": 0,
         "balance": "97", "held": "5", "overdraft": "0", "spent_this_month": "3"},
    ]  # fmt: skip
    assert (found["open_holds"], found["open_sessions"]) == (1, 1)
    assert found["oldest_open_hold_touched_at"] is not None


async def test_entries_are_counted_by_status_over_all_accounts(
    admin: httpx2.AsyncClient, settings: Settings
) -> None:
    """As the histories have them, of the last 30 days; what is older only while it is open."""
    before = (await admin.get(f"{ADMIN}/statistics")).json()["entries"]
    await plant(settings, Batch(charges=60))
    await run_sql(
        settings,
        "INSERT INTO credit_hold (hold_id, account_id, amount_micro, state, created_at, closed_at)"
        " SELECT state || days, 'acme', 1, state, now() - make_interval(days => days),"
        " CASE WHEN state <> 'open' THEN now() - make_interval(days => days) END"
        " FROM unnest('{open,settled,released,expired}'::text[]) AS s (state),"
        " unnest('{1,29,31}'::int[]) AS d (days)",
        "INSERT INTO credit_transaction (account_id, type, status, amount_micro,"
        " balance_after_micro, actor, created_at)"
        " SELECT 'acme', 'GRANT', status, 0, 0, 'tests', now() - make_interval(days => days)"
        " FROM unnest('{COMPLETED,FAILED}'::text[]) AS s (status),"
        " unnest('{1,31}'::int[]) AS d (days)",
        "UPDATE account SET held_micro = 3 WHERE account_id = 'acme'",
    )
    found = (await admin.get(f"{ADMIN}/statistics")).json()["entries"]
    more = {name: found[name] - before[name] for name in ("completed", "pending", "failed")}
    assert more == {"completed": 60 + 5 + 1, "pending": 3, "failed": 2 * 2 + 1}


MUTATIONS: list[tuple[str, str, str, Any]] = [
    ("admin", "POST", f"{ADMIN}/accounts/acme/grants", {"credits": 5}),
    ("admin", "POST", f"{ADMIN}/accounts/acme/adjustments", {"credits": 5, "reason": "x"}),
    ("admin", "POST", f"{ADMIN}/accounts", {"account_id": "b"}),
    ("admin", "PATCH", f"{ADMIN}/accounts/acme", {"demo": True}),
    ("admin", "POST", f"{ADMIN}/coupons", {"code": "NEW", "credits": 5}),
    ("admin", "POST", f"{ADMIN}/coupons/OLD/disable", None),
    ("shop", "POST", f"{ACME}/top-ups", {"credits": 5}),
    ("acme", "POST", f"{ACME}/coupons/redeem", {"code": "OLD"}),
    ("acme", "POST", f"{ACME}/sessions", {"credits": 5}),
    ("acme", "POST", "/api/v1/credits/deduct", {"amount": 5}),
    ("admin", "POST", "/api/v1/admin/credits/allocate", {"user_id": "c", "amount": 5}),
    ("admin", "POST", "/api/admin/credits/adjust", {"user_id": "acme", "amount": 5, "reason": "x"}),
    ("admin", "POST", "/api/credits/allocate", {"userId": "d", "credits": 5}),
]
ROLES = {"admin": "admin", "shop": "service", "acme": "user"}


@pytest.mark.parametrize(("who", "method", "path", "body"), MUTATIONS)
async def test_every_change_has_one_effect_a_key(
    address: str,
    admin: httpx2.AsyncClient,
    connection: asyncpg.Connection,
    who: str,
    method: str,
    path: str,
    body: Any,
) -> None:
    await admin.post(f"{ADMIN}/coupons", json={"code": "OLD", "credits": 1})
    key = {"Idempotency-Key": "same"}
    async with client(address, who, ROLES[who]) as caller:
        answers = await asyncio.gather(
            *(caller.request(method, path, json=body, headers=key) for _ in range(8))
        )
        other = await caller.request(method, path, json=_other(body), headers=key)
    assert {answer.status_code for answer in answers} in ({200}, {201}), answers[0].text
    assert len({answer.text for answer in answers}) == 1
    effects = await connection.fetchval(
        "SELECT (SELECT count(*) FROM credit_transaction WHERE idempotency_key IS NULL"
        " AND type NOT IN ('WELCOME')) - 1"
        " + (SELECT count(*) FROM audit_log WHERE action NOT IN ('grant', 'adjust')) - 1"
        " + (SELECT count(*) FROM credit_hold)"
    )
    assert effects == (2 if path.endswith("/allocate") else 1)
    assert (other.status_code, other.json()["type"][-8:]) == (409, "conflict")


def _other(body: Any) -> dict[str, Any]:
    """A valid body that is not the same."""
    changed = {}
    for name, value in (body or {"anything": 1}).items():
        if isinstance(value, bool):
            changed[name] = not value
        else:
            changed[name] = f"{value}X" if isinstance(value, str) else value + 1
    return changed
