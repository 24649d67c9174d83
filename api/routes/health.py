"""Whether the API lives, and whether it can answer."""

import asyncio
from typing import Literal

from fastapi import APIRouter, Request, Response
from pydantic import BaseModel

from adapters.postgres import POISON, TRANSIENT, Pool
from adapters.queries import load

SQL = load("health")
router = APIRouter(tags=["health"])
DEPENDENCY_SECONDS_MAX = 0.8


class Dependency(BaseModel):
    """One thing that the API needs."""

    name: str
    status: Literal["ok", "down"]
    needed: bool


class Health(BaseModel):
    """The API and what it stands on. `ok` when everything that is needed answers."""

    status: Literal["ok", "degraded", "down"]
    dependencies: list[Dependency]


@router.get("/health")
@router.get("/api/health", include_in_schema=False)
async def health(request: Request, response: Response) -> Health:
    """The state of each dependency; 503 when one that is needed is down."""
    postgres = await _answers(request.app.state.pool)
    found = [Dependency(name="postgres", status="ok" if postgres else "down", needed=True)]
    down = [dependency for dependency in found if dependency.status == "down"]
    if any(dependency.needed for dependency in down):
        response.status_code = 503
        return Health(status="down", dependencies=found)
    return Health(status="degraded" if down else "ok", dependencies=found)


@router.get("/ready", include_in_schema=False)
async def ready(request: Request, response: Response) -> dict[str, bool]:
    """False, with 503, while requests can not be answered."""
    able = await _answers(request.app.state.pool)
    if not able:
        response.status_code = 503
    return {"ready": able}


async def _answers(pool: Pool) -> bool:
    async def ask() -> bool:
        async with pool.acquire() as connection:
            answer: bool = await connection.fetchval(SQL.writable)
            return answer

    task = asyncio.create_task(ask())
    done, _ = await asyncio.wait({task}, timeout=DEPENDENCY_SECONDS_MAX)
    if not done:
        task.cancel()
        return False
    try:
        return task.result()
    except (*TRANSIENT, *POISON):
        return False
