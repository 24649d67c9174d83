"""Whether the API lives, and whether it can answer."""

import asyncio
import time
from collections.abc import Awaitable, Callable
from contextlib import suppress
from typing import Annotated, Any, Literal

from fastapi import APIRouter, Depends, Request, Response
from pydantic import BaseModel, Field

from adapters.dependencies import clickhouse_answers, kafka_answers
from adapters.failures import Failure
from adapters.gate_prices import SharedPrices
from adapters.patience import Patience, Unavailable
from adapters.postgres import Connection, Pool
from adapters.queries import load
from adapters.settings import Settings

SQL = load("health")
router = APIRouter(tags=["health"])
DEPENDENCY_SECONDS_MAX = 0.8
KEPT_SECONDS = 2.0


class Dependency(BaseModel):
    """One thing that the API stands on. Requests need PostgreSQL; the pipeline needs the others."""

    name: str = Field(examples=["postgres"])
    status: Literal["ok", "down"]
    needed: bool


class Health(BaseModel):
    """The API and what it stands on. `ok` when everything that is needed answers."""

    status: Literal["ok", "degraded", "down"]
    dependencies: list[Dependency]


DOWN: dict[int | str, dict[str, Any]] = {503: {"model": Health, "description": "It can not answer"}}


class Ready(BaseModel):
    """Whether requests can be answered now."""

    ready: bool


class Dependencies:
    """Asks each dependency; nobody's curiosity is a load, because an answer holds two seconds."""

    def __init__(self, pool: Pool, settings: Settings, prices: SharedPrices) -> None:
        self._pool = pool
        self._prices = prices
        self._patience = Patience(DEPENDENCY_SECONDS_MAX)
        self._postgres = _Asked(self._writable)
        self._others = {
            "kafka": _Asked(lambda: kafka_answers(settings, DEPENDENCY_SECONDS_MAX)),
            "clickhouse": _Asked(lambda: clickhouse_answers(settings, DEPENDENCY_SECONDS_MAX)),
        }

    async def ready(self) -> bool:
        """Whether PostgreSQL takes writes and the prices are read; that is waited for a moment."""
        if not await self.writable():
            return False
        if not self._prices.ready:
            with suppress(Unavailable, Failure):
                await self._prices.read()
        return self._prices.ready

    async def writable(self) -> bool:
        """Whether PostgreSQL takes writes."""
        return await self._postgres.answer()

    async def states(self) -> list[Dependency]:
        """Every dependency, PostgreSQL first; all are asked at once."""
        postgres, *others = await asyncio.gather(
            self.writable(), *(asked.answer() for asked in self._others.values())
        )
        return [
            Dependency(name="postgres", status="ok" if postgres else "down", needed=True),
            *(
                Dependency(name=name, status="ok" if ok else "down", needed=False)
                for name, ok in zip(self._others, others, strict=True)
            ),
        ]

    async def _writable(self) -> bool:
        async def ask() -> bool:
            async with self._pool.acquire() as connection:
                return await _takes_writes(connection)

        try:
            return await self._patience.within(ask())
        except Unavailable:
            return False


class _Asked:
    """An answer that is kept for a moment; those who ask meanwhile wait for the same one."""

    def __init__(self, ask: Callable[[], Awaitable[bool]]) -> None:
        self._ask = ask
        self._asking = asyncio.Lock()
        self._kept: tuple[float, bool] | None = None

    async def answer(self) -> bool:
        async with self._asking:
            if self._kept is None or self._kept[0] < time.monotonic():
                found = await self._ask()
                self._kept = (time.monotonic() + KEPT_SECONDS, found)
            return self._kept[1]


async def _dependencies(request: Request) -> Dependencies:  # async: not in a thread
    found: Dependencies = request.app.state.dependencies
    return found


Asked = Annotated[Dependencies, Depends(_dependencies)]


@router.get("/health", responses=DOWN)
async def health(response: Response, dependencies: Asked) -> Health:
    """The state of each dependency; 503 when one that is needed is down."""
    found = await dependencies.states()
    down = [dependency for dependency in found if dependency.status == "down"]
    if any(dependency.needed for dependency in down):
        response.status_code = 503
        return Health(status="down", dependencies=found)
    return Health(status="degraded" if down else "ok", dependencies=found)


@router.get("/ready", responses={503: {"model": Ready}})
async def ready(response: Response, dependencies: Asked) -> Ready:
    """False, with 503, while requests can not be answered."""
    able = await dependencies.ready()
    if not able:
        response.status_code = 503
    return Ready(ready=able)


async def _takes_writes(connection: Connection) -> bool:
    answer: bool = await connection.fetchval(SQL.writable)
    return answer
