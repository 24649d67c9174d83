"""An account's own keys at providers: stored, replaced, listed by their hints, deleted, asked."""

from datetime import datetime
from typing import Annotated, Literal

from fastapi import APIRouter, Depends, Request
from fastapi.responses import Response
from pydantic import BaseModel, Field, SecretStr, field_validator

from adapters.openrouter import ProviderAway, WrongKey, is_sendable, read_balance
from adapters.postgres import Connection
from adapters.provider_keys import (
    StoredKey,
    Vault,
    delete,
    list_stored,
    note_balance,
    read_sealed,
    store,
)
from adapters.settings import Settings
from api.callers import AnyCaller, ReachableAccount
from api.database import UsedDatabase
from api.keys import IdempotencyKey
from api.problems import Kind, Problem, ProblemDocument, not_found
from api.usage import Strict

router = APIRouter(prefix="/api/v1/accounts/{account_id}/provider-keys", tags=["provider-keys"])

Provider = Literal["openrouter"]
REPLAYED = "Idempotent-Replayed"


class KeyBody(Strict):
    """A key. It is encrypted, and never given back."""

    key: SecretStr = Field(min_length=16, max_length=512, examples=["sk-or-v1-0123456789abcdef"])

    @field_validator("key")
    @classmethod
    def _visible(cls, key: SecretStr) -> SecretStr:
        if not is_sendable(key.get_secret_value()):
            raise ValueError("a key is of visible ASCII characters")
        return key


class KeyAnswer(BaseModel):
    """What can be said of a stored key."""

    provider: str = Field(examples=["openrouter"])
    hint: str = Field(examples=["cdef"], description="its last four characters")
    limit: str | None = Field(description="as the provider said, in its currency; null: none")
    usage: str | None
    synced_at: datetime | None
    created_at: datetime
    replaced_at: datetime | None


class Deleted(BaseModel):
    """Which key is gone."""

    provider: str


async def _vault(request: Request) -> Vault:  # async: FastAPI runs a `def` in a thread
    vault: Vault = request.app.state.vault
    if not vault.open:
        raise Problem(409, Kind.REFUSED, "No keys are kept here")
    return vault


UsedVault = Annotated[Vault, Depends(_vault)]


@router.get("")
async def list_keys(account: ReachableAccount, database: UsedDatabase) -> list[KeyAnswer]:
    """The account's keys, by their hints."""
    found = await database.read(lambda connection: list_stored(connection, account))
    return [_shown(key) for key in found]


@router.put("/{provider}", response_model=KeyAnswer)
async def put_key(
    account: ReachableAccount,
    caller: AnyCaller,
    database: UsedDatabase,
    vault: UsedVault,
    key: IdempotencyKey,
    provider: Provider,
    body: KeyBody,
) -> Response:
    """Stores the account's key, or replaces it. The same again changes nothing but its date.

    With an Idempotency-Key a late retry does not undo what was stored since.
    """

    async def work(connection: Connection) -> KeyAnswer:
        stored = await store(connection, vault, account, provider, body.key, caller.signer)
        if stored is None:
            raise not_found()
        return _shown(stored)

    return await database.change(key, None, work)


@router.delete("/{provider}", status_code=204, response_class=Response)
async def delete_key(
    account: ReachableAccount,
    caller: AnyCaller,
    database: UsedDatabase,
    key: IdempotencyKey,
    provider: Provider,
) -> Response:
    """Forgets the account's key. With an Idempotency-Key a late retry forgets no newer one."""

    async def work(connection: Connection) -> BaseModel:
        if not await delete(connection, account, provider, caller.signer):
            raise not_found()
        return Deleted(provider=provider)

    done = await database.change(key, None, work)
    repeated = {name: done.headers[name] for name in (REPLAYED,) if name in done.headers}
    return Response(status_code=204, headers=repeated)


@router.post(
    "/{provider}/sync",
    responses={
        424: {"model": ProblemDocument, "description": "The provider refuses the key"},
        502: {"model": ProblemDocument, "description": "The provider does not answer"},
    },
)
async def sync(
    request: Request,
    account: ReachableAccount,
    database: UsedDatabase,
    vault: UsedVault,
    provider: Provider,
) -> KeyAnswer:
    """Asks the provider what the key may still spend, and keeps the answer.

    424 when the provider refuses the key, 502 when it does not answer.
    """
    settings: Settings = request.app.state.settings
    sealed = await database.read(lambda connection: read_sealed(connection, account, provider))
    if sealed is None:
        raise not_found()
    key = SecretStr(vault.unseal(account, provider, sealed))
    try:
        balance = await read_balance(settings, key)
    except WrongKey as error:
        raise Problem(424, Kind.REFUSED, str(error), code="wrong_provider_key") from None
    except ProviderAway as error:
        raise Problem(502, Kind.UNAVAILABLE, str(error), code="provider_away") from None
    kept = await database.read(
        lambda connection: note_balance(connection, account, provider, sealed, balance)
    )
    if kept is None:
        raise Problem(409, Kind.CONFLICT, "The key was replaced meanwhile: ask again")
    return _shown(kept)


def _shown(key: StoredKey) -> KeyAnswer:
    return KeyAnswer(
        provider=key.provider,
        hint=key.hint,
        limit=key.remote_limit,
        usage=key.remote_usage,
        synced_at=key.synced_at,
        created_at=key.created_at,
        replaced_at=key.rotated_at,
    )
