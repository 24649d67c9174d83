"""PostgreSQL as the routes use it: bounded waits, one effect per key, and balances for display."""

from collections.abc import AsyncIterator, Awaitable, Callable
from dataclasses import replace
from typing import Annotated, TypeVar

from fastapi import Depends, Request
from fastapi.responses import Response
from pydantic import BaseModel

from adapters.account_view import Profile, read_profile
from adapters.balance_cache import BalanceCache
from adapters.failures import Failure
from adapters.idempotency import Key, Reply, once
from adapters.metrics import Metrics
from adapters.patience import Patience
from adapters.postgres import Connection, Pool
from api.problems import Problem
from core.holds import TierLimits

Result = TypeVar("Result")


class Database:
    """What a route may do with the ledger's database. One for each process."""

    def __init__(
        self,
        pool: Pool,
        patience: Patience,
        balances: BalanceCache,
        metrics: Metrics,
        limits: TierLimits,
    ) -> None:
        self._pool = pool
        self._patience = patience
        self._balances = balances
        self._metrics = metrics
        self._limits = limits

    async def read(self, work: Callable[[Connection], Awaitable[Result]]) -> Result:
        """Runs a read on a connection of its own. Raises Unavailable, and what the work does."""
        return await self._patience.within(self._on_a_connection(work))

    async def change(
        self,
        key: Key | None,
        account_id: str | None,
        work: Callable[[Connection], Awaitable[BaseModel]],
        *,
        status: int = 200,
    ) -> Response:
        """Runs a change in one transaction; the same key again gets the first answer.

        What the work raises undoes it, and keeps no answer. Raises KeyConflict and Unavailable.
        """

        async def answered(connection: Connection) -> str:
            return (await work(connection)).model_dump_json(by_alias=True)

        try:
            reply = await self._patience.within(self._once(key, answered))
        finally:
            if account_id is not None:
                self._balances.forget(account_id)
        headers = {"Idempotent-Replayed": "true"} if reply.repeated else None
        return Response(reply.text, status, headers, "application/json")

    async def profile(self, account_id: str) -> Profile | None:
        """The account for display, at most `balance_cache_seconds` old, with the cap that counts.

        Raises Unavailable.
        """

        async def fresh() -> Profile | None:
            found = await self.read(lambda connection: read_profile(connection, account_id))
            if found is None:
                return None
            cap_micro = self._limits.of(found.tier).cap_of(found.monthly_cap_micro)
            return replace(found, monthly_cap_micro=cap_micro)

        profile, hit = await self._balances.read(account_id, fresh)
        self._metrics.balance_read(hit=hit)
        return profile

    def forget(self, account_id: str) -> None:
        """The account has changed, or may have."""
        self._balances.forget(account_id)

    async def _once(self, key: Key | None, work: Callable[[Connection], Awaitable[str]]) -> Reply:
        """A refusal may be due to the same request with the same key, which won meanwhile."""
        try:
            return await once(self._pool, key, work)
        except (Failure, Problem):
            if key is None:
                raise
            return await once(self._pool, key, work)

    async def _on_a_connection(self, work: Callable[[Connection], Awaitable[Result]]) -> Result:
        async with self._pool.acquire() as connection:
            return await work(connection)


async def _database(request: Request) -> Database:  # async: FastAPI runs a `def` in a thread
    database: Database = request.app.state.database
    return database


UsedDatabase = Annotated[Database, Depends(_database)]


async def _changing(request: Request, database: UsedDatabase) -> AsyncIterator[None]:
    try:
        yield
    finally:
        database.forget(request.path_params["account_id"])


# For routes that change the account of their path by another way than `change`: what was kept for
# display is forgotten before the answer leaves.
CHANGES_ACCOUNT = Depends(_changing, scope="function")
