"""Connections to PostgreSQL, with a time limit on everything."""

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import TypeAlias

import asyncpg

from adapters.settings import Settings

Connection: TypeAlias = (
    "asyncpg.Connection[asyncpg.Record] | asyncpg.pool.PoolConnectionProxy[asyncpg.Record]"
)
Pool: TypeAlias = "asyncpg.Pool[asyncpg.Record]"

# What a retry may heal: the server is away, restarting, refusing, or chose us as a victim.
TRANSIENT: tuple[type[Exception], ...] = (
    OSError,
    TimeoutError,
    asyncpg.InterfaceError,
    asyncpg.InternalClientError,  # what COPY raises when the server dies under it
    asyncpg.PostgresConnectionError,
    asyncpg.exceptions.TransactionRollbackError,
    asyncpg.exceptions.UniqueViolationError,  # a claim appeared meanwhile: the next run sees it
    asyncpg.exceptions.OperatorInterventionError,
    asyncpg.exceptions.InsufficientResourcesError,
    asyncpg.exceptions.LockNotAvailableError,
    asyncpg.exceptions.IdleInTransactionSessionTimeoutError,
    asyncpg.exceptions.ReadOnlySQLTransactionError,
)

# Of these, what another transaction did meanwhile: nothing was changed, and the next run sees it.
REPEATABLE: tuple[type[Exception], ...] = (
    asyncpg.UniqueViolationError,
    asyncpg.DeadlockDetectedError,
    asyncpg.SerializationError,
)

# What running again can not heal: PostgreSQL refuses a value. Some record of the batch is to blame.
# COPY's encoder refuses by Python's own errors what a statement's arguments refuse by DataError.
POISON: tuple[type[Exception], ...] = (
    asyncpg.DataError,
    asyncpg.exceptions.DataError,
    asyncpg.exceptions.ProgramLimitExceededError,
    asyncpg.exceptions.RaiseError,
    asyncpg.CheckViolationError,
    asyncpg.NotNullViolationError,
    OverflowError,
    UnicodeEncodeError,
)

CONNECT_SECONDS_MAX = 5.0


def session_parameters(settings: Settings, application_name: str) -> dict[str, str]:
    """What every session says to PostgreSQL at its start: who it is, and its time limits.

    A frozen worker inside a transaction would hold its locks for ever without the idle limit
    (reliability notes, A2).
    """
    return {
        "application_name": f"tollgate-{application_name}",
        "statement_timeout": str(round(settings.statement_seconds_max * 1000)),
        "lock_timeout": str(round(settings.lock_seconds_max * 1000)),
        "idle_in_transaction_session_timeout": str(
            round(settings.idle_transaction_seconds_max * 1000)
        ),
        "tcp_user_timeout": str(round(settings.statement_seconds_max * 1000)),
        "timezone": "UTC",
        "jit": "off",
    }


@asynccontextmanager
async def open_pool(
    settings: Settings, *, application_name: str, size: int = 2, stateless: bool = False
) -> AsyncIterator[Pool]:
    """A pool of at most `size` connections that connects at first use and heals by itself.

    Every statement ends within `statement_seconds_max`, on the server and here (a server that
    does not answer at all is cut off by the client's own limit two seconds later). `stateless` says
    that no user leaves a setting, lock or cursor behind: then giving a connection back asks the
    server nothing.
    """
    pool = await asyncpg.create_pool(
        settings.postgres.get_secret_value(),
        min_size=0,
        max_size=size,
        timeout=CONNECT_SECONDS_MAX,
        command_timeout=settings.statement_seconds_max + 2,
        max_inactive_connection_lifetime=60,
        server_settings=session_parameters(settings, application_name),
        reset=_nothing if stateless else None,
    )
    try:
        yield pool
    finally:
        pool.terminate()


async def _nothing(_: Connection) -> None:
    """In place of a round trip that resets a session nobody changed."""


async def connect(
    settings: Settings,
    *,
    application_name: str,
    unlimited: bool = False,
    long_snapshot: bool = False,
) -> "asyncpg.Connection[asyncpg.Record]":
    """One connection; with `unlimited` no statement limit, for reports and migrations.

    Whoever is suspended in a transaction still gives its locks back after the idle limit. Only a
    `long_snapshot` may idle in one, for a reader that locks no row and asks another store between.
    """
    parameters = session_parameters(settings, application_name)
    if unlimited:
        parameters["statement_timeout"] = "0"
    if long_snapshot:
        parameters["idle_in_transaction_session_timeout"] = "0"
    return await asyncpg.connect(
        settings.postgres.get_secret_value(),
        timeout=CONNECT_SECONDS_MAX,
        command_timeout=None if unlimited else settings.statement_seconds_max + 2,
        server_settings=parameters,
    )
