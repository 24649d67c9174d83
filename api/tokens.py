"""JSON Web Tokens: of one issuer, for one audience, by one algorithm, and not a second too old."""

import time
from typing import Any

import jwt
from jwt import PyJWK

from adapters.published_keys import PublishedKeys
from adapters.settings import Settings
from api.callers import Caller, Role
from api.remembered import Remembered

REMEMBERED_SECONDS = 60.0
TOKEN_CHARS_MAX = 8_192
SYMMETRIC = frozenset({"HS256", "HS384", "HS512"})
_REQUIRED = ["exp", "sub", "iss", "aud"]
_NOT_BEFORE_LEEWAY_SECONDS = 5


class TokenAuthenticator:
    """Verifies tokens with a shared secret, or with the keys that an identity provider publishes.

    The algorithm is the deployment's and never the token's: none, another family, or a public key
    used as a secret is refused. Claims: `sub`, `role` (user, service or admin; user without it) and
    for users `account` (the subject without it).

    A token that was verified is good for `REMEMBERED_SECONDS` without doing it again, and never
    past its `exp`: so much later than otherwise a key that the provider withdraws stops counting.

    An issuer's clock may be a little ahead: `nbf` has a leeway, `exp` has none, and `iat`, which
    protects nothing here, is not looked at.
    """

    def __init__(self, settings: Settings, remembered: Remembered | None = None) -> None:
        self._settings = settings
        self._remembered = remembered or Remembered()
        self._secret = settings.jwt_secret.get_secret_value()
        self._keys = (
            PublishedKeys(settings.jwt_jwks_url, settings.gate_seconds_max)
            if settings.jwt_jwks_url
            else None
        )

    async def authenticate(self, credential: str) -> Caller | None:
        """The caller, or None for a token that is not valid. Raises Unavailable without keys."""
        if len(credential) > TOKEN_CHARS_MAX or credential.count(".") != 2:
            return None
        known = self._remembered.find(credential)
        if known is not None:
            return known
        verified_at = time.monotonic()
        try:
            key = await self._key(credential)
            if key is None:
                return None
            claims = jwt.decode(
                credential,
                key,
                algorithms=[self._settings.jwt_algorithm],
                audience=self._settings.jwt_audience,
                issuer=self._settings.jwt_issuer,
                options={"require": _REQUIRED, "verify_iat": False, "verify_nbf": False},
            )
        except (jwt.PyJWTError, ValueError):
            return None
        caller = _caller(claims) if _begun(claims) else None
        if caller is not None:
            until = verified_at + REMEMBERED_SECONDS
            self._remembered.keep(credential, caller, until, int(claims["exp"]))
        return caller

    async def _key(self, credential: str) -> str | PyJWK | None:
        if self._keys is None:
            return self._secret
        return await self._keys.find(jwt.get_unverified_header(credential).get("kid"))


def _begun(claims: dict[str, Any]) -> bool:
    try:
        return int(claims.get("nbf", 0)) <= time.time() + _NOT_BEFORE_LEEWAY_SECONDS
    except (ValueError, TypeError, OverflowError):
        return False


def _caller(claims: dict[str, Any]) -> Caller | None:
    subject, role = claims["sub"], claims.get("role", Role.USER.value)
    account_id = claims.get("account", subject)
    if not (isinstance(subject, str) and isinstance(role, str) and isinstance(account_id, str)):
        return None
    if not subject or role not in set(Role):
        return None
    known = Role(role)
    return Caller(subject, known, account_id if known is Role.USER else None)
