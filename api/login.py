"""A login for the local stack: a token for whoever asks. Not there unless it is switched on."""

from datetime import UTC, datetime, timedelta
from typing import Annotated, Literal

import jwt
from fastapi import APIRouter, Request
from pydantic import BaseModel, Field, SecretStr, model_validator

from adapters.failures import Failure
from adapters.settings import Settings
from api.callers import Role
from api.fields import AccountName
from api.tokens import SYMMETRIC
from api.usage import Strict

LOOPBACK = frozenset({"127.0.0.1", "::1", "localhost"})
LIFE = timedelta(hours=1)
router = APIRouter()


class LoginBody(Strict):
    """Who one wants to be."""

    account: AccountName
    role: Role = Role.USER


class AuthLoginBody(Strict):
    """Who one wants to be, as `username` or as `email`. There are no passwords to compare with."""

    username: AccountName | None = None
    email: AccountName | None = None
    password: Annotated[SecretStr, Field(max_length=1_000)] | None = None
    role: Role = Role.USER

    @model_validator(mode="after")
    def _one_of_both(self) -> "AuthLoginBody":
        if (self.username is None) == (self.email is None):
            raise ValueError("give either `username` or `email`")
        return self


class LoginAnswer(BaseModel):
    """A token as OAuth 2 gives one."""

    access_token: str
    token_type: Literal["bearer"] = "bearer"  # noqa: S105 - the kind, not a secret
    expires_in_seconds: int


class AuthLoginAnswer(BaseModel):
    """The token."""

    token: str
    role: Role


@router.post("/api/v1/login", tags=["login"])
async def login(request: Request, body: LoginBody) -> LoginAnswer:
    """A token for an hour, without a password. For the local stack only."""
    token = _token(request, body.account, body.role)
    return LoginAnswer(access_token=token, expires_in_seconds=int(LIFE.total_seconds()))


@router.post("/api/auth/login", tags=["login", "compatible"])
async def auth_login(request: Request, body: AuthLoginBody) -> AuthLoginAnswer:
    """As /api/v1/login. A password is taken and not looked at. For the local stack only."""
    account = body.username or body.email
    assert account is not None  # noqa: S101 - the validator
    return AuthLoginAnswer(token=_token(request, account, body.role), role=body.role)


def _token(request: Request, account: str, role: Role) -> str:
    settings: Settings = request.app.state.settings
    claims = {
        "sub": account,
        "role": role.value,
        "iss": settings.jwt_issuer,
        "aud": settings.jwt_audience,
        "exp": datetime.now(UTC) + LIFE,
    }
    return jwt.encode(
        claims, settings.jwt_secret.get_secret_value(), algorithm=settings.jwt_algorithm
    )


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
