"""Real Kafka, PostgreSQL and ClickHouse for every test, each test in a corner of its own."""

import asyncio
import os
import shutil
import tempfile
import uuid
from collections.abc import Callable, Coroutine, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any, TypeVar
from urllib.parse import urlsplit, urlunsplit

import asyncpg
import pytest
from aiokafka.admin import AIOKafkaAdminClient
from pydantic import SecretStr

from adapters import clickhouse, migrations, price_store
from adapters import topics as kafka_topics
from adapters.postgres import connect
from adapters.settings import Settings
from schemas.topics import ALL
from stack.local import Stack
from stack.ports import Ports

Answer = TypeVar("Answer")
KEPT_VARIABLES = {"TOLLGATE_TEST_HOME", "TOLLGATE_CACHE"}


def in_a_loop(work: Callable[[], Coroutine[Any, Any, Answer]]) -> Answer:
    """Runs a coroutine to its end in a loop and thread of its own, whatever loop the test has."""
    with ThreadPoolExecutor(1) as pool:
        return pool.submit(lambda: asyncio.run(work())).result()


@pytest.fixture(scope="session", autouse=True)
def _no_settings_from_outside() -> Iterator[None]:
    """A developer's TOLLGATE_ variables do not reach a test."""
    with pytest.MonkeyPatch.context() as patch:
        for name in os.environ:
            if name.startswith("TOLLGATE_") and name not in KEPT_VARIABLES:
                patch.delenv(name)
        yield


@pytest.fixture(scope="session")
def stack() -> Iterator[Stack]:
    """The running stack: one of the session's own, or the one that TOLLGATE_TEST_HOME names, which
    is started if need be and left running. A test that stops or kills a component uses `own_stack`.
    """
    kept = os.environ.get("TOLLGATE_TEST_HOME")
    if kept:
        found = Stack(Path(kept))
        found.up()
        yield found
        return
    yield from _fresh_stack()


@pytest.fixture(scope="session")
def own_stack(request: pytest.FixtureRequest) -> Iterator[Stack]:
    """A running stack that nobody else uses, so that its components may be killed. A test leaves
    it running.
    """
    if os.environ.get("TOLLGATE_TEST_HOME"):
        yield from _fresh_stack()
    else:
        yield request.getfixturevalue("stack")


def _fresh_stack() -> Iterator[Stack]:
    """Not below pytest's own directory: another pytest of root takes its permissions back, under
    which PostgreSQL, a user of its own, would lose its data.
    """
    home = Path(tempfile.mkdtemp(prefix="tollgate-tests-"))
    made = Stack(home, Ports.free())
    try:
        made.up()
        yield made
    finally:
        made.down()
        shutil.rmtree(home, ignore_errors=True)


@pytest.fixture(scope="session")
def template_database(stack: Stack) -> Iterator[str]:
    """The name of a migrated PostgreSQL database that others are copied from."""
    name = f"template_{uuid.uuid4().hex[:12]}"
    in_a_loop(lambda: _administer(stack, f'CREATE DATABASE "{name}"'))
    in_a_loop(lambda: _migrate(_settings(stack, name)))
    yield name
    in_a_loop(lambda: _administer(stack, f'DROP DATABASE "{name}" WITH (FORCE)'))


@pytest.fixture
def settings(stack: Stack, template_database: str) -> Iterator[Settings]:
    """Settings of a migrated database in PostgreSQL, one in ClickHouse and a prefix for topics, all
    of them new and gone after the test. The topics are made by the fixture `topics`.
    """
    stack.up()  # a test before this one may have killed a component and failed
    name = f"test_{uuid.uuid4().hex[:12]}"
    create = f'CREATE DATABASE "{name}" TEMPLATE "{template_database}"'
    in_a_loop(lambda: _administer(stack, create))
    made = _settings(stack, name)
    clickhouse.migrate(made)
    yield made
    in_a_loop(lambda: _administer(stack, f'DROP DATABASE "{name}" WITH (FORCE)'))
    with clickhouse.connect(made, database="default") as client:
        client.command(f"DROP DATABASE IF EXISTS `{name}` SYNC")


@pytest.fixture
def topics(settings: Settings) -> Iterator[dict[str, str]]:
    """The test's topics, empty: the name in schemas/topics.py to the real name."""
    in_a_loop(lambda: kafka_topics.ensure_topics(settings))
    names = {topic.name: settings.topic_prefix + topic.name for topic in ALL}
    yield names
    in_a_loop(lambda: _delete_topics(settings, list(names.values())))


@pytest.fixture
def environment(settings: Settings) -> dict[str, str]:
    """The environment of a process that is to run with the test's settings."""
    fields = {
        "HOME": settings.home,
        "KAFKA": settings.kafka,
        "POSTGRES": settings.postgres.get_secret_value(),
        "CLICKHOUSE": settings.clickhouse.get_secret_value(),
        "CLICKHOUSE_DATABASE": settings.clickhouse_database,
        "TOPIC_PREFIX": settings.topic_prefix,
    }
    return {**os.environ, **{f"TOLLGATE_{name}": str(value) for name, value in fields.items()}}


def _settings(stack: Stack, database: str) -> Settings:
    addresses = stack.environment()
    place = urlsplit(addresses["TOLLGATE_POSTGRES"])
    return Settings(
        home=stack.home,
        kafka=addresses["TOLLGATE_KAFKA"],
        postgres=SecretStr(urlunsplit(place._replace(path=f"/{database}"))),
        clickhouse=SecretStr(addresses["TOLLGATE_CLICKHOUSE"]),
        clickhouse_database=database,
        topic_prefix=f"{database}.",
    )


async def _administer(stack: Stack, statement: str) -> None:
    connection = await asyncpg.connect(stack.environment()["TOLLGATE_POSTGRES"])
    try:
        await connection.execute(statement)
    finally:
        await connection.close()


async def _migrate(settings: Settings) -> None:
    connection = await connect(settings, application_name="tests", unlimited=True)
    try:
        found = migrations.read_migrations()
        await migrations.apply(connection, found, migrations.read_reference())
        await price_store.ensure_default_book(connection)
    finally:
        await connection.close()


async def _delete_topics(settings: Settings, names: list[str]) -> None:
    admin = AIOKafkaAdminClient(bootstrap_servers=settings.kafka)
    await admin.start()
    try:
        await admin.delete_topics(names)
    finally:
        await admin.close()
