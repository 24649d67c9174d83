"""Idempotency keys of commands: what an operator runs twice with one key is done once."""

import hashlib
import json
import re
from collections.abc import Awaitable, Callable

import asyncpg

from adapters.failures import Failure
from adapters.idempotency import Reply
from adapters.postgres import Connection
from adapters.queries import load

SQL = load("idempotency")
CALLER = "cli"  # of the API's callers each has a role and a colon
_KEY = re.compile(r"[!-~]{1,200}")


async def once_by_command(
    connection: Connection,
    key: str | None,
    operation: str,
    arguments: tuple[object, ...],
    work: Callable[[], Awaitable[str]],
) -> Reply:
    """Runs `work` in one transaction and keeps its reply with the key; again, it is given back.

    Without a key it is run each time. Whoever runs the command, the key is one: a colleague's
    second try does nothing either. Raises Failure when the key is none, or stands for other
    arguments, and whatever `work` raises.
    """
    if key is None:
        async with connection.transaction(isolation="read_committed"):
            return Reply(await work(), repeated=False)
    if not _KEY.fullmatch(key):
        raise Failure("a key is of 1 to 200 printable characters without spaces")
    digest = hashlib.sha256(json.dumps(arguments).encode()).digest()
    try:
        return await _once(connection, key, operation, digest, work)
    except asyncpg.UniqueViolationError:
        # The same key at the same moment: that one committed, and this one finds its reply.
        return await _once(connection, key, operation, digest, work)


async def _once(
    connection: Connection,
    key: str,
    operation: str,
    digest: bytes,
    work: Callable[[], Awaitable[str]],
) -> Reply:
    async with connection.transaction(isolation="read_committed"):
        earlier = await connection.fetchrow(SQL.find_reply, CALLER, key)
        if earlier is not None:
            if (earlier["operation"], earlier["body_hash"]) != (operation, digest):
                raise Failure(f"the key {key!r} stands for another command: choose a new one")
            return Reply(earlier["response"], repeated=True)
        text = await work()
        await connection.execute(SQL.keep_reply, CALLER, key, operation, digest, text)
        return Reply(text, repeated=False)
