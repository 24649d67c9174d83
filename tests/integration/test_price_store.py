"""The price book in a real PostgreSQL: immutable versions, loaded fast and small."""

import asyncio
import json
import time
import tracemalloc
from collections.abc import AsyncIterator
from datetime import UTC, datetime, timedelta
from typing import Any

import asyncpg
import pytest

from adapters.failures import Failure
from adapters.model_prices import snapshot
from adapters.postgres import Connection, connect
from adapters.price_store import (
    ensure_default_book,
    load_history,
    overview,
    propose,
    publish,
    publish_proposal,
    read_document,
    version_in_force,
)
from adapters.queries import load
from adapters.settings import Settings
from core.charge_models import UnitRule
from core.prices import PriceHistory
from tests.priced_usage import EPOCH, document

CATALOG: dict[str, Any] = snapshot()
LATER = datetime.now(UTC).replace(microsecond=0) + timedelta(days=1)
PAST = datetime(2026, 1, 1, tzinfo=UTC)


@pytest.fixture
async def connection(settings: Settings) -> AsyncIterator[Connection]:
    """The test's database, where migrating has published the default book."""
    opened = await connect(settings, application_name="tests")
    yield opened
    await opened.close()


def _document(price: str) -> dict[str, Any]:
    return document(catalog=CATALOG, actions={"scheduled_task": {"credits": price}})


def _action(prices: PriceHistory, when: datetime) -> UnitRule:
    book = prices.at(when)
    assert book is not None
    return book.actions["scheduled_task"]


async def test_a_new_installation_has_the_default_book_once(connection: Connection) -> None:
    assert await ensure_default_book(connection) is None
    prices = await load_history(connection)
    book = prices.at(EPOCH)
    assert book is not None
    assert book.version == prices.latest_version == 1
    rule = book.model_rule("", "gpt-4o-2024-08-06")
    assert rule is not None
    assert rule.name == "model:openai/gpt-4o"


async def test_two_migrations_at_once_publish_one_default_book(
    settings: Settings, connection: Connection
) -> None:
    await connection.execute("ALTER TABLE price_version DISABLE TRIGGER USER")
    await connection.execute("TRUNCATE price_version RESTART IDENTITY")
    await connection.execute("ALTER TABLE price_version ENABLE TRIGGER USER")
    other = await connect(settings, application_name="tests")
    try:
        made = await asyncio.gather(ensure_default_book(connection), ensure_default_book(other))
    finally:
        await other.close()
    assert sorted(made, key=str) == [1, None]


async def test_a_version_holds_from_its_start_and_the_older_one_until_then(
    connection: Connection,
) -> None:
    version = await publish(connection, _document("0.002"), LATER, "ops@example.com")
    prices = await load_history(connection)
    assert prices.latest_version == version
    half_micro = timedelta(microseconds=1)
    assert _action(prices, LATER - half_micro).credits_per_unit == 5 * 10**14
    assert _action(prices, LATER).credits_per_unit == 2 * 10**15


async def test_what_would_change_nothing_or_the_past_is_refused(connection: Connection) -> None:
    with pytest.raises(Failure, match="in the past"):
        await publish(connection, _document("0.002"), PAST, "ops")
    with pytest.raises(Failure, match=r"book\.tiers: expected a mapping"):
        await publish(connection, document(catalog=CATALOG, tiers=1), LATER, "ops")
    same = document(catalog=CATALOG)
    with pytest.raises(Failure, match="nothing was published"):
        await publish(connection, same, LATER, "ops")
    assert (await load_history(connection)).latest_version == 1
    await publish(connection, _document("0.002"), PAST, "ops", correction=True)
    prices = await load_history(connection)
    assert _action(prices, PAST - timedelta(days=1)).credits_per_unit == 5 * 10**14
    assert _action(prices, PAST).credits_per_unit == 2 * 10**15
    # back to the old prices: that equals an older version, and changes what holds
    await publish(connection, same, None, "ops")
    prices = await load_history(connection)
    assert _action(prices, LATER).credits_per_unit == 5 * 10**14


@pytest.mark.parametrize(
    "statement",
    [
        "UPDATE price_version SET effective_from = now()",
        "UPDATE price_version SET document = '{}'",
        "DELETE FROM price_version",
        "TRUNCATE price_version",
    ],
)
async def test_a_published_version_is_never_edited(connection: Connection, statement: str) -> None:
    with pytest.raises(asyncpg.RaiseError, match="price_version is append-only"):
        await connection.execute(statement)
    assert (await load_history(connection)).latest_version == 1


async def test_a_version_from_now_on_is_there_before_it_begins(
    settings: Settings, connection: Connection
) -> None:
    asked = await connection.fetchval("SELECT clock_timestamp()")
    version, _ = await publish_proposal(connection, _document("0.002"), None, "ops")
    there = await connection.fetchval("SELECT clock_timestamp()")
    (_, published) = await overview(connection)
    assert published.version == version
    assert asked + timedelta(seconds=1) < published.effective_from <= there + timedelta(seconds=2)


