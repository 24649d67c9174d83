"""Migrations on a real PostgreSQL: in order, once, verified, backed up, and rolled back whole."""

import asyncio
import re
import subprocess
import uuid
from collections.abc import AsyncIterator
from pathlib import Path
from urllib.parse import urlsplit, urlunsplit

import asyncpg
import pytest
from pydantic import SecretStr

from adapters import backups
from adapters.failures import Failure
from adapters.migrations import (
    Migration,
    apply,
    differences,
    plan,
    read_migrations,
    read_reference,
)
from adapters.postgres import connect
from adapters.settings import Settings
from adapters.topics import asked_for, ensure_topics
from schemas.topics import ALL, Topic
from stack.local import Stack
from tests.commands import report, run_tollgate
from tollgate.migrate_command import local_places

ONE = Migration(1, "0001_one.sql", "CREATE TABLE one (n integer PRIMARY KEY)")
TWO = Migration(2, "0002_two.sql", "ALTER TABLE one ADD COLUMN two text NOT NULL DEFAULT 'x'")
REFERENCE = "CREATE TABLE one (n integer PRIMARY KEY, two text NOT NULL DEFAULT 'x')"


@pytest.fixture
async def empty(stack: Stack) -> AsyncIterator[Settings]:
    """Settings of a PostgreSQL database in which nothing is."""
    dsn = stack.environment()["TOLLGATE_POSTGRES"]
    name = f"empty_{uuid.uuid4().hex[:12]}"
    admin = await asyncpg.connect(dsn)
    await admin.execute(f'CREATE DATABASE "{name}"')
    yield Settings(
        home=stack.home / name,
        kafka=stack.environment()["TOLLGATE_KAFKA"],
        clickhouse=SecretStr(stack.environment()["TOLLGATE_CLICKHOUSE"]),
        clickhouse_database=name,
        postgres=SecretStr(urlunsplit(urlsplit(dsn)._replace(path=f"/{name}"))),
        topic_prefix=f"{name}.",
    )
    await admin.execute(f'DROP DATABASE "{name}" WITH (FORCE)')
    await admin.close()


@pytest.fixture
async def connection(empty: Settings) -> AsyncIterator[asyncpg.Connection]:
    made = await connect(empty, application_name="test", unlimited=True)
    yield made
    await made.close()


async def tables(connection: asyncpg.Connection) -> set[str]:
    query = "SELECT tablename FROM pg_tables WHERE schemaname = 'public'"
    return {row["tablename"] for row in await connection.fetch(query)}


async def test_what_is_pending_is_applied_in_order_and_only_once(
    connection: asyncpg.Connection,
) -> None:
    assert await apply(connection, [ONE, TWO], REFERENCE) == [ONE, TWO]
    assert await apply(connection, [ONE, TWO], REFERENCE) == []
    planned = await plan(connection, [ONE, TWO])
    assert planned.applied == (ONE, TWO)
    assert planned.pending == ()


async def test_two_at_once_apply_everything_once(
    empty: Settings, connection: asyncpg.Connection
) -> None:
    other = await connect(empty, application_name="test", unlimited=True)
    try:
        done = await asyncio.gather(
            apply(connection, [ONE, TWO], REFERENCE), apply(other, [ONE, TWO], REFERENCE)
        )
    finally:
        await other.close()
    assert sorted(done, key=len) == [[], [ONE, TWO]]


async def test_a_migration_that_fails_leaves_nothing_behind(
    connection: asyncpg.Connection,
) -> None:
    broken = Migration(2, "0002_broken.sql", "CREATE TABLE half (n integer); SELECT 1 / 0")
    with pytest.raises(Failure, match=r"rolled back, 0002_broken\.sql fails: division by zero"):
        await apply(connection, [ONE, broken], REFERENCE)
    assert await tables(connection) == set()


async def test_a_result_that_is_not_the_schema_is_rolled_back(
    connection: asyncpg.Connection,
) -> None:
    with pytest.raises(Failure, match=r"column one\.two is missing"):
        await apply(connection, [ONE], REFERENCE)
    assert await tables(connection) == set()


async def test_an_edited_file_is_named(connection: asyncpg.Connection) -> None:
    await apply(connection, [ONE, TWO], REFERENCE)
    edited = Migration(1, ONE.file_name, ONE.sql + " -- a remark")
    with pytest.raises(Failure, match=r"0001_one\.sql was edited"):
        await apply(connection, [edited, TWO], REFERENCE)


async def test_a_database_from_the_future_is_refused(connection: asyncpg.Connection) -> None:
    await apply(connection, [ONE, TWO], REFERENCE)
    with pytest.raises(Failure, match=r"0002_two\.sql, which this release does not know"):
        await plan(connection, [ONE])


