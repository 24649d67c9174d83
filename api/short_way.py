"""The short way of the gate's two busiest routes, for requests that are ordinary in every respect.

FastAPI puts a request's dependencies together anew each time, which costs more than the gate's
own work. Here a check or a hold is answered by the same functions as the route's, without that.
Whatever is not ordinary (a caller who was not verified a moment ago, a body that is not valid, a
header more than once) goes on to the route as if this were not here, before anything was done.
"""

import json
import re
from collections.abc import Awaitable, Callable, Iterable
from dataclasses import dataclass
from typing import Any

from fastapi.routing import APIRoute
from pydantic import BaseModel, ValidationError
from starlette.datastructures import State
from starlette.requests import Request
from starlette.routing import BaseRoute
from starlette.types import ASGIApp, Receive, Scope, Send

from adapters.idempotency import Key
from api.callers import Caller, Role
from api.keys import KEY_PATTERN, key_of
from api.limits import BODY
from api.routes.gate import CheckRequest, HoldBody, checked, held
from api.scopes import opens
from schemas.names import ACCOUNT_ID_PATTERN

_KEY = re.compile(KEY_PATTERN)
_PATH = re.compile(rf"/api/v1/accounts/({ACCOUNT_ID_PATTERN.strip('^$')})(/check|/holds)")
_READ = frozenset(
    {b"authorization", b"content-type", b"idempotency-key", b"content-length", b"host"}
)
# What would change how the body is read, or by whom it is answered.
_EXTRAORDINARY = frozenset({b"upgrade", b"expect", b"x-http-method-override"})

Answering = Callable[[State, Caller, str, Key | None, Any], Awaitable[BaseModel]]


@dataclass(frozen=True, slots=True)
class _Operation:
    """One of the two routes: what its body is, what it answers, and with which status."""

    route: APIRoute
    body: type[BaseModel]
    answer: Answering
    status: int


@dataclass(frozen=True, slots=True)
class _Ordinary:
    """A request that is found to be ordinary, as far as its head goes."""

    operation: _Operation
    caller: Caller
    account: str
    key: str | None


async def _check(
    state: State, _: Caller, account: str, __: Key | None, body: CheckRequest
) -> BaseModel:
    return await checked(state.gate, account, body)


async def _hold(
    state: State, caller: Caller, account: str, key: Key | None, body: HoldBody
) -> BaseModel:
    try:
        return await held(state.gate, caller, account, key, body)
    finally:
        state.database.forget(account)


class ShortWay:
    """Middleware, behind the limits of requests: they have read the body."""

    def __init__(self, app: ASGIApp, routes: Iterable[BaseRoute]) -> None:
        by_name = {route.name: route for route in routes if isinstance(route, APIRoute)}
        self._app = app
        self._operations = {
            "/check": _Operation(by_name["check"], CheckRequest, _check, 200),
            "/holds": _Operation(by_name["hold"], HoldBody, _hold, 201),
        }

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answers an ordinary check or hold; everything else passes unchanged."""
        ordinary = self._ordinary(scope) if scope["type"] == "http" else None
        body = None if ordinary is None else _valid(ordinary.operation.body, scope[BODY])
        if ordinary is None or body is None:
            await self._app(scope, receive, send)
            return
        operation, state = ordinary.operation, scope["app"].state
        scope["route"] = operation.route
        key = None
        if ordinary.key is not None:
            key = key_of(ordinary.caller, ordinary.key, f"POST {scope['path']}", scope[BODY])
        try:
            answer = await operation.answer(state, ordinary.caller, ordinary.account, key, body)
        except Exception as error:  # noqa: BLE001 - raised again unless it is one of our answers
            await _refuse(error, scope, receive, send)
            return
        await _send(answer.__pydantic_serializer__.to_json(answer), operation.status, send)

    def _ordinary(self, scope: Scope) -> _Ordinary | None:
        found = _PATH.fullmatch(scope["path"])
        if found is None or scope["method"] != "POST" or scope["query_string"]:
            return None
        headers = _headers(scope["headers"])
        if headers is None or headers.get(b"content-type") != b"application/json":
            return None
        scheme, _, credential = headers.get(b"authorization", b"").decode("latin-1").partition(" ")
        caller = scope["app"].state.remembered.find(credential) if scheme == "Bearer" else None
        operation = self._operations[found[2]]
        if caller is None or not _may(caller, found[1], operation):
            return None
        sent = headers.get(b"idempotency-key")
        key = None if sent is None else sent.decode("latin-1")
        if key is not None and _KEY.fullmatch(key) is None:
            return None
        return _Ordinary(operation, caller, found[1], key)


def _may(caller: Caller, account: str, operation: _Operation) -> bool:
    if caller.role is Role.USER and caller.account_id != account:
        return False
    return opens(caller.scopes, operation.route.tags)


def _headers(headers: Iterable[tuple[bytes, bytes]]) -> dict[bytes, bytes] | None:
    """Those that count, by name; None when one of them is there twice, or one asks for more."""
    found: dict[bytes, bytes] = {}
    for name, value in headers:
        if name in _EXTRAORDINARY or (name in _READ and name in found):
            return None
        found[name] = value
    return found


def _valid(kind: type[BaseModel], body: bytes) -> BaseModel | None:
    """The body, read as FastAPI reads it; None when it would be refused: the route says why."""
    try:
        return kind.model_validate(json.loads(body))
    except (ValidationError, ValueError, RecursionError):
        return None


async def _refuse(error: Exception, scope: Scope, receive: Receive, send: Send) -> None:
    """The answer that the application has for the error; raises it when there is none."""
    handlers = scope["app"].exception_handlers
    kind = next((kind for kind in type(error).__mro__ if kind in handlers), None)
    if kind is None:
        raise error
    response = await handlers[kind](Request(scope, receive), error)
    await response(scope, receive, send)


async def _send(body: bytes, status: int, send: Send) -> None:
    headers = [(b"content-length", b"%d" % len(body)), (b"content-type", b"application/json")]
    await send({"type": "http.response.start", "status": status, "headers": headers})
    await send({"type": "http.response.body", "body": body})
