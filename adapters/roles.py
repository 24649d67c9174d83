"""PostgreSQL's roles with least rights: made and kept as sql/postgres/roles.sql says."""

from dataclasses import dataclass
from importlib.resources import files

import asyncpg

from adapters.failures import Failure
from adapters.postgres import Connection
from adapters.queries import load

SQL = load("migrations")
_EXISTS = "EXISTS"


@dataclass(frozen=True, slots=True)
class RolesReport:
    """What was made, given and taken back; a right as `role: VERB ON thing`."""

    created: list[str]
    granted: list[str]
    revoked: list[str]


async def uses_roles(connection: Connection) -> bool:
    """Whether this database was ever given its roles."""
    found: bool = await connection.fetchval(SQL.uses_roles)
    return found


async def ensure_roles(connection: Connection, *, dry_run: bool = False) -> RolesReport:
    """Makes the roles that are missing and gives each exactly its rights, all or nothing.

    Idempotent; with `dry_run` everything is undone after it is known. Raises Failure when whoever
    is connected may not.
    """
    text = (files("sql") / "postgres" / "roles.sql").read_text(encoding="utf-8")
    transaction = connection.transaction()
    await transaction.start()
    try:
        before = await _read(connection)
        await connection.execute(text)
        after = await _read(connection)
    except asyncpg.LockNotAvailableError:
        await transaction.rollback()
        raise Failure(
            "roles: the tables can not change hands while others use them: "
            "stop the workers, or run it again when it is quiet"
        ) from None
    except asyncpg.InsufficientPrivilegeError as error:
        await transaction.rollback()
        raise Failure(
            f"roles: {error}: the first time wants a superuser, or the owner of the database with "
            "CREATEROLE; later ones a member of tollgate_owner"
        ) from None
    except BaseException:
        await transaction.rollback()
        raise
    await (transaction.rollback() if dry_run else transaction.commit())
    return _compare(before, after)


async def _read(connection: Connection) -> set[tuple[str, ...]]:
    return {tuple(row) for row in await connection.fetch(SQL.read_rights)}


def _compare(before: set[tuple[str, ...]], after: set[tuple[str, ...]]) -> RolesReport:
    return RolesReport(
        created=sorted(row[0] for row in after - before if row[1] == _EXISTS),
        granted=sorted(_said(*row) for row in after - before if row[1] != _EXISTS),
        revoked=sorted(_said(*row) for row in before - after if row[1] != _EXISTS),
    )


def _said(role: str, verb: str, thing: str, column: str) -> str:
    return f"{role}: {verb}{f' ({column})' if column else ''} ON {thing}"
