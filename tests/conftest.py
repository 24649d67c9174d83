"""Real Kafka, PostgreSQL and ClickHouse for every test, each test in a corner of its own."""

import asyncio
import fcntl
import logging
import os
import shutil
import tempfile
import time
import uuid
from collections.abc import Callable, Coroutine, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path
from typing import Any, TypeVar
from urllib.parse import urlsplit, urlunsplit

import asyncpg
import pytest
import structlog
from aiokafka.admin import AIOKafkaAdminClient
from hypothesis import HealthCheck
from hypothesis import settings as laws
from pydantic import SecretStr

from adapters import clickhouse, migrations, price_store
from adapters import topics as kafka_topics
from adapters.failures import Failure
from adapters.postgres import connect
from adapters.settings import Settings
from schemas.topics import ALL
from stack import java
from stack.local import Stack
from stack.ports import Ports

Answer = TypeVar("Answer")
# On every machine the same examples, and no limit by the clock, which a busy one would break.
# `--hypothesis-profile=default` looks for new ones.
laws.register_profile(
    "house",
    deadline=None,
    derandomize=True,
    database=None,
    print_blob=True,
    suppress_health_check=[HealthCheck.too_slow],
)
laws.load_profile("house")
KEPT_VARIABLES = {"TOLLGATE_TEST_HOME", "TOLLGATE_CACHE"}
# Files whose tests never look at ClickHouse: they get no database there. Making one costs more than
# all else that a test is given, and whoever asks for it all the same is told that it is missing.
LEDGER_ONLY = {
    "test_adjustments", "test_api_accounts", "test_api_by_its_document", "test_api_compatible",
    "test_api_gate", "test_api_keys", "test_api_proposals", "test_api_refreshes", "test_bodies",
    "test_burn_down_equals_core", "test_cli_proposals", "test_configuration", "test_corrections",
    "test_corrections_plans", "test_coupons", "test_credits_machine", "test_credits_races",
    "test_dual_control", "test_expiry", "test_gate", "test_gate_fails_closed", "test_gate_prices",
    "test_gate_races", "test_history", "test_limits", "test_matrix", "test_overtaken",
    "test_parked", "test_price_store", "test_rater_batches", "test_rater_counters",
    "test_rater_late_copies", "test_reconcile", "test_refresh", "test_stuck_audit", "test_tokens",
}  # fmt: skip
TOPICS_SECONDS_MAX = 30
# Where the longest tests are: several processes share the files best when these begin first.
LONGEST_FIRST = ("faults/test_kill_storm", "faults", "e2e", "integration", "security", "unit")


def in_a_loop(work: Callable[[], Coroutine[Any, Any, Answer]]) -> Answer:
    """Runs a coroutine to its end in a loop and thread of its own, whatever loop the test has."""
    with ThreadPoolExecutor(1) as pool:
        return pool.submit(lambda: asyncio.run(work())).result()


def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    """Where processes share the files, long ones before short ones; within a file nothing moves."""
    if not hasattr(config, "workerinput"):
        return
    home = Path(__file__).parent

    def rank(item: pytest.Item) -> int:
        place = item.path.relative_to(home).as_posix()
        ranks = (n for n, begin in enumerate(LONGEST_FIRST) if place.startswith(begin))
        return next(ranks, len(LONGEST_FIRST))

    items.sort(key=rank)


@pytest.fixture(scope="session", autouse=True)
def _no_settings_from_outside() -> Iterator[None]:
    """A developer's TOLLGATE_ variables do not reach a test."""
    with pytest.MonkeyPatch.context() as patch:
        for name in os.environ:
            if name.startswith("TOLLGATE_") and name not in KEPT_VARIABLES:
                patch.delenv(name)
        yield


@pytest.fixture(autouse=True)
def _logging_as_found() -> Iterator[None]:
    """A command that a test runs within this process sets up logging; it ends with the test."""
    root = logging.getLogger()
    handlers = list(root.handlers)
    known = [
        root,
        *(found for found in root.manager.loggerDict.values() if isinstance(found, logging.Logger)),
    ]
    levels = [(logger, logger.level) for logger in known]
    yield
    root.handlers[:] = handlers
    for logger, level in levels:
        logger.setLevel(level)
    structlog.reset_defaults()


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
    _fetch_kafka()
    home = Path(tempfile.mkdtemp(prefix="tollgate-tests-"))
    made = Stack(home, Ports.free())
    try:
        made.up()
        yield made
    finally:
        made.down()
        shutil.rmtree(home, ignore_errors=True)


def _fetch_kafka() -> None:
    """Once on a machine, and not by every process of the tests at the same time."""
    cache = java.cache_directory()
    cache.mkdir(parents=True, exist_ok=True)
    with (cache / ".tests.lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        java.kafka_jars()


@pytest.fixture(scope="session")
def template_database(stack: Stack) -> Iterator[str]:
    """The name of a migrated PostgreSQL database that others are copied from."""
    name = f"template_{uuid.uuid4().hex[:12]}"
    in_a_loop(lambda: _administer(stack, f'CREATE DATABASE "{name}"'))
    in_a_loop(lambda: _migrate(_settings(stack, name)))
    yield name
    in_a_loop(lambda: _administer(stack, f'DROP DATABASE "{name}" WITH (FORCE)'))


@pytest.fixture
def settings(
    stack: Stack, template_database: str, request: pytest.FixtureRequest
) -> Iterator[Settings]:
    """Settings of a migrated database in PostgreSQL, one in ClickHouse (but see LEDGER_ONLY) and a
    prefix for topics, all of them new and gone after the test. The topics are made by the fixture
    `topics`.
    """
    stack.up()  # a test before this one may have killed a component and failed
    name = f"test_{uuid.uuid4().hex[:12]}"
    # Copied as files: less work than the default, which writes every page into the log.
    create = f'CREATE DATABASE "{name}" TEMPLATE "{template_database}" STRATEGY file_copy'
    in_a_loop(lambda: _administer(stack, create))
    made = _settings(stack, name)
    if request.path.stem in LEDGER_ONLY:
        yield made
    else:
        with _copy(made):
            yield made
    in_a_loop(lambda: _administer(stack, f'DROP DATABASE "{name}" WITH (FORCE)'))


@contextmanager
def _copy(settings: Settings) -> Iterator[None]:
    clickhouse.migrate(settings)
    yield
    with clickhouse.connect(settings, database="default") as client:
        client.command(f"DROP DATABASE IF EXISTS `{settings.clickhouse_database}` SYNC")


@pytest.fixture
def topics(settings: Settings) -> Iterator[dict[str, str]]:
    """The test's topics, empty: the name in schemas/topics.py to the real name."""
    in_a_loop(lambda: _ensure_topics(settings))
    names = {topic.name: settings.topic_prefix + topic.name for topic in ALL}
    yield names
    in_a_loop(lambda: _delete_topics(settings, list(names.values())))


async def _ensure_topics(settings: Settings) -> None:
    """Again while Kafka refuses: after a pause of the machine its broker is fenced for a second."""
    end = time.monotonic() + TOPICS_SECONDS_MAX
    while True:
        try:
            await kafka_topics.ensure_topics(settings)
        except Failure:
            if time.monotonic() > end:
                raise
            await asyncio.sleep(0.5)
        else:
            return


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
