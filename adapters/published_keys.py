"""The keys that an identity provider publishes: read when they are needed, for all who wait."""

import asyncio
import json
import ssl
import time
from urllib.parse import urlsplit

import httpx2
import jwt
import structlog
from jwt import PyJWK, PyJWKSet

from adapters.failures import Failure
from adapters.patience import Unavailable

log = structlog.get_logger()
KEPT_SECONDS = 300.0
AGAIN_SECONDS = 30.0
FAILED_SECONDS = 1.0
READ_SECONDS_MAX = 5.0
DOCUMENT_BYTES_MAX = 1_048_576
_TROUBLE = (
    httpx2.HTTPError, httpx2.InvalidURL, OSError, ValueError, RecursionError, jwt.PyJWTError,
    TypeError, AttributeError,  # what PyJWT makes of a key with a member of another type
)  # fmt: skip


class PublishedKeys:
    """The signing keys at an address, by name; of one process and one event loop. A caller waits
    for `seconds_max` at most; a reading may take `READ_SECONDS_MAX`, and serves who comes later.

    They are kept for `KEPT_SECONDS`. A name that is not among them has them read again, at most
    once in `AGAIN_SECONDS`: who invents names asks the provider next to nothing. Raises Failure for
    an address that is not of HTTP.
    """

    def __init__(self, url: str, seconds_max: float) -> None:
        if urlsplit(url).scheme not in {"http", "https"}:
            raise Failure("TOLLGATE_JWT_JWKS_URL is no http or https address")
        self._url = url
        self._seconds_max = seconds_max
        self._trusted = ssl.create_default_context()
        self._keys: dict[str, PyJWK] = {}
        self._read_at = float("-inf")
        self._failed_at = float("-inf")
        self._reading: asyncio.Task[None] | None = None

    async def find(self, name: str | None) -> PyJWK | None:
        """The key of that name, or None when nobody published it.

        Raises Unavailable when the provider does not answer within the caller's time, or not with
        keys, and for `FAILED_SECONDS` after a failure at once. Nobody waits for longer, nor for
        somebody else's question when the key is known.
        """
        if not name:
            return None
        age_seconds = time.monotonic() - self._read_at
        known = self._keys.get(name)
        if age_seconds > KEPT_SECONDS or (known is None and age_seconds > AGAIN_SECONDS):
            await self._read()
            known = self._keys.get(name)
        return known

    async def _read(self) -> None:
        """One question at a time, in a task of its own: a caller who goes away does not end it."""
        if self._reading is None or self._reading.done():
            if time.monotonic() - self._failed_at < FAILED_SECONDS:
                raise _unavailable()
            self._reading = asyncio.create_task(self._ask())
        reading = self._reading
        done, _ = await asyncio.wait({reading}, timeout=self._seconds_max)
        if not done:
            raise _unavailable()
        reading.result()
        if self._failed_at > self._read_at:
            raise _unavailable()

    async def _ask(self) -> None:
        """Never raises for what the provider does: that it failed is kept for all who wait."""
        try:
            async with asyncio.timeout(READ_SECONDS_MAX):
                document = await self._document()
            self._keys = _signing(json.loads(document))
            self._read_at = time.monotonic()
        except _TROUBLE as error:
            self._failed_at = time.monotonic()
            log.warning("identity_provider_unreadable", error=type(error).__name__)

    async def _document(self) -> bytes:
        async with (
            httpx2.AsyncClient(timeout=READ_SECONDS_MAX, verify=self._trusted) as client,
            client.stream("GET", self._url) as answer,
        ):
            if answer.status_code != 200:
                raise ValueError(f"status {answer.status_code}")
            body = bytearray()
            async for part in answer.aiter_bytes():
                body += part
                if len(body) > DOCUMENT_BYTES_MAX:
                    raise ValueError("too long")
            return bytes(body)


def _signing(document: object) -> dict[str, PyJWK]:
    """Raises ValueError or PyJWTError for what is no set of keys, or has none to verify with."""
    if not isinstance(document, dict):
        raise ValueError("no JSON object")  # noqa: TRY004 - it is a value of the provider's
    found = {
        str(key.key_id): key
        for key in reversed(PyJWKSet.from_dict(document).keys)
        if key.key_id and key.public_key_use in {"sig", None}
    }
    if not found:
        raise ValueError("no keys to verify with")
    return found


def _unavailable() -> Unavailable:
    return Unavailable("the identity provider's keys can not be read")
