"""Who calls, and what that caller may reach."""

from dataclasses import dataclass
from enum import StrEnum
from typing import Annotated, Protocol

from fastapi import Depends, Path, Request
from fastapi.security import HTTPBearer
from fastapi.security.http import HTTPAuthorizationCredentials

from api.problems import Kind, Problem, not_found
from api.scopes import opens
from schemas.names import ACCOUNT_ID_PATTERN

AccountId = Annotated[
    str, Path(pattern=ACCOUNT_ID_PATTERN, examples=["acme"], description="the account")
]


class Role(StrEnum):
    """What a caller is: a person with one account, an app that works for many, an admin."""

    USER = "user"
    SERVICE = "service"
    ADMIN = "admin"


@dataclass(frozen=True, slots=True)
class Caller:
    """An authenticated caller. `account_id` is set for users only: the one account they reach.

    `scopes` limit an API key to groups of routes; None: no limit beside the role's. `credential` is
    the API key that was used: one that was rotated has another, and is the same subject.
    """

    subject: str
    role: Role
    account_id: str | None = None
    scopes: frozenset[str] | None = None
    credential: str = ""

    @property
    def signer(self) -> str:
        """Who acts, as the audit log names it: the very key, or the subject."""
        return self.credential or self.subject


class Authenticator(Protocol):
    """Turns a bearer credential into a caller."""

    async def authenticate(self, credential: str) -> Caller | None:
        """The caller, or None for a credential that is not valid. Raises Unavailable."""


_bearer = HTTPBearer(auto_error=False, description="a JWT, or an API key of a service")


def _unauthenticated() -> Problem:
    return Problem(
        401, Kind.UNAUTHENTICATED, "A valid bearer token is needed",
        headers={"WWW-Authenticate": "Bearer"},
    )  # fmt: skip


async def current_caller(
    request: Request, bearer: Annotated[HTTPAuthorizationCredentials | None, Depends(_bearer)]
) -> Caller:
    """The caller of this request, asked of each authenticator in turn.

    401 without one; 403 for an API key whose scopes do not open the route.
    """
    if bearer is None:
        raise _unauthenticated()
    authenticators: list[Authenticator] = request.app.state.authenticators
    for authenticator in authenticators:
        caller = await authenticator.authenticate(bearer.credentials)
        if caller is not None:
            if not opens(caller.scopes, request.scope["route"].tags):
                raise Problem(403, Kind.FORBIDDEN, "The key has no scope for this")
            return caller
    raise _unauthenticated()


AnyCaller = Annotated[Caller, Depends(current_caller)]


async def admin_caller(caller: AnyCaller) -> Caller:
    """An admin, or 403."""
    if caller.role is not Role.ADMIN:
        raise Problem(403, Kind.FORBIDDEN, "Only an admin may do this")
    return caller


AdminCaller = Annotated[Caller, Depends(admin_caller)]


def reachable(caller: Caller, account_id: str) -> str:
    """The account if the caller may reach it; for a user any other one is not found."""
    if caller.role is Role.USER and caller.account_id != account_id:
        raise not_found()
    return account_id


async def reachable_account(caller: AnyCaller, account_id: AccountId) -> str:
    """The account of the path, when it is the caller's to reach."""
    return reachable(caller, account_id)


ReachableAccount = Annotated[str, Depends(reachable_account)]
