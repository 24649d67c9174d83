"""The Idempotency-Key header, as the gate takes it."""

import hashlib
from typing import Annotated

from fastapi import Depends, Header, Request

from adapters.idempotency import Key
from api.callers import AnyCaller

_Header = Annotated[
    str | None,
    Header(
        alias="Idempotency-Key",
        pattern=r"^[!-~]{1,200}$",
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
    operation = f"{request.method} {request.url.path}"
    digest = hashlib.sha256(await request.body()).digest()
    return Key(f"{caller.role}:{caller.subject}", idempotency_key, operation, digest)


IdempotencyKey = Annotated[Key | None, Depends(idempotency_key)]