async def test_what_an_operator_added_stays(connection: asyncpg.Connection) -> None:
    await apply(connection, [ONE, TWO], REFERENCE)
    await connection.execute("CREATE INDEX mine ON one (two)")
    await apply(connection, [ONE, TWO], REFERENCE)
    assert [str(each) for each in await differences(connection, REFERENCE)] == [
        "index mine is not in schema.sql"
    ]


@pytest.mark.parametrize(
    ("damage", "said"),
    [
        ("DROP INDEX charge_position", "index charge_position is missing"),
        ("DROP TRIGGER charge_append_only ON charge", "trigger charge.charge_append_only is"),
        ("ALTER TABLE charge DISABLE TRIGGER charge_append_only", "trigger charge.charge_append"),
        ("ALTER TABLE account DROP CONSTRAINT account_held_micro_check", "constraint account"),
        ("ALTER TABLE account ALTER tier DROP NOT NULL", "column account.tier is"),
        ("ALTER TABLE account SET (fillfactor = 100)", "table account is"),
        (
            "ALTER FUNCTION refuse_change() IMMUTABLE",
            "function refuse_change() is",
        ),
    ],
)
async def test_verification_sees_what_is_damaged(
    settings: Settings, damage: str, said: str
) -> None:
    connection = await connect(settings, application_name="test", unlimited=True)
    try:
        assert await differences(connection, read_reference()) == []
        await connection.execute(damage)
        found = [str(each) for each in await differences(connection, read_reference())]
        with pytest.raises(Failure, match="rolled back"):
            await apply(connection, read_migrations(), read_reference())
    finally:
        await connection.close()
    assert any(line.startswith(said) for line in found), found


def test_files_out_of_line_are_named(tmp_path: Path) -> None:
    (tmp_path / "0001_one.sql").write_text("SELECT 1")
    (tmp_path / "0003_three.sql").write_text("SELECT 1")
    with pytest.raises(Failure, match=r"0003_three\.sql should have the number 0002"):
        read_migrations(tmp_path)
    (tmp_path / "0003_three.sql").rename(tmp_path / "2_two.sql")
    with pytest.raises(Failure, match=r"2_two\.sql is not named"):
        read_migrations(tmp_path)


def dumped(settings: Settings) -> str:
    [pg_dump] = [place / "pg_dump" for place in local_places()][:1]
    dump = subprocess.run(
        [
            pg_dump,
            "--schema-only",
            "--no-owner",
            settings.postgres.get_secret_value(),
            "--exclude-table=schema_migration",
        ],
        capture_output=True,
        text=True,
        check=True,
    ).stdout
    return "\n".join(
        line for line in dump.splitlines() if line and not re.match(r"--|\\(un)?restrict", line)
    )


async def test_schema_sql_and_the_migrations_make_the_same_database(
    empty: Settings, connection: asyncpg.Connection, settings: Settings
) -> None:
    await connection.execute(read_reference())
    assert await asyncio.to_thread(dumped, empty) == await asyncio.to_thread(dumped, settings)
    assert "CREATE TABLE public.charge" in await asyncio.to_thread(dumped, empty)


async def test_keys_that_are_there_stay_callers_of_their_own(
    connection: asyncpg.Connection,
) -> None:
    known = read_migrations()
    for migration in known[:9]:
        await connection.execute(migration.sql)
    await connection.execute(
        "INSERT INTO api_key (key_id, digest, name, role, scopes, created_by)"
        " VALUES ('a', 'a', 'chat', 'service', '{gate}', 'x')"
    )
    await connection.execute(known[9].sql)
    assert await connection.fetchval("SELECT principal FROM api_key") == "a"


def restored(archive: Path) -> str:
    [pg_restore] = [place / "pg_restore" for place in local_places()][:1]
    return subprocess.run(
        [pg_restore, "--data-only", "--table=account", "--file=-", archive],
        capture_output=True,
        text=True,
        check=True,
    ).stdout


async def test_a_backup_can_be_restored_and_is_private(settings: Settings, tmp_path: Path) -> None:
    home = settings.model_copy(update={"home": tmp_path})
    connection = await connect(settings, application_name="test")
    await connection.execute("INSERT INTO account (account_id, tier) VALUES ('acme', 'pro')")
    await connection.close()
    made = backups.back_up(home, 18, local_places())
    assert made.parent == tmp_path / "backups"
    assert made.stat().st_mode & 0o077 == 0
    assert "acme\tpro" in await asyncio.to_thread(restored, made)


