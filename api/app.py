"""The HTTP API, wired: routes, errors, callers, and the resources that they share."""

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from importlib.metadata import version
from typing import Any

from fastapi import FastAPI

from adapters.failures import Failure
from adapters.gate import Gate, Rules
from adapters.postgres import open_pool
from adapters.settings import Settings
from api.api_keys import KeyAuthenticator
from api.problems import ProblemDocument, handle_problems
from api.routes import gate, health
from api.tokens import SYMMETRIC, TokenAuthenticator
from core.holds import Limits

SECRET_BYTES_MIN = 32
_ERRORS: dict[int | str, dict[str, Any]] = {
    status: {"model": ProblemDocument, "description": text}
    for status, text in (
        (401, "No valid bearer token"),
        (402, "Not enough credits"),
        (403, "Not allowed"),
        (404, "Not found, or not yours"),
        (409, "In conflict with what is there"),
        (413, "The body is too large"),
        (422, "The request is not valid"),
        (429, "Too many"),
        (503, "The answer could not be established"),
    )
}


def create_app(settings: Settings) -> FastAPI:
    """The application; its resources open and close with its lifespan.

    Raises Failure when no way to verify tokens is configured, or a weak one.
    """
    _check(settings)

    @asynccontextmanager
    async def lifespan(app: FastAPI) -> AsyncIterator[None]:
        impatient = settings.model_copy(update={"statement_seconds_max": settings.gate_seconds_max})
        async with open_pool(impatient, application_name="api", size=settings.api_pool) as pool:
            app.state.pool = pool
            app.state.gate = Gate(pool, _rules(settings))
            keys = KeyAuthenticator(pool, settings.gate_seconds_max)
            app.state.authenticators = [TokenAuthenticator(settings), keys]
            yield

    app = FastAPI(
        title="Tollgate",
        version=version("tollgate"),
        summary="Credits, holds and prices for metered work",
        lifespan=lifespan,
        docs_url="/docs" if settings.api_docs else None,
        redoc_url=None,
        responses=_ERRORS,
        separate_input_output_schemas=False,
    )
    app.state.settings = settings
    handle_problems(app)
    for routes in (gate, health):
        app.include_router(routes.router)
    return app


def _check(settings: Settings) -> None:
    secret = settings.jwt_secret.get_secret_value()
    if settings.jwt_algorithm in SYMMETRIC:
        if len(secret.encode()) < SECRET_BYTES_MIN:
            raise Failure(f"TOLLGATE_JWT_SECRET needs at least {SECRET_BYTES_MIN} random bytes")
    elif not settings.jwt_jwks_url:
        raise Failure(f"{settings.jwt_algorithm} tokens need TOLLGATE_JWT_JWKS_URL")


def _rules(settings: Settings) -> Rules:
    limits = Limits(settings.minimum_credits_micro, settings.open_holds_max)
    return Rules(
        limits, settings.gate_seconds_max, settings.hold_seconds, settings.hold_seconds_max
    )
