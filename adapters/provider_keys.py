"""Accounts' own keys at providers: encrypted at rest, shown by their last four characters only."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from datetime import datetime

from cryptography.fernet import Fernet, InvalidToken, MultiFernet
from pydantic import SecretStr

from adapters.audit_log import Act, note
from adapters.failures import Failure
from adapters.openrouter import RemoteBalance
from adapters.postgres import Connection
from adapters.queries import load

SQL = load("provider_keys")
HINT_CHARS = 4
_BATCH_ROWS = 500


@dataclass(frozen=True, slots=True)
class StoredKey:
    """What can be said of a stored key; limit and usage are the provider's, in its currency."""

    provider: str
    hint: str
    remote_limit: str | None
    remote_usage: str | None
    synced_at: datetime | None
    created_at: datetime
    rotated_at: datetime | None


class Vault:
    """Encrypts and decrypts with the deployment's secrets; the first of them encrypts.

    Raises Failure for a secret that is no Fernet key. Without secrets it keeps nothing: `open`
    is False, and every other use raises Failure.
    """

    def __init__(self, secrets: Sequence[SecretStr]) -> None:
        try:
            keys = [Fernet(secret.get_secret_value()) for secret in secrets]
        except ValueError:
            raise Failure(
                "TOLLGATE_PROVIDER_KEY_SECRETS: each is 32 random bytes in URL-safe base64"
            ) from None
        self._fernet = MultiFernet(keys) if keys else None

    @property
    def open(self) -> bool:
        """Whether there is anything to encrypt with."""
        return self._fernet is not None

    def seal(self, account_id: str, provider: str, key: str) -> bytes:
        """The key as it is stored, bound to its account and provider."""
        return self._used().encrypt(f"{account_id}\n{provider}\n{key}".encode())

    def unseal(self, account_id: str, provider: str, ciphertext: bytes) -> str:
        """The key itself. Raises Failure when no secret fits, or the row is of another account."""
        try:
            text = self._used().decrypt(ciphertext).decode()
        except InvalidToken:
            raise Failure("a stored key can not be decrypted with the secrets of today") from None
        bound, _, key = text.rpartition("\n")
        if bound != f"{account_id}\n{provider}":
            raise Failure("a stored key is of another account")
        return key

    def rotate(self, ciphertext: bytes) -> bytes:
        """The same under the first secret. Raises Failure when no secret fits."""
        try:
            return self._used().rotate(ciphertext)
        except InvalidToken:
            raise Failure("a stored key can not be decrypted with the secrets of today") from None

    def _used(self) -> MultiFernet:
        if self._fernet is None:
            raise Failure("no keys are kept here: TOLLGATE_PROVIDER_KEY_SECRETS is empty")
        return self._fernet


async def store(
    connection: Connection, vault: Vault, account_id: str, provider: str, key: SecretStr, actor: str
) -> StoredKey | None:
    """Stores or replaces a key and writes down who did; None when there is no such account."""
    clear = key.get_secret_value()
    hint = clear[-HINT_CHARS:]
    row = await connection.fetchrow(
        SQL.store_key, account_id, provider, vault.seal(account_id, provider, clear), hint
    )
    if row is None:
        return None
    act = Act(actor, "provider-key.store", account_id, after={"provider": provider, "hint": hint})
    await note(connection, act)
    return StoredKey(**dict(row))


async def list_stored(connection: Connection, account_id: str) -> list[StoredKey]:
    """The account's keys, without anything that could be used as one."""
    rows = await connection.fetch(SQL.list_provider_keys, account_id)
    return [StoredKey(**dict(row)) for row in rows]


async def delete(connection: Connection, account_id: str, provider: str, actor: str) -> bool:
    """Forgets a key and writes down who did; False when there was none."""
    hint = await connection.fetchval(SQL.delete_key, account_id, provider)
    if hint is None:
        return False
    act = Act(actor, "provider-key.delete", account_id, before={"provider": provider, "hint": hint})
    await note(connection, act)
    return True


async def read_sealed(connection: Connection, account_id: str, provider: str) -> bytes | None:
    """The key as it is stored, or None."""
    sealed: bytes | None = await connection.fetchval(SQL.read_ciphertext, account_id, provider)
    return sealed


async def note_balance(
    connection: Connection, account_id: str, provider: str, sealed: bytes, balance: RemoteBalance
) -> StoredKey | None:
    """Keeps what the provider said; None when the key was replaced or deleted meanwhile."""
    row = await connection.fetchrow(
        SQL.note_balance, account_id, provider, sealed, balance.limit, balance.usage
    )
    return None if row is None else StoredKey(**dict(row))


async def reencrypt(
    connection: Connection, vault: Vault, advance: Callable[[int], None] = lambda _: None
) -> int:
    """Puts every stored key under the first secret, a few hundred at a time; returns how many.

    `advance` is told of each few hundred. Idempotent.
    Raises Failure at the first key that no secret decrypts; those before stay done.
    """
    done, last = 0, ("", "")
    while True:
        async with connection.transaction():
            rows = await connection.fetch(SQL.next_to_reencrypt, *last, _BATCH_ROWS)
            if not rows:
                return done
            await connection.execute(
                SQL.reencrypt,
                [row["account_id"] for row in rows],
                [row["provider"] for row in rows],
                [vault.rotate(row["ciphertext"]) for row in rows],
            )
        done += len(rows)
        advance(len(rows))
        last = (rows[-1]["account_id"], rows[-1]["provider"])
