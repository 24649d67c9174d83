"""API keys as credentials: looked up in PostgreSQL, remembered for three seconds."""

import time

from adapters.api_keys import KnownKey, find_caller, is_key
from adapters.patience import Patience
from adapters.postgres import Pool
from api.callers import Caller, Role
from api.remembered import Remembered

REMEMBERED_SECONDS = 3.0


class KeyAuthenticator:
    """Turns an API key into its caller. A revoked key is refused within `REMEMBERED_SECONDS`."""

    def __init__(
        self, pool: Pool, seconds_max: float, remembered: Remembered | None = None
    ) -> None:
        self._pool = pool
        self._patience = Patience(seconds_max)
        self._remembered = remembered or Remembered()

    async def authenticate(self, credential: str) -> Caller | None:
        """The caller, or None for what is no usable key. Raises Unavailable when nobody knows."""
        if not is_key(credential):
            return None
        caller = self._remembered.find(credential)
        if caller is not None:
            return caller
        asked_at = time.monotonic()
        known = await self._patience.within(self._ask(credential))
        if known is None:
            return None
        caller = Caller(
            f"key:{known.principal}",
            Role(known.role),
            known.account_id,
            known.scopes,
            f"key:{known.key_id}",
        )
        self._remembered.keep(credential, caller, asked_at + REMEMBERED_SECONDS)
        return caller

    async def _ask(self, credential: str) -> KnownKey | None:
        async with self._pool.acquire() as connection:
            return await find_caller(connection, credential)
