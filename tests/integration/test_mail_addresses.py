"""An e-mail address is an account everywhere: in URLs, commands, Kafka keys and both stores."""

import re
from collections.abc import AsyncIterator, Mapping
from contextlib import AsyncExitStack
from urllib.parse import quote

import asyncpg
import httpx2
import pytest

from adapters.postgres import connect
from adapters.settings import Settings
from tests.apis import client, everything_on, serve
from tests.batches import desk, usage
from tests.commands import report, run_tollgate
from tests.gates import CREDIT, account, assert_sound
from tests.security.routes import Access, Operation, operations
from tests.shipping import ask, bench

MAIL = "test+sales@example.com"
PLAIN = "acme"
OF_NO_ACCOUNT = re.compile(r"login|/undo$")


@pytest.fixture
async def connection(settings: Settings) -> AsyncIterator["asyncpg.Connection[asyncpg.Record]"]:
    made = await connect(settings, application_name="test")
    for name in (MAIL, PLAIN):
        await account(made, name, 100 * CREDIT)
    yield made
    await assert_sound(made)
    await made.close()


@pytest.fixture
async def callers(
    settings: Settings, connection: object, topics: object
) -> AsyncIterator[dict[str, httpx2.AsyncClient]]:
    """An admin, and the user of each account."""
    async with AsyncExitStack() as stack:
        address = await stack.enter_async_context(serve(everything_on(settings)))
        kinds = {"admin": ("root", "admin"), MAIL: (MAIL, "user"), PLAIN: (PLAIN, "user")}
        yield {
            name: await stack.enter_async_context(client(address, subject, role))
            for name, (subject, role) in kinds.items()
        }


def _address(each: Operation, name: str) -> str:
    """The operation's address for an account; what is special in its name is percent-encoded."""
    values = {"account_id": name, "userId": name, "hold_id": "none", "session_id": "none"}
    path, mark, query = each.address(**values).partition("?")
    assert name in path or name == PLAIN or "{account_id}" not in each.path
    return path.replace(name, quote(name, safe="")) + mark + query


def _body(each: Operation, name: str) -> Mapping[str, object]:
    fields = (each.body or {}).get("properties", {})
    changes: dict[str, object] = {key: name for key in ("user_id", "userId") if key in fields}
    changes |= {key: [name] for key in ("accounts", "userIds") if key in fields}
    changes |= {key: f"new-{name}" for key in ("account_id",) if key in fields}
    changes |= {"subject": name} if each.path == "/api/v1/events" else {}
    changes |= {"code": f"CODE-{len(name)}"} if each.path == "/api/v1/admin/coupons" else {}
    return each.request(**changes)


async def test_every_route_answers_for_it_as_for_any_other(
    callers: dict[str, httpx2.AsyncClient],
) -> None:
    asked = [each for each in operations() if not OF_NO_ACCOUNT.search(each.path)]
    statuses: dict[str, dict[str, int]] = {MAIL: {}, PLAIN: {}}
    for name, found in statuses.items():
        for each in asked:
            who = callers["admin" if each.access is Access.ADMIN else name]
            answer = await who.request(each.method, _address(each, name), **_body(each, name))
            found[each.name] = answer.status_code
    assert statuses[MAIL] == statuses[PLAIN]
    assert sum(status in {200, 201} for status in statuses[MAIL].values()) > 40


async def test_encoded_and_plain_addresses_are_the_same_account(
    callers: dict[str, httpx2.AsyncClient],
) -> None:
    user = callers[MAIL]
    encoded = await user.get("/api/v1/accounts/test%2Bsales%40example.com/balance")
    plain = await user.get(f"/api/v1/accounts/{MAIL}/balance")
    assert encoded.status_code == plain.status_code == 200
    assert encoded.json() == plain.json()
    for path in ("..%2Facme", "acme%2Fbalance", "a%0Ab@c", "%40sum", "a%25b"):
        assert (await user.get(f"/api/v1/accounts/{path}")).status_code in {404, 422}, path
    spaced = await callers["admin"].get(f"/api/v1/credits/balance?user_id={MAIL}")
    assert spaced.status_code == 422, "a plus in a query is a space"


async def test_its_usage_is_charged_and_copied(settings: Settings) -> None:
    async with desk(settings) as rater:
        await rater.open()
        figures = await rater.apply(usage("e1", MAIL), usage("e2", MAIL))
        assert figures.charged == 2
    async with bench(settings) as warehouse:
        await warehouse.drain()
    rows = ask(settings, "SELECT DISTINCT account_id FROM usage")
    assert rows == [(MAIL,)]


async def test_commands_take_it(settings: Settings, environment: dict[str, str]) -> None:
    assert (await report(environment, "account", "create", MAIL))["account_id"] == MAIL
    given = await report(environment, "grant", MAIL, "5", "--key", "k1")
    assert given["balance_after_micro"] == 1_005 * CREDIT
    assert (await report(environment, "account", "history", MAIL))["entries"][0]["type"] == "GRANT"
    refused = await run_tollgate(environment, "account", "create", "a b@example.com")
    assert (refused.returncode, "no account id" in refused.stderr) == (1, True)
