"""API keys: made, shown once, kept as digests, revoked and rotated; each change is audited."""

import hashlib
import hmac
import re
import secrets
from collections.abc import Iterable
from dataclasses import dataclass
from datetime import datetime
from enum import StrEnum
from typing import Any

from adapters.audit_log import Act, note
from adapters.failures import Failure
from adapters.postgres import Connection
from adapters.queries import load

SQL = load("api_keys")
OVERLAP_SECONDS_MAX = 30 * 86_400
_CREDENTIAL = re.compile(r"tg_([0-9a-f]{16})_([0-9a-f]{64})")
_ROLES = frozenset({"user", "service", "admin"})
_NO_DIGEST = bytes(32)

Row = dict[str, Any]


class Scope(StrEnum):
    """What a key may be used for: one or more groups of routes."""

    GATE = "gate"
    USAGE = "usage"
    ACCOUNTS = "accounts"
    PURCHASES = "purchases"
    PROVIDER_KEYS = "provider-keys"
    ADMIN = "admin"


@dataclass(frozen=True, slots=True)
class NewKey:
    """A key to make. Raises Failure when it could not be used as it is.

    Only an admin's key may have the scope `admin`; only a user's key has an account, and must.
    """

    name: str
    role: str
    scopes: frozenset[Scope]
    actor: str
    account_id: str | None = None
    expires_at: datetime | None = None
    reason: str = ""

    def __post_init__(self) -> None:
        if not (0 < len(self.name) <= 100 and self.name.isprintable()):
            raise Failure("a key's name is 1 to 100 printable characters")
        if self.role not in _ROLES:
            raise Failure("a key's role is user, service or admin")
        if not self.scopes:
            raise Failure(f"a key needs a scope: {', '.join(Scope)}")
        if Scope.ADMIN in self.scopes and self.role != "admin":
            raise Failure("only a key of the role admin can have the scope admin")
        if (self.role == "user") != (self.account_id is not None):
            raise Failure("a key of the role user has an account, and no other key has one")


@dataclass(frozen=True, slots=True)
class IssuedKey:
    """A key at the only moment at which its credential exists outside of its owner."""

    key_id: str
    credential: str
    expires_at: datetime | None


@dataclass(frozen=True, slots=True)
class KnownKey:
    """Whose a credential is. `principal` is the first key of those that it succeeds, or itself."""

    key_id: str
    principal: str
    role: str
    scopes: frozenset[str]
    account_id: str | None


def parse_scopes(names: Iterable[str]) -> frozenset[Scope]:
    """The scopes of these names; raises Failure naming one that does not exist."""
    known = {scope.value: scope for scope in Scope}
    for name in names:
        if name not in known:
            raise Failure(f"no scope {name[:64]!r}: there are {', '.join(Scope)}")
    return frozenset(known[name] for name in names)


async def create_key(connection: Connection, wanted: NewKey) -> IssuedKey:
    """Makes a key and writes down who did. Raises Failure when its account does not exist."""
    async with connection.transaction():
        issued = await _issue(connection, wanted)
        after = {
            "name": wanted.name,
            "role": wanted.role,
            "scopes": sorted(wanted.scopes),
            "account_id": wanted.account_id,
            "expires_at": wanted.expires_at,
        }
        act = Act(wanted.actor, "api-key.create", issued.key_id, after=after, reason=wanted.reason)
        await note(connection, act)
    return issued


async def revoke_key(
    connection: Connection, key_id: str, *, actor: str, reason: str = ""
) -> datetime:
    """Ends a key at once: every API process refuses it within five seconds. Idempotent.

    Raises Failure when there is no such key.
    """
    async with connection.transaction():
        before = await _lock(connection, key_id)
        revoked_at: datetime = await connection.fetchval(SQL.revoke_key, key_id)
        if before["revoked_at"] is None:
            act = Act(
                actor, "api-key.revoke", key_id,
                before={"revoked_at": None}, after={"revoked_at": revoked_at}, reason=reason,
            )  # fmt: skip
            await note(connection, act)
    return revoked_at


async def rotate_key(
    connection: Connection, key_id: str, *, overlap_seconds: int, actor: str, reason: str = ""
) -> IssuedKey:
    """Makes a successor with the same rights; the old key ends after the overlap, not before.

    The successor acts as the same subject (`KnownKey.principal`) and keeps the old key's own end,
    when it had one. Raises Failure when there is no such key, or when it can not be used any more.
    """
    if not 0 <= overlap_seconds <= OVERLAP_SECONDS_MAX:
        raise Failure(f"an overlap is 0 to {OVERLAP_SECONDS_MAX} seconds")
    async with connection.transaction():
        old = await _lock(connection, key_id)
        if not old["live"]:
            raise Failure(f"the key {key_id} has ended: make a new one")
        successor = NewKey(
            name=old["name"],
            role=old["role"],
            scopes=parse_scopes(old["scopes"]),
            actor=actor,
            account_id=old["account_id"],
            expires_at=old["expires_at"],
        )
        issued = await _issue(connection, successor, old["principal"])
        ends_at = await connection.fetchval(SQL.end_key_in, key_id, overlap_seconds)
        act = Act(
            actor, "api-key.rotate", key_id,
            before={"expires_at": old["expires_at"]},
            after={"expires_at": ends_at, "successor": issued.key_id}, reason=reason,
        )  # fmt: skip
        await note(connection, act)
    return issued


async def list_keys(connection: Connection, *, usable: bool, keys_max: int) -> list[Row]:
    """The newest keys, without anything that could be used as one."""
    return [dict(row) for row in await connection.fetch(SQL.list_keys, usable, keys_max)]


def is_key(credential: str) -> bool:
    """Whether it looks like a key of ours at all."""
    return _CREDENTIAL.fullmatch(credential) is not None


async def find_caller(connection: Connection, credential: str) -> KnownKey | None:
    """Whose key it is, or None when it is nobody's, revoked or over. One read.

    The comparison takes the same time for every wrong secret, and is made for an unknown id too.
    """
    match = _CREDENTIAL.fullmatch(credential)
    if match is None:
        return None
    row = await connection.fetchrow(SQL.find_key, match[1])
    right = hmac.compare_digest(_digest(match[2]), row["digest"] if row else _NO_DIGEST)
    if row is None or not right or not row["live"]:
        return None
    return KnownKey(
        match[1], row["principal"], row["role"], frozenset(row["scopes"]), row["account_id"]
    )


async def _issue(connection: Connection, wanted: NewKey, principal: str | None = None) -> IssuedKey:
    key_id, secret = secrets.token_hex(8), secrets.token_hex(32)
    made = await connection.fetchval(
        SQL.add_key,
        key_id,
        _digest(secret),
        wanted.name,
        wanted.role,
        sorted(wanted.scopes),
        wanted.account_id,
        wanted.actor,
        wanted.expires_at,
        principal or key_id,
    )
    if made is None:
        raise Failure(f"there is no account {wanted.account_id!r}")
    return IssuedKey(key_id, f"tg_{key_id}_{secret}", wanted.expires_at)


async def _lock(connection: Connection, key_id: str) -> Row:
    row = await connection.fetchrow(SQL.lock_key, key_id)
    if row is None:
        raise Failure(f"no key {key_id[:64]!r}: see `tollgate api-key list`")
    return dict(row)


def _digest(secret: str) -> bytes:
    """One round is enough: the secret is 256 random bits, not a person's password."""
    return hashlib.sha256(secret.encode()).digest()
