"""The Idempotency-Key header, as the gate takes it."""

import hashlib
from typing import Annotated

from fastapi import Depends, Header, Request

from adapters.idempotency import Key
from api.callers import AnyCaller, Caller

KEY_PATTERN = r"^[!-~]{1,200}$"

_Header = Annotated[
    str | None,
    Header(
        alias="Idempotency-Key",
        pattern=KEY_PATTERN,
        description="the same key again gets the first reply; another request with it is a 409",
        examples=["3f0c1e1a-chat-42"],
    ),
]


async def idempotency_key(
    request: Request, caller: AnyCaller, idempotency_key: _Header = None
) -> Key | None:
    """The key with the caller that it belongs to and a hash of the whole request."""
    if idempotency_key is None:
        return None
    body = await request.body()
    return key_of(caller, idempotency_key, f"{request.method} {request.url.path}", body)


def key_of(caller: Caller, key: str, operation: str, body: bytes) -> Key:
    """The key of a caller's request; `operation` is its method and path."""
    return Key(_name(caller), key, operation, hashlib.sha256(body).digest())


def _name(caller: Caller) -> str:
    """One person may have several accounts, each with a token: a key is of one of them.

    No id of an account has a slash, so that two names are of two callers.
    """
    name = f"{caller.role}:{caller.subject}"
    return name if caller.account_id is None else f"{name}/{caller.account_id}"


IdempotencyKey = Annotated[Key | None, Depends(idempotency_key)]