async def test_of_two_publications_from_now_on_the_later_one_holds(
    settings: Settings, connection: Connection
) -> None:
    """Also where the later one began its transaction first."""
    other = await connect(settings, application_name="tests")
    try:
        async with other.transaction():
            await other.fetchval("SELECT now()")
            await asyncio.sleep(1.1)
            first = await publish(connection, _document("0.002"), None, "first")
            second = await publish(other, _document("0.003"), None, "second")
    finally:
        await other.close()
    assert first < second
    begun = {each.version: each.effective_from for each in await overview(connection)}
    assert begun[first] <= begun[second]
    soon = begun[second] + timedelta(seconds=1)
    assert await version_in_force(connection, soon) == second


async def test_a_document_without_a_catalog_keeps_the_one_it_follows(
    connection: Connection,
) -> None:
    small = {"source": "small", "providers": []}
    with_small = document(catalog=small, actions={"scheduled_task": {"credits": "0.1"}})
    await publish(connection, with_small, LATER, "ops")
    for start, source in (
        (LATER - timedelta(hours=1), CATALOG["source"]),
        (LATER + timedelta(hours=1), "small"),
    ):
        bare = document(actions={"scheduled_task": {"credits": "0.2"}})
        del bare["catalog"]
        proposal = await propose(connection, bare, start)
        assert proposal.document["catalog"]["source"] == source
        assert f"{source}, kept from version" in proposal.catalog
    installed = {**bare, "catalog": "genai-prices"}
    proposal = await propose(connection, installed, LATER)
    assert proposal.document["catalog"] == CATALOG
    assert proposal.catalog.endswith("as installed")


async def test_the_catalog_that_is_kept_is_read_under_the_publishers_lock(
    settings: Settings, connection: Connection
) -> None:
    bare = document(actions={"scheduled_task": {"credits": "0.2"}})
    del bare["catalog"]
    patient = settings.model_copy(update={"lock_seconds_max": 30.0})
    other = await connect(patient, application_name="tests")
    try:
        async with connection.transaction():
            await connection.execute(load("prices").lock_versions)
            waiting = asyncio.create_task(publish(other, bare, LATER, "second"))
            await asyncio.sleep(0.5)
            small = document(catalog={"source": "small", "providers": []})
            await publish(connection, small, LATER, "first")
        version = await waiting
    finally:
        await other.close()
    assert (await read_document(connection, version))["catalog"]["source"] == "small"


async def test_versions_say_from_when_until_when_they_hold(connection: Connection) -> None:
    hour = timedelta(hours=1)
    for price, start in (("0.1", LATER), ("0.2", LATER + hour), ("0.3", LATER), ("0.4", PAST)):
        await publish(connection, _document(price), start, "ops", correction=True)
    found = {each.version: (each.effective_from, each.until) for each in await overview(connection)}
    assert found == {
        1: (EPOCH, PAST),
        2: (LATER, LATER),  # never: version 4 begins at the same moment
        3: (LATER + hour, None),
        4: (LATER, LATER + hour),
        5: (PAST, LATER),
    }
    prices = await load_history(connection)
    for version, (start, until) in found.items():
        book = prices.at(start)
        assert book is not None
        assert (book.version == version) is (until != start)
    proposal = await propose(connection, _document("0.5"), PAST + hour)
    assert (proposal.until, proposal.past, proposal.against) == (LATER, True, 5)


async def test_two_publishers_of_one_document_make_one_version(
    settings: Settings, connection: Connection
) -> None:
    other = await connect(settings, application_name="tests")
    try:
        made = await asyncio.gather(
            *(publish(each, _document("0.003"), LATER, "ops") for each in (connection, other)),
            return_exceptions=True,
        )
    finally:
        await other.close()
    assert sorted(type(answer).__name__ for answer in made) == ["Failure", "int"]


async def test_a_version_of_another_release_is_refused_with_the_way_on(
    connection: Connection,
) -> None:
    await connection.execute(
        "INSERT INTO price_version (effective_from, document, digest, published_by)"
        " SELECT $1, document || '{\"from_the_future\": 1}', 'd', 'ops' FROM price_version",
        LATER,
    )
    with pytest.raises(Failure, match=r"version 2 cannot be read.*does not know from_the_future"):
        await load_history(connection)


async def test_many_versions_load_fast_and_share_their_catalog(connection: Connection) -> None:
    for day in range(8):
        dearer = _document(f"0.00{day + 1}")
        await publish(connection, dearer, LATER + timedelta(days=day), "ops")
    tracemalloc.start()
    try:
        prices = await load_history(connection)
        held, _ = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert prices.latest_version == 9
    assert held < 12 * 2**20
    seconds = []
    for _ in range(3):
        begun = time.perf_counter()
        await load_history(connection)
        seconds.append(time.perf_counter() - begun)
    assert min(seconds) < 9 * 0.3


async def test_a_document_is_stored_as_it_was_published(connection: Connection) -> None:
    version = await publish(connection, _document("0.002"), LATER, "ops@example.com")
    row = await connection.fetchrow(
        "SELECT document, published_by FROM price_version WHERE price_version = $1", version
    )
    assert row is not None
    assert json.loads(row["document"]) == _document("0.002")
    assert row["published_by"] == "ops@example.com"
