"""S1, S2, S5: every route of the OpenAPI document against every kind of caller.

The matrix is made from the document: a new route is in it at once, and fails until somebody has
said who may use it.
"""

from collections.abc import AsyncIterator
from contextlib import AsyncExitStack

import asyncpg
import httpx2
import pytest

from adapters.postgres import connect
from adapters.settings import Settings
from api.app import ROUTES
from api.scopes import SCOPE_OF_TAG
from tests.apis import client, everything_on, serve
from tests.gates import CREDIT, account
from tests.security.routes import METHODS, ROWS, Access, Operation, operations

OPERATIONS = operations()
GUARDED = [each for each in OPERATIONS if each.access is not Access.PUBLIC]
# Things of the account `acme`, by the name of the path's parameter.
OF_ACME = {"account_id": "acme", "hold_id": "hold-of-acme", "session_id": "session-of-acme",
           "provider": "openrouter"}  # fmt: skip
MISSING = {"account_id": "nobody", "hold_id": "no-such-hold", "session_id": "no-such-session",
           "provider": "openrouter"}  # fmt: skip
# Fields that would name an account beside the one of the path or the caller.
NAMES_AN_ACCOUNT = {"account", "account_id", "accountId", "user", "user_id", "userId", "subject"}
Clients = dict[str, httpx2.AsyncClient]


@pytest.fixture
async def connection(settings: Settings) -> AsyncIterator["asyncpg.Connection[asyncpg.Record]"]:
    made = await connect(settings, application_name="test")
    for name in ("acme", "eve"):
        await account(made, name, 100 * CREDIT)
    yield made
    await made.close()


@pytest.fixture
async def callers(
    settings: Settings, connection: asyncpg.Connection, topics: dict[str, str]
) -> AsyncIterator[Clients]:
    """Who there is: the account's own user, another one, a service, an admin, and nobody."""
    async with AsyncExitStack() as stack:
        address = await stack.enter_async_context(serve(everything_on(settings)))
        kinds = {
            "own": ("acme", "user"),
            "foreign": ("eve", "user"),
            "service": ("chat", "service"),
            "admin": ("root", "admin"),
            "nobody": ("", ""),
        }
        made = {
            name: await stack.enter_async_context(client(address, subject, role))
            for name, (subject, role) in kinds.items()
        }
        for kind in ("hold", "session"):
            wanted = {"credits": 5, f"{kind}_id": OF_ACME[f"{kind}_id"]}
            answer = await made["service"].post(f"/api/v1/accounts/acme/{kind}s", json=wanted)
            assert answer.status_code == 201
        key = {"key": "sk-or-v1-of-acme-only"}
        answer = await made["own"].put("/api/v1/accounts/acme/provider-keys/openrouter", json=key)
        assert answer.status_code == 200
        yield made


async def call(caller: httpx2.AsyncClient, each: Operation, **values: str) -> httpx2.Response:
    """With the account of the values, wherever the operation takes it."""
    changes = {}
    if each.naming in (each.body or {}).get("properties", {}) and "account_id" in values:
        changes[each.naming] = values["account_id"]
    return await caller.request(each.method, each.address(**values), **each.request(**changes))


async def everything(connection: asyncpg.Connection) -> dict[str, list[asyncpg.Record]]:
    """All that an account owns, and what was written down about it."""
    tables = await connection.fetch(
        "SELECT table_name FROM information_schema.tables"
        " WHERE table_schema = 'public' AND table_type = 'BASE TABLE'"
    )
    return {
        row[0]: await connection.fetch(f'SELECT * FROM "{row[0]}" t ORDER BY t::text')  # noqa: S608
        for row in tables
    }


def test_somebody_has_said_who_may_use_each_route() -> None:
    assert len(OPERATIONS) > 5
    assert [each.name for each in OPERATIONS if each.access is None] == []
    assert set(ROWS) <= {each.name for each in OPERATIONS}, "a row of a route that is gone"


def test_no_other_route_hides_from_the_document() -> None:
    hidden = {
        route.path
        for module in ROUTES
        for route in module.router.routes
        if not getattr(route, "include_in_schema", False)
    }
    assert hidden == set()


