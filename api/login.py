"""A login for the local stack: a token for whoever asks. Not there unless it is switched on."""

from datetime import UTC, datetime, timedelta
from typing import Literal

import jwt
from fastapi import APIRouter, Request
from pydantic import BaseModel, Field

from adapters.failures import Failure
from adapters.settings import Settings
from api.callers import Role
from api.tokens import SYMMETRIC
from api.usage import Strict

LOOPBACK = frozenset({"127.0.0.1", "::1", "localhost"})
LIFE = timedelta(hours=1)
router = APIRouter(prefix="/api/v1", tags=["login"])


class LoginBody(Strict):
    """Who one wants to be."""

    account: str = Field(pattern=r"^[A-Za-z0-9_.:-]{1,128}$", examples=["acme"])
    role: Role = Role.USER


class LoginAnswer(BaseModel):
    """A token as OAuth 2 gives one."""

    access_token: str
    token_type: Literal["bearer"] = "bearer"  # noqa: S105 - the kind, not a secret
    expires_in_seconds: int


@router.post("/login")
async def login(request: Request, body: LoginBody) -> LoginAnswer:
    """A token for an hour, without a password. For the local stack only."""
    settings: Settings = request.app.state.settings
    claims = {
        "sub": body.account,
        "role": body.role.value,
        "iss": settings.jwt_issuer,
        "aud": settings.jwt_audience,
        "exp": datetime.now(UTC) + LIFE,
    }
    token = jwt.encode(
        claims, settings.jwt_secret.get_secret_value(), algorithm=settings.jwt_algorithm
    )
    return LoginAnswer(access_token=token, expires_in_seconds=int(LIFE.total_seconds()))


def check_login(settings: Settings) -> None:
    """Raises Failure when a login without a password could be reached from elsewhere."""
    if not settings.local_login:
        return
    if settings.api_host not in LOOPBACK:
        raise Failure(
            f"TOLLGATE_LOCAL_LOGIN gives tokens to anybody: not with TOLLGATE_API_HOST"
            f" {settings.api_host}, only with 127.0.0.1"
        )
    if settings.jwt_algorithm not in SYMMETRIC:
        raise Failure("TOLLGATE_LOCAL_LOGIN makes tokens with a secret: use HS256")
