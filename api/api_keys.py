"""API keys as credentials: looked up in PostgreSQL, remembered for three seconds."""

import hashlib
import time

from adapters.api_keys import KnownKey, find_caller, is_key
from adapters.patience import Patience
from adapters.postgres import Pool
from api.callers import Caller, Role

REMEMBERED_SECONDS = 3.0
_REMEMBERED_MAX = 10_000


class KeyAuthenticator:
    """Turns an API key into its caller. A revoked key is refused within `REMEMBERED_SECONDS`.

    Only good keys are remembered, by a digest: memory holds no credential, and a wrong one never
    pushes a good one out.
    """

    def __init__(self, pool: Pool, seconds_max: float) -> None:
        self._pool = pool
        self._patience = Patience(seconds_max)
        self._remembered: dict[bytes, tuple[float, Caller]] = {}

    async def authenticate(self, credential: str) -> Caller | None:
        """The caller, or None for what is no usable key. Raises Unavailable when nobody knows."""
        if not is_key(credential):
            return None
        name = hashlib.sha256(credential.encode()).digest()
        until, caller = self._remembered.get(name, (0.0, None))
        if caller is not None and time.monotonic() < until:
            return caller
        self._remembered.pop(name, None)
        asked_at = time.monotonic()
        known = await self._patience.within(self._ask(credential))
        if known is None:
            return None
        caller = Caller(f"key:{known.key_id}", Role(known.role), known.account_id, known.scopes)
        if len(self._remembered) >= _REMEMBERED_MAX:
            self._remembered.clear()
        self._remembered[name] = (asked_at + REMEMBERED_SECONDS, caller)
        return caller

    async def _ask(self, credential: str) -> KnownKey | None:
        async with self._pool.acquire() as connection:
            return await find_caller(connection, credential)