def test_a_backup_that_fails_leaves_no_file(settings: Settings, tmp_path: Path) -> None:
    wrong = settings.model_copy(
        update={"home": tmp_path, "postgres": SecretStr("postgresql://u:hidden@127.0.0.1:9/x")}
    )
    with pytest.raises(Failure, match="no backup, so nothing was migrated") as failed:
        backups.back_up(wrong, 18, local_places())
    assert "hidden" not in str(failed.value)
    assert list((tmp_path / "backups").iterdir()) == []


def test_a_pg_dump_older_than_the_server_is_not_used(settings: Settings) -> None:
    with pytest.raises(Failure, match="no pg_dump of version 999"):
        backups.back_up(settings, 999, local_places())


@pytest.mark.parametrize(
    ("dsn", "argument", "password"),
    [
        (
            "postgresql://u:p%40ss@h:1/d?sslmode=require",
            "postgresql://u@h:1/d?sslmode=require",
            "p@ss",
        ),
        ("postgresql://u@h/d", "postgresql://u@h/d", ""),
    ],
)
def test_a_password_is_never_an_argument(dsn: str, argument: str, password: str) -> None:
    assert backups.split_password(dsn) == (argument, password)


async def test_the_command_makes_everything_and_then_nothing(
    empty: Settings, environment: dict[str, str]
) -> None:
    fresh = {
        **environment,
        "TOLLGATE_HOME": str(empty.home),
        "TOLLGATE_POSTGRES": empty.postgres.get_secret_value(),
        "TOLLGATE_TOPIC_PREFIX": empty.topic_prefix,
    }
    dry = await report(fresh, "migrate", "--dry-run")
    assert dry["pending"] == [each.file_name for each in read_migrations()]
    first = await report(fresh, "migrate")
    assert first["applied"] == dry["pending"]
    assert first["backup"] is None
    assert first["price_version"] == 1
    assert len(first["topics_created"]) == 4
    second = await report(fresh, "migrate", "--roles")
    assert second["applied"] == second["topics_created"] == second["warnings"] == []
    assert second["price_version"] is None
    assert first["roles"] is None
    assert "tollgate_rater: INSERT ON charge" in second["roles"]["granted"]


async def test_the_command_backs_up_before_it_changes_a_database(
    empty: Settings, connection: asyncpg.Connection, environment: dict[str, str], tmp_path: Path
) -> None:
    await connection.execute("CREATE TABLE account (n integer)")
    there = {
        **environment,
        "TOLLGATE_HOME": str(tmp_path),
        "TOLLGATE_POSTGRES": empty.postgres.get_secret_value(),
    }
    done = await run_tollgate(there, "migrate")
    assert done.returncode == 1
    assert "0001_ledger.sql fails" in done.stderr
    assert len(list((tmp_path / "backups").iterdir())) == 1
    done = await run_tollgate(there, "migrate", "--no-backup")
    assert done.returncode == 1
    assert len(list((tmp_path / "backups").iterdir())) == 1
    assert await tables(connection) == {"account"}


@pytest.mark.parametrize("topic", ALL, ids=lambda topic: topic.name)
def test_with_three_replicas_two_must_have_a_record(topic: Topic) -> None:
    kept = {"min.insync.replicas": "2", "unclean.leader.election.enable": "false"}
    three = asked_for(topic, Settings(replication_factor=3))
    assert (three.replication_factor, kept.items() <= three.topic_configs.items()) == (3, True)
    for fewer in (1, 2):  # of two, both would have to be there for a single event to be taken
        assert (
            not kept.keys()
            & asked_for(topic, Settings(replication_factor=fewer)).topic_configs.keys()
        )


async def test_a_topic_that_a_lone_leader_can_confirm_is_warned_about(
    settings: Settings, topics: dict[str, str]
) -> None:
    three = settings.model_copy(update={"replication_factor": 3})
    warnings = [warning for topic in await ensure_topics(three) for warning in topic.warnings]
    wanted = [f"{name} has min.insync.replicas=1, 2 is expected" for name in topics.values()]
    assert sorted(warnings) == sorted(wanted)


async def test_topics_are_compared_not_changed(settings: Settings, topics: dict[str, str]) -> None:
    more = settings.model_copy(update={"partitions": settings.partitions + 4})
    warnings = [warning for topic in await ensure_topics(more) for warning in topic.warnings]
    assert warnings == [f"{topics['usage.events']} has 8 partitions, 12 are configured"]
    fewer = settings.model_copy(update={"partitions": 2})
    reports = await ensure_topics(fewer)
    assert not any(topic.created or topic.warnings for topic in reports)
