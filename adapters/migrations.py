"""PostgreSQL's schema in versions: applied in order, checked against schema.sql, or not at all.

All that is pending is applied in one transaction, verified in it, and committed only when the
database then has every object of sql/postgres/schema.sql as it is written there. So a failure at
any step leaves the database as it was. What an operator added beside them (an index, a view) stays.
"""

import hashlib
import re
from collections.abc import Sequence
from dataclasses import dataclass
from importlib.resources import files
from importlib.resources.abc import Traversable

import asyncpg

from adapters.failures import Failure
from adapters.postgres import Connection
from adapters.queries import load

SQL = load("migrations")
_FILE_NAME = re.compile(r"(\d{4})_([a-z0-9_]+)\.sql")
_MIGRATING_LOCK = 7_201_002
_DIFFERENCES_SHOWN_MAX = 3


@dataclass(frozen=True, slots=True)
class Migration:
    """One file of sql/postgres/migrations; never edited once it was applied anywhere."""

    number: int
    file_name: str
    sql: str

    @property
    def checksum(self) -> str:
        """What tells an edited file from the one that was applied."""
        return hashlib.sha256(self.sql.encode()).hexdigest()


@dataclass(frozen=True, slots=True)
class Plan:
    """What a database has and what it lacks; `tables` is 0 for an empty database."""

    applied: tuple[Migration, ...]
    pending: tuple[Migration, ...]
    tables: int


@dataclass(frozen=True, slots=True)
class Difference:
    """One object that is not as the reference says; None stands for: not there."""

    name: str
    found: str | None
    wanted: str | None

    @property
    def extra(self) -> bool:
        """True for an object that the reference does not know."""
        return self.wanted is None

    def __str__(self) -> str:
        """The line for a person."""
        if self.found is None:
            return f"{self.name} is missing"
        if self.wanted is None:
            return f"{self.name} is not in schema.sql"
        return f"{self.name} is {self.found!r} instead of {self.wanted!r}"


def read_migrations(directory: Traversable | None = None) -> list[Migration]:
    """The migrations in order; raises Failure for a file out of line or a number missing."""
    place = directory or files("sql") / "postgres" / "migrations"
    found = []
    for entry in sorted(place.iterdir(), key=lambda entry: entry.name):
        match = _FILE_NAME.fullmatch(entry.name)
        if match is None:
            if entry.name.endswith(".sql"):
                raise Failure(f"migration {entry.name} is not named NNNN_lower_case.sql")
            continue
        found.append(Migration(int(match[1]), entry.name, entry.read_text(encoding="utf-8")))
    for expected, migration in enumerate(found, start=1):
        if migration.number != expected:
            raise Failure(f"migration {migration.file_name} should have the number {expected:04d}")
    return found


def read_reference() -> str:
    """The text of sql/postgres/schema.sql."""
    return (files("sql") / "postgres" / "schema.sql").read_text(encoding="utf-8")


async def plan(connection: Connection, migrations: Sequence[Migration]) -> Plan:
    """What is to be done; changes nothing.

    Raises Failure when an applied file was edited, or when the database has a migration that this
    release does not know.
    """
    tables: int = await connection.fetchval(SQL.count_tables)
    if not await connection.fetchval(SQL.has_history):
        return Plan((), tuple(migrations), tables)
    known = {migration.number: migration for migration in migrations}
    applied = []
    for row in await connection.fetch(SQL.read_history):
        migration = known.get(row["number"])
        if migration is None:
            raise Failure(
                f"the database has migration {row['name']}, which this release does not know: "
                "install the release that applied it, or a newer one"
            )
        if migration.checksum != row["checksum"]:
            raise Failure(
                f"{migration.file_name} was edited after it was applied: restore the file and put "
                "the change into a new migration"
            )
        applied.append(migration)
    pending = tuple(each for each in migrations if each.number > len(applied))
    return Plan(tuple(applied), pending, tables)


async def apply(
    connection: Connection, migrations: Sequence[Migration], reference: str
) -> list[Migration]:
    """Applies what is pending and verifies the result, all or nothing; returns what was applied.

    Idempotent, and safe to run twice at once: the second waits and finds nothing to do. Raises
    Failure naming the file or the objects; the database is then as it was.
    """
    async with connection.transaction():
        await connection.execute(SQL.lock_migrations, _MIGRATING_LOCK)
        await connection.execute(SQL.create_history)
        pending = (await plan(connection, migrations)).pending
        for migration in pending:
            await _apply_one(connection, migration)
        differing = [each for each in await differences(connection, reference) if not each.extra]
        if differing:
            shown = "; ".join(str(each) for each in differing[:_DIFFERENCES_SHOWN_MAX])
            more = len(differing) - _DIFFERENCES_SHOWN_MAX
            rest = f"; and {more} more" if more > 0 else ""
            raise Failure(f"rolled back, the schema would not be schema.sql's: {shown}{rest}")
    return list(pending)


async def _apply_one(connection: Connection, migration: Migration) -> None:
    try:
        await connection.execute(migration.sql)
    except asyncpg.LockNotAvailableError:
        raise Failure(
            f"rolled back, {migration.file_name} waits for a lock that others hold: "
            "stop the workers, or run it again when it is quiet"
        ) from None
    except asyncpg.PostgresError as error:
        raise Failure(f"rolled back, {migration.file_name} fails: {error}") from None
    await connection.execute(
        SQL.note_migration, migration.number, migration.file_name, migration.checksum
    )


async def differences(connection: Connection, reference: str) -> list[Difference]:
    """Every object that the schema in use has otherwise than `reference` says; empty when equal.

    Builds the reference in a schema of its own and takes that away again; the database is not
    changed.
    """
    current = await connection.fetchval(SQL.current_schema)
    found = await _describe(connection, current)
    async with connection.transaction():
        undo = connection.transaction()
        await undo.start()
        try:
            await connection.execute(SQL.open_reference)
            await connection.execute(SQL.enter_reference)
            await connection.execute(reference)
            wanted = await _describe(connection, "tollgate_reference")
        finally:
            await undo.rollback()
    names = sorted(found.keys() | wanted.keys())
    return [
        Difference(" ".join(name), found.get(name), wanted.get(name))
        for name in names
        if found.get(name) != wanted.get(name)
    ]


async def _describe(connection: Connection, schema: str) -> dict[tuple[str, str], str]:
    rows = await connection.fetch(SQL.describe_schema, schema)
    return {(row["kind"], row["name"]): row["definition"] or "" for row in rows}
