"""Connections to PostgreSQL, with a time limit on everything."""

import asyncio
import socket
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass
from typing import Any, TypeAlias

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


@dataclass(frozen=True, slots=True)
class Keepalive:
    """After how much silence an end asks whether the other one is there, how often, how many times.
    The operating system's default is hours: so long a vanished client kept its locks.
    """

    idle_seconds: int
    interval_seconds: int
    count: int

    @property
    def seconds(self) -> int:
        """How long an end that is gone is taken for one that has nothing to say."""
        return self.idle_seconds + self.interval_seconds * self.count


KEEPALIVE = Keepalive(idle_seconds=30, interval_seconds=10, count=3)
_ABANDONED_MS = 10_000  # a statement without limit ends so soon after its client


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
        "tcp_keepalives_idle": str(KEEPALIVE.idle_seconds),
        "tcp_keepalives_interval": str(KEEPALIVE.interval_seconds),
        "tcp_keepalives_count": str(KEEPALIVE.count),
        "timezone": "UTC",
        "jit": "off",
    }


class _Watched(asyncpg.Connection):  # type: ignore[misc]  # asyncpg is not typed
    """A connection whose own end sees that the server has vanished, also while it waits for rows
    without a time limit.
    """

    def __init__(self, protocol: Any, transport: asyncio.Transport, *rest: Any) -> None:
        super().__init__(protocol, transport, *rest)
        line = transport.get_extra_info("socket")
        if line.family == socket.AF_UNIX:
            return
        line.setsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1)
        for name, value in (
            ("TCP_KEEPIDLE", KEEPALIVE.idle_seconds),
            ("TCP_KEEPINTVL", KEEPALIVE.interval_seconds),
            ("TCP_KEEPCNT", KEEPALIVE.count),
            ("TCP_USER_TIMEOUT", KEEPALIVE.seconds * 1000),
        ):
            if hasattr(socket, name):  # not every system has each
                line.setsockopt(socket.IPPROTO_TCP, getattr(socket, name), value)


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
        connection_class=_Watched,
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
        parameters["client_connection_check_interval"] = str(_ABANDONED_MS)
    if long_snapshot:
        parameters["idle_in_transaction_session_timeout"] = "0"
    return await asyncpg.connect(
        settings.postgres.get_secret_value(),
        timeout=CONNECT_SECONDS_MAX,
        command_timeout=None if unlimited else settings.statement_seconds_max + 2,
        server_settings=parameters,
        connection_class=_Watched,
    )
