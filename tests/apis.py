"""The API as a real server in the test's loop, and callers for it."""

import asyncio
import contextlib
import socket
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from datetime import UTC, datetime, timedelta
from typing import Any

import httpx2
import jwt
import uvicorn
from cryptography.fernet import Fernet
from pydantic import SecretStr

from adapters.metrics import Metrics
from adapters.settings import Settings
from api.server import configure

SECRET = "of this test run, and long enough for HS256"  # noqa: S105 - guards nothing


def with_tokens(settings: Settings, **changes: object) -> Settings:
    """Settings of an API that verifies tokens of `token`, patient as a busy machine asks."""
    return settings.model_copy(
        update={"jwt_secret": SecretStr(SECRET), "gate_seconds_max": 15.0, **changes}
    )


def everything_on(settings: Settings) -> Settings:
    """Settings under which every route is there, and none leads out of the machine."""
    return with_tokens(
        settings,
        local_login=True,
        provider_key_secrets=[SecretStr(Fernet.generate_key().decode())],
        openrouter_base_url="http://127.0.0.1:1",
        openrouter_seconds_max=0.2,
    )


def token(subject: str, role: str = "user", **claims: Any) -> str:
    """A token that is valid for five minutes, unless `claims` say otherwise."""
    now = datetime.now(UTC)
    standard = {"sub": subject, "role": role, "iss": "tollgate", "aud": "tollgate", "exp": now}
    standard["exp"] = now + timedelta(minutes=5)
    return jwt.encode({**standard, **claims}, SECRET, algorithm="HS256")


_METRICS: dict[str, Metrics] = {}


def figures(address: str) -> str:
    """What the API there would say on the port of the probes."""
    return _METRICS[address].text().decode()


@asynccontextmanager
async def serve(settings: Settings) -> AsyncIterator[str]:
    """Runs the API on a free port; yields its address."""
    listening = socket.create_server(("127.0.0.1", 0))
    config = configure(settings)
    server = uvicorn.Server(config)
    address = f"http://127.0.0.1:{listening.getsockname()[1]}"
    _METRICS[address] = config.app.state.metrics  # type: ignore[union-attr]
    server.install_signal_handlers = lambda: None  # type: ignore[attr-defined]
    task = asyncio.create_task(server.serve(sockets=[listening]))
    try:
        while not server.started:
            if task.done():
                task.result()
            await asyncio.sleep(0.01)
        yield address
    finally:
        del _METRICS[address]
        server.should_exit = True
        with contextlib.suppress(asyncio.CancelledError):
            await task
        listening.close()


@asynccontextmanager
async def client(
    address: str, subject: str = "", role: str = "user", **claims: Any
) -> AsyncIterator[httpx2.AsyncClient]:
    """A client with a token of its own; without a subject it has none."""
    headers = {"Authorization": f"Bearer {token(subject, role, **claims)}"} if subject else {}
    async with httpx2.AsyncClient(base_url=address, headers=headers, timeout=20) as made:
        yield made


@asynccontextmanager
async def keyed(address: str, credential: str) -> AsyncIterator[httpx2.AsyncClient]:
    """A client with this credential, whatever it is."""
    headers = {"Authorization": f"Bearer {credential}"}
    async with httpx2.AsyncClient(base_url=address, headers=headers, timeout=20) as made:
        yield made
