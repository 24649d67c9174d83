"""Connections that are kept at hand, for work that is one statement and must not take long."""

from __future__ import annotations

import asyncio
from typing import Any

from asyncpg import Record

from adapters.patience import Patience, unavailable
from adapters.postgres import REPEATABLE, TRANSIENT, Connection, Pool


class AtHand:
    """Runs single statements within `seconds_max`. Safe to share by the requests of one loop.

    Taking a connection from the pool and giving it back costs as much as a short statement, and so
    does a task for each. So up to half of the pool's connections stay here between statements. One
    on which anything went wrong goes back to the pool, which ends or mends it; nobody waits for
    that, because a server that is frozen would keep the caller waiting.
    """

    def __init__(self, pool: Pool, seconds_max: float) -> None:
        self._pool = pool
        self._seconds_max = seconds_max
        self._patience = Patience(seconds_max)
        self._most = pool.get_max_size() // 2
        self._had = 0
        self._free: list[Connection] = []
        self._going_back: set[asyncio.Task[None]] = set()

    async def fetchrow(self, statement: str, *arguments: Any) -> Record | None:
        """The first row, or None. The statement is a transaction of its own.

        Raises Unavailable when it takes longer or trouble stops it; trouble that running it again
        may heal (`REPEATABLE`), and everything else that PostgreSQL says, is raised as it is.
        """
        connection = self._take()
        if connection is None:
            found = await self._patience.within(self._by_the_pool(statement, arguments))
            if isinstance(found, Exception):
                raise found
            return found
        try:
            row = await connection.fetchrow(statement, *arguments, timeout=self._seconds_max)
        except REPEATABLE:
            self._give_back(connection)
            raise
        except TRANSIENT as error:
            self._give_back(connection)
            raise unavailable(error) from error
        except BaseException:
            self._give_back(connection)
            raise
        self._free.append(connection)
        return row

    def _take(self) -> Connection | None:
        while self._free:
            connection = self._free.pop()
            if not connection.is_closed():
                return connection
            self._give_back(connection)
        return None

    def _give_back(self, connection: Connection) -> None:
        self._had -= 1
        task = asyncio.create_task(self._pool.release(connection))
        self._going_back.add(task)
        task.add_done_callback(self._gone)

    def _gone(self, task: asyncio.Task[None]) -> None:
        """What went wrong on its way back is the pool's to know; nobody else asks for it."""
        self._going_back.discard(task)
        if not task.cancelled():
            task.exception()

    async def _by_the_pool(
        self, statement: str, arguments: tuple[Any, ...]
    ) -> Record | Exception | None:
        """Returns what is repeatable instead of raising it: patience would take it for trouble."""
        connection = await self._pool.acquire()
        try:
            row = await connection.fetchrow(statement, *arguments)
        except REPEATABLE as error:
            await self._pool.release(connection)
            return error
        except BaseException:
            await self._pool.release(connection)
            raise
        if self._had < self._most:
            self._had += 1
            self._free.append(connection)
        else:
            await self._pool.release(connection)
        return row
