"""The HTTP API, wired: routes, errors, callers, and the resources that they share."""

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from importlib.metadata import version
from typing import Any

from fastapi import FastAPI

from adapters.balance_cache import BalanceCache
from adapters.event_publisher import open_publisher
from adapters.failures import Failure
from adapters.gate import Gate, Rules
from adapters.metrics import Metrics
from adapters.patience import Patience
from adapters.postgres import open_pool
from adapters.provider_keys import Vault
from adapters.settings import Settings
from adapters.tier_limits import tier_limits
from api import login
from api.api_keys import KeyAuthenticator
from api.database import Database
from api.limits import limit_requests
from api.measured import Measured
from api.openapi import describe
from api.problems import ProblemDocument, handle_problems
from api.remembered import Remembered
from api.routes import (
    accounts,
    admin,
    compat,
    compat_camel,
    compat_refresh,
    coupons,
    gate,
    health,
    ingest,
    me,
    proposals,
    provider_keys,
    purchases,
    refreshes,
    sessions,
)
from api.short_way import ShortWay
from api.tokens import SYMMETRIC, TokenAuthenticator

SECRET_BYTES_MIN = 32
ROUTES = (
    *(gate, sessions, me, accounts, purchases, provider_keys, ingest),
    *(admin, proposals, coupons, refreshes, health, compat, compat_camel, compat_refresh),
)
_ERRORS: dict[int | str, dict[str, Any]] = {
    status: {"model": ProblemDocument, "description": text}
    for status, text in (
        (400, "The request can not be read"),
        (401, "No valid bearer token"),
        (402, "Not enough credits"),
        (403, "Not allowed"),
        (404, "Not found, or not yours"),
        (408, "The body came too slowly"),
        (409, "In conflict with what is there"),
        (413, "The body is too large"),
        (415, "The body is not of a kind that is taken"),
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
        size = settings.api_pool
        async with (
            open_pool(impatient, application_name="api", size=size, stateless=True) as pool,
            open_publisher(settings) as publisher,
        ):
            app.state.pool = pool
            app.state.publisher = publisher
            app.state.gate = Gate(pool, _rules(settings))
            app.state.prices = app.state.gate.prices
            app.state.database = Database(
                pool,
                Patience(settings.gate_seconds_max),
                BalanceCache(settings.balance_cache_seconds),
                app.state.metrics,
                tier_limits(settings),
            )
            app.state.dependencies = health.Dependencies(pool, settings, app.state.prices)
            remembered = Remembered()
            keys = KeyAuthenticator(pool, settings.gate_seconds_max, remembered)
            app.state.remembered = remembered
            app.state.authenticators = [TokenAuthenticator(settings, remembered), keys]
            app.state.prices.begin()
            yield
            await app.state.prices.close()

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
    app.state.metrics = Metrics("api")
    app.state.vault = Vault(settings.provider_key_secrets)
    handle_problems(app)
    app.add_middleware(ShortWay, routes=gate.router.routes)
    limit_requests(app, settings)
    app.add_middleware(Measured, metrics=app.state.metrics)
    for routes in ROUTES:
        app.include_router(routes.router)
    if settings.local_login:
        app.include_router(login.router)
    describe(app)
    return app


def _check(settings: Settings) -> None:
    login.check_login(settings)
    secret = settings.jwt_secret.get_secret_value()
    if settings.jwt_algorithm in SYMMETRIC:
        if len(secret.encode()) < SECRET_BYTES_MIN:
            raise Failure(f"TOLLGATE_JWT_SECRET needs at least {SECRET_BYTES_MIN} random bytes")
    elif not settings.jwt_jwks_url:
        raise Failure(f"{settings.jwt_algorithm} tokens need TOLLGATE_JWT_JWKS_URL")


def _rules(settings: Settings) -> Rules:
    limits = tier_limits(settings)
    return Rules(
        limits.deployment,
        settings.gate_seconds_max,
        settings.hold_seconds,
        settings.hold_seconds_max,
        limits.tiers,
    )