def test_every_parameter_in_a_path_has_a_row() -> None:
    named = {
        name for each in GUARDED if each.access is Access.ACCOUNT for name in each.names("path")
    }
    assert named - set(OF_ACME) == set()
    assert set(OF_ACME) == set(MISSING)


def test_every_route_with_callers_has_a_scope() -> None:
    assert [
        each.name for each in GUARDED if not each.tags or each.tags[0] not in SCOPE_OF_TAG
    ] == []
    admins = [each for each in GUARDED if each.access is Access.ADMIN]
    assert [each.name for each in admins if each.tags[0] != "admin"] == []


def test_the_document_says_which_routes_need_a_caller() -> None:
    assert [each.name for each in GUARDED if not each.secured] == []


def test_no_request_names_an_account_beside_its_path() -> None:
    found = []
    for each in GUARDED:
        if each.access in {Access.ADMIN, Access.NAMED}:
            continue
        fields = set((each.body or {}).get("properties", {})) | set(each.names("query"))
        fields |= set(each.names("header"))
        found += [f"{each.name}: {field}" for field in fields & NAMES_AN_ACCOUNT]
    assert found == []


async def test_nobody_gets_anything_but_401(callers: Clients) -> None:
    found = []
    for each in GUARDED:
        answer = await call(callers["nobody"], each, **OF_ACME)
        if answer.status_code != 401 or answer.headers.get("www-authenticate") != "Bearer":
            found.append(f"{each.name}: {answer.status_code}")
    assert found == []


async def test_a_foreign_account_is_as_if_it_were_not_there_and_nothing_moves(
    callers: Clients, connection: asyncpg.Connection
) -> None:
    before, found = await everything(connection), []
    for each in GUARDED:
        if each.access in {Access.ACCOUNT, Access.NAMED}:
            foreign = await call(callers["foreign"], each, **OF_ACME)
            missing = await call(callers["foreign"], each, **MISSING)
            if foreign.status_code != 404 or shown(foreign) != shown(missing):
                found.append(f"{each.name}: {foreign.status_code}, {missing.status_code}")
    assert found == []
    assert await everything(connection) == before


async def test_a_foreign_thing_in_the_own_account_is_as_if_it_were_not_there(
    callers: Clients, connection: asyncpg.Connection
) -> None:
    found, asked = [], 0
    before = await connection.fetch("SELECT * FROM credit_hold")
    for each in GUARDED:
        things = set(each.names("path")) - {"account_id", "provider"}  # a name, the same for all
        if each.access is not Access.ACCOUNT or not things:
            continue
        asked += 1
        foreign = await call(callers["foreign"], each, **{**OF_ACME, "account_id": "eve"})
        missing = await call(callers["foreign"], each, **{**MISSING, "account_id": "eve"})
        if shown(foreign) != shown(missing):
            found.append(f"{each.name}: {foreign.text}, {missing.text}")
    assert asked
    assert found == []
    assert await connection.fetch("SELECT * FROM credit_hold") == before


async def test_only_an_admin_uses_what_is_of_admins_and_no_user_sells(
    callers: Clients, connection: asyncpg.Connection
) -> None:
    before, found = await everything(connection), []
    for each in GUARDED:
        refused = {
            Access.ADMIN: ("own", "foreign", "service"),
            Access.SELLER: ("own", "foreign"),
        }
        if each.access in refused:
            for kind in refused[each.access]:
                answer = await call(callers[kind], each, **OF_ACME)
                if answer.status_code != 403:
                    found.append(f"{each.name} as {kind}: {answer.status_code}")
    assert found == []
    assert await everything(connection) == before


