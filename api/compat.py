"""What the paths of other credit services share: whose account is meant, and answers of 400."""

from collections.abc import Callable, Coroutine
from typing import Any

from fastapi import Request
from fastapi.exceptions import RequestValidationError
from fastapi.responses import Response
from fastapi.routing import APIRoute

from adapters.account_view import read_profile
from adapters.accounts import Granted, GrantRequest
from adapters.admin_acts import Admin, Terms, open_account
from adapters.dual_control import give_or_propose, policy_of
from adapters.postgres import Connection
from adapters.proposals import Proposal
from adapters.settings import Settings
from api.callers import Caller, reachable
from api.problems import Kind, Problem, invalid
from api.routes.admin import welcome_of


class BadRequestRoute(APIRoute):
    """A route that answers what is not valid with 400 instead of 422."""

    def get_route_handler(self) -> Callable[[Request], Coroutine[Any, Any, Response]]:
        """The handler, with the one difference."""
        handle = super().get_route_handler()

        async def bad_request(request: Request) -> Response:
            try:
                return await handle(request)
            except RequestValidationError as error:
                return invalid(error, 400)

        return bad_request


def whose(caller: Caller, named: str | None) -> str:
    """The account that is meant: a user's own, or the one that others name.

    Raises Problem: 404 for a user who names another one, 422 for others who name none.
    """
    if named is not None:
        return reachable(caller, named)
    if caller.account_id is None:
        raise Problem(422, Kind.INVALID, "Name the account: your token is not of one")
    return caller.account_id


async def allocate_to_anyone(
    connection: Connection, request: GrantRequest, settings: Settings, caller: Caller, admin: Admin
) -> Granted | Proposal:
    """Gives a grant, or proposes it when it is too large for one admin; an account that is not
    there yet is created first, with its welcome credits.

    In the caller's transaction. Two at once that create it: one fails with 409, a repeat succeeds.
    """
    if await read_profile(connection, request.account_id) is None:
        welcome = welcome_of(settings, request.account_id, caller)
        terms = Terms(settings.default_tier, settings.default_demo)
        await open_account(connection, request.account_id, terms, welcome, admin)
    return await give_or_propose(connection, request, admin, policy_of(settings))
