"""Connections for commands: what cannot be reached is one line that says what to do."""

import re
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from urllib.parse import urlsplit

import asyncpg

from adapters.failures import Failure
from adapters.postgres import Connection, connect
from adapters.settings import Settings


@asynccontextmanager
async def postgres(
    settings: Settings, application_name: str, *, unlimited: bool = False
) -> AsyncIterator[Connection]:
    """One connection to PostgreSQL for a command, closed afterwards.

    Raises Failure when the server does not answer, refuses, or lacks our tables; the block may
    raise whatever it does.
    """
    try:
        connection = await connect(settings, application_name=application_name, unlimited=unlimited)
    except (OSError, TimeoutError, asyncpg.PostgresError, asyncpg.InterfaceError) as error:
        raise Failure(_unreachable(settings, error)) from None
    try:
        yield connection
    except asyncpg.UndefinedTableError as error:
        raise Failure(f"{address(settings)}: {error}: run `tollgate migrate` first") from None
    finally:
        await connection.close(timeout=2)


def address(settings: Settings) -> str:
    """The server and database without user or password, for messages."""
    parts = urlsplit(settings.postgres.get_secret_value())
    hosts = parts.netloc.rpartition("@")[2] or "local socket"
    port = "" if re.search(r":[0-9]+$", hosts) else ":5432"
    return f"PostgreSQL {hosts}{port}{parts.path}"


def _unreachable(settings: Settings, error: Exception) -> str:
    if isinstance(error, asyncpg.InterfaceError):
        return f"TOLLGATE_POSTGRES is no address that PostgreSQL can be reached at: {error}"
    if isinstance(error, asyncpg.PostgresError):
        return f"{address(settings)} refuses: {error}; check TOLLGATE_POSTGRES"
    return (
        f"{address(settings)} does not answer ({type(error).__name__}): "
        "start it with `tollgate up`, or set TOLLGATE_POSTGRES"
    )