async def test_whoever_may_is_not_refused(callers: Clients) -> None:
    own = {}
    for kind in ("hold", "session"):  # of those of an app a person may not dispose
        answer = await callers["own"].post(f"/api/v1/accounts/acme/{kind}s", json={"credits": 5})
        assert answer.status_code == 201
        own[f"{kind}_id"] = answer.json()["hold_id"]
    allowed = {
        Access.CALLER: ("own", "service", "admin"),
        Access.ACCOUNT: ("own", "service", "admin"),
        Access.NAMED: ("own", "service", "admin"),
        Access.SELLER: ("service", "admin"),
        Access.ADMIN: ("admin",),
    }
    found = []
    for each in GUARDED:
        assert each.access is not None
        for kind in allowed.get(each.access, ()):
            names = {**OF_ACME, **own} if kind == "own" else OF_ACME
            answer = await call(callers[kind], each, **names)
            if answer.status_code in {401, 403, 405} or answer.status_code >= 500:
                found.append(f"{each.name} as {kind}: {answer.status_code} {answer.text[:200]}")
    assert found == []


async def test_without_a_name_a_user_is_meant_and_nobody_else(callers: Clients) -> None:
    found = []
    for each in GUARDED:
        if each.access is Access.NAMED:
            own = await call(callers["own"], each)
            if own.status_code >= 400:
                found.append(f"{each.name} as own: {own.status_code} {own.text[:200]}")
            answer = await call(callers["service"], each)
            if answer.status_code not in {200, 400, 403, 422} or "balance" in answer.text:
                found.append(f"{each.name} as service: {answer.status_code} {answer.text[:200]}")
    assert found == []


async def test_no_user_gives_credits_to_the_own_account(
    callers: Clients, connection: asyncpg.Connection
) -> None:
    """S11: not by any route, with any of its fields."""
    granted = "SELECT coalesce(sum(amount_micro), 0) FROM credit_grant"
    before, found = await connection.fetchval(granted), []
    for each in GUARDED:
        answer = await call(callers["own"], each, **OF_ACME)
        if each.access in {Access.SELLER, Access.ADMIN} and answer.status_code != 403:
            found.append(f"{each.name}: {answer.status_code}")
    assert found == []
    assert await connection.fetchval(granted) == before


async def test_another_verb_opens_nothing(callers: Clients) -> None:
    known: dict[str, set[str]] = {}
    for each in OPERATIONS:
        known.setdefault(each.path, set()).add(each.method)
    found = []
    for each in OPERATIONS:
        for method in {name.upper() for name in METHODS} - known[each.path]:
            answer = await callers["foreign"].request(method, each.address(**OF_ACME))
            if answer.status_code not in {401, 403, 404, 405}:
                found.append(f"{method} {each.path}: {answer.status_code}")
    assert found == []


@pytest.mark.parametrize(
    "header", ["X-HTTP-Method-Override", "X-Method-Override", "X-HTTP-Method", "X-Original-URL"]
)
async def test_a_header_changes_neither_the_method_nor_the_path(
    callers: Clients, header: str
) -> None:
    value = "/health" if header == "X-Original-URL" else "GET"
    found = []
    for each in GUARDED:
        answer = await callers["nobody"].request(
            each.method, each.address(**OF_ACME), headers={header: value}
        )
        if answer.status_code != 401:
            found.append(f"{each.name}: {answer.status_code}")
    assert found == []


@pytest.mark.parametrize(
    "path",
    [
        "/api/v1/accounts/eve%2f..%2facme/check",
        "/api/v1/accounts/eve/..%2facme/check",
        "/api/v1/accounts/eve%00acme/check",
        "/api/v1/accounts/ACME/check",
        "/api/v1//accounts/acme/check",
        "/api/v1/accounts/%61cme/check",
        "/api/v1/accounts/acme%20/check",
    ],
)
async def test_a_path_written_otherwise_leads_to_no_foreign_account(
    callers: Clients, path: str
) -> None:
    answer = await callers["foreign"].post(httpx2.URL(path), json={"credits": 1})
    assert answer.status_code in {404, 422}
    assert "available" not in answer.text


def shown(answer: httpx2.Response) -> tuple[int, str, list[str]]:
    """What a caller can tell two answers apart by."""
    volatile = {"date", "x-request-id"}
    return (
        answer.status_code,
        answer.text,
        [f"{name}: {value}" for name, value in answer.headers.items() if name not in volatile],
    )
