"""One effect for each idempotency key, whatever is retried or sent twice at once."""

from collections.abc import Awaitable, Callable
from dataclasses import dataclass

from adapters.postgres import REPEATABLE, Connection, Pool
from adapters.queries import load

SQL = load("idempotency")
TRIES_MAX = 3


@dataclass(frozen=True, slots=True)
class Key:
    """An Idempotency-Key of one caller for one operation; `body_hash` is of the whole request."""

    caller: str
    key: str
    operation: str
    body_hash: bytes


@dataclass(frozen=True, slots=True)
class Reply:
    """What the operation answered, as text; `repeated` when it was answered before."""

    text: str
    repeated: bool


class KeyConflict(Exception):  # noqa: N818 - an answer of the gate, not an error of ours
    """The key was used by the same caller for another request; nothing was done."""


async def once(pool: Pool, key: Key | None, work: Callable[[Connection], Awaitable[str]]) -> Reply:
    """Runs `work` in one transaction and keeps its reply with the key; a second call gets it back.

    Of calls at the same moment one has an effect: the others are undone by the key's uniqueness,
    run again and find the reply. Raises KeyConflict, and whatever `work` and PostgreSQL raise.
    """
    for left in reversed(range(TRIES_MAX)):
        try:
            async with (
                pool.acquire() as connection,
                connection.transaction(isolation="read_committed"),
            ):
                return await _run(connection, key, work)
        except REPEATABLE:
            if not left:
                raise
    raise AssertionError("the last try returned or raised")


async def _run(
    connection: Connection, key: Key | None, work: Callable[[Connection], Awaitable[str]]
) -> Reply:
    if key is None:
        return Reply(await work(connection), repeated=False)
    earlier = await connection.fetchrow(SQL.find_reply, key.caller, key.key)
    if earlier is not None:
        if (earlier["operation"], earlier["body_hash"]) != (key.operation, key.body_hash):
            raise KeyConflict(key.key)
        return Reply(earlier["response"], repeated=True)
    text = await work(connection)
    await connection.execute(
        SQL.keep_reply, key.caller, key.key, key.operation, key.body_hash, text
    )
    return Reply(text, repeated=False)
