"""Whatever a caller sends and the ledger keeps has a largest size, as the document says."""

import json
import re
from collections.abc import AsyncIterator, Iterator
from contextlib import AsyncExitStack
from typing import Any

import asyncpg
import httpx2
import pytest

from adapters.postgres import connect
from adapters.settings import Settings
from tests.apis import client, everything_on, serve
from tests.gates import CREDIT, account, assert_sound
from tests.security.routes import Operation, operations

WITH_BODY = [each for each in operations() if each.body is not None]
WITH_METADATA = [
    each for each in WITH_BODY if each.body and "metadata" in each.body.get("properties", {})
]
# As many as a setting says, and judged one by one when they are read (schemas/events.py): an id
# that is too long is refused or, of LiteLLM, becomes its hash; of `data` what is known is kept.
JUDGED = re.compile(r"POST /api/v1/events(\[\])?(\.id|\.data)?$")
WIDEST = {f"{n:02d}" + "x" * 62: "\U0001f4b0" * 256 for n in range(16)}
TOO_LARGE: dict[str, dict[str, Any]] = {
    "a long text": {"k": "x" * 257},
    "a long name": {"x" * 65: 1},
    "a long number": {"k": 2**63},
    "a long negative number": {"k": -(2**63) - 1},
    "many": {str(n): [] for n in range(2_000)},
    "a control character": {"k": "x\x1b[2J"},
    "half a character": {"k": "\ud800"},
    "half a character in a name": {"\ud800": 1},
}
Clients = dict[str, httpx2.AsyncClient]


@pytest.fixture
async def connection(settings: Settings) -> AsyncIterator["asyncpg.Connection[asyncpg.Record]"]:
    made = await connect(settings, application_name="test")
    await account(made, "acme", 10_000 * CREDIT)
    yield made
    await assert_sound(made)
    await made.close()


@pytest.fixture
async def app(
    settings: Settings, connection: asyncpg.Connection
) -> AsyncIterator[httpx2.AsyncClient]:
    async with AsyncExitStack() as stack:
        address = await stack.enter_async_context(serve(everything_on(settings)))
        yield await stack.enter_async_context(client(address, "chat", "service"))


def unbounded(schema: dict[str, Any], place: str) -> Iterator[str]:
    """The places of a body where a caller could send as much as a request takes."""
    if _IS_UNBOUNDED.get(schema.get("type", ""), lambda _: False)(schema):
        yield place
    named = {**schema.get("properties", {}), **schema.get("patternProperties", {})}
    for name, each in named.items():
        yield from unbounded(each, f"{place}.{name}")
    for each in (schema.get("items"), schema.get("additionalProperties")):
        if isinstance(each, dict):
            yield from unbounded(each, f"{place}[]")
    for kind in ("anyOf", "oneOf", "allOf"):
        for each in schema.get(kind, ()):
            yield from unbounded(each, place)


def _text(schema: dict[str, Any]) -> bool:
    known = {"maxLength", "enum", "const"} & set(schema) or schema.get("format") == "date-time"
    return not known and not ends(schema.get("pattern", ""))


def _object(schema: dict[str, Any]) -> bool:
    """What is known is kept, and nothing else; unless names are free, and then they are few."""
    names = schema.get("patternProperties", {})
    if schema.get("additionalProperties") or not (names or schema.get("properties")):
        return True
    return bool(names) and not ("maxProperties" in schema and all(map(ends, names)))


def _integer(schema: dict[str, Any]) -> bool:
    return "maximum" not in schema


def _array(schema: dict[str, Any]) -> bool:
    return "maxItems" not in schema


_IS_UNBOUNDED = {"string": _text, "object": _object, "integer": _integer, "array": _array}


def ends(pattern: str) -> bool:
    """Whether only texts up to some length match: it has both anchors, and no part without end."""
    plain = re.sub(r"\[[^]]*\]", "", re.sub(r"\\.", "", pattern))
    return plain.startswith("^") and plain.endswith("$") and not re.search(r"[*+]|,\}", plain)


