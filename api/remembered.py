"""Credentials that were verified a moment ago, so that the next request need not do it again."""

import hashlib
import math
import time

from api.callers import Caller

_MOST = 10_000


class Remembered:
    """The callers of good credentials, each for a while. One for each process.

    Kept by a digest: memory holds no credential. A wrong one is never kept, so that a flood of them
    pushes no good one out.
    """

    def __init__(self, most: int = _MOST) -> None:
        self._most = most
        self._callers: dict[bytes, tuple[float, float, Caller]] = {}

    def find(self, credential: str) -> Caller | None:
        """The caller, while the credential is remembered and has not expired."""
        digest = _digest(credential)
        known = self._callers.get(digest)
        if known is None:
            return None
        until, expires_at, caller = known
        if time.monotonic() < until and time.time() < expires_at:
            return caller
        del self._callers[digest]
        return None

    def keep(
        self, credential: str, caller: Caller, until: float, expires_at: float = math.inf
    ) -> None:
        """Keeps a verified credential until that moment of the monotonic clock.

        Never past `expires_at`, seconds since 1970, by the clock as it goes at each request.
        """
        if len(self._callers) >= self._most:
            self._callers.clear()
        self._callers[_digest(credential)] = (until, expires_at, caller)


def _digest(credential: str) -> bytes:
    return hashlib.sha256(credential.encode(errors="surrogatepass")).digest()