def test_the_walk_finds_what_has_no_end() -> None:
    free = {"type": "object", "additionalProperties": {"type": "integer"}, "maxProperties": 9}
    assert list(unbounded({"properties": {"a": free}}, "x")) == ["x.a", "x.a[]"]
    assert list(unbounded({"anyOf": [{"type": "string", "pattern": "^a*$"}]}, "x")) == ["x"]
    assert not list(unbounded({"type": "string", "pattern": r"^[*\]+]{1,9}\*$"}, "x"))


def test_every_text_and_every_free_object_of_every_body_has_a_bound() -> None:
    found = [place for each in WITH_BODY for place in unbounded(each.body or {}, each.name)]
    assert [place for place in found if not JUDGED.search(place)] == []
    assert len(found) == 5


async def test_metadata_has_the_limits_of_an_events_attributes(
    app: httpx2.AsyncClient, connection: asyncpg.Connection
) -> None:
    holds = [each for each in WITH_METADATA if "{" not in each.path.replace("{account_id}", "")]
    assert len(holds) >= 4
    found = []
    for each in holds:
        for what, metadata in TOO_LARGE.items():
            answer = await send(app, each, metadata)
            told = "metadata" in answer.text and len(answer.content) < 2_000
            if answer.status_code != 422 or not told:
                found.append(f"{each.name} with {what}: {answer.status_code}")
        answer = await send(app, each, WIDEST)
        if answer.status_code not in {200, 201}:
            found.append(f"{each.name} with the widest: {answer.status_code} {answer.text[:200]}")
    assert found == []
    kept = await connection.fetch(
        "SELECT metadata FROM credit_transaction WHERE metadata <> ''"
        " UNION ALL SELECT metadata FROM credit_hold WHERE metadata <> ''"
    )
    assert [json.loads(row["metadata"]) for row in kept] == [WIDEST] * len(holds)


async def test_a_sessions_widest_usage_is_kept(
    app: httpx2.AsyncClient, connection: asyncpg.Connection
) -> None:
    sessions = "/api/v1/accounts/acme/sessions"
    opened = (await app.post(sessions, json={"credits": 1})).json()["hold_id"]
    names = {"provider": 64, "model": 200, "action": 64, "hold_id": 128, "resource_id": 256}
    usage = {name: "x" * most for name, most in names.items()}
    body = {"credits": 0, "usage": {**usage, "attributes": WIDEST, "quantity": 10**12}}
    grown = await app.post(f"{sessions}/{opened}/extend", json=body)
    assert grown.status_code == 200, grown.text
    kept = await connection.fetchval("SELECT octet_length(usage) FROM credit_hold")
    assert 17_000 < kept < 20_000


@pytest.mark.parametrize("column", ["hold metadata", "hold usage", "transaction metadata"])
async def test_postgresql_keeps_no_longer_text_whoever_writes_it(
    connection: asyncpg.Connection, column: str
) -> None:
    table, _, name = column.partition(" ")
    fields = {
        "hold": "hold_id, account_id, amount_micro",
        "transaction": "actor, account_id, type, amount_micro, balance_after_micro",
    }[table]
    values = {"hold": "'h', 'acme', 5", "transaction": "'a', 'acme', 'GRANT', 5, 5"}[table]
    statement = f"INSERT INTO credit_{table} ({fields}, {name}) VALUES ({values}, $1)"  # noqa: S608
    with pytest.raises(asyncpg.CheckViolationError, match=f"credit_{table}_{name}_check"):
        await connection.execute(statement, "x" * 32_769)


async def send(
    app: httpx2.AsyncClient, each: Operation, metadata: dict[str, Any]
) -> httpx2.Response:
    changes: dict[str, Any] = {"metadata": metadata}
    fields = (each.body or {}).get("properties", {})
    if "credits" in fields:
        changes["credits"] = 1
    if each.naming in fields:
        changes[str(each.naming)] = "acme"
    request = each.request(**changes)
    return await app.request(
        each.method,
        each.address(account_id="acme"),
        content=json.dumps(request["json"]),
        headers=request["headers"],
    )
