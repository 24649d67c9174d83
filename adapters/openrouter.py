"""OpenRouter, asked with an account's own key what that key may still spend."""

import asyncio
import re
from dataclasses import dataclass
from decimal import Decimal

import httpx2
import stamina
from pydantic import BaseModel, SecretStr, ValidationError

from adapters.settings import Settings

ATTEMPTS = 3
ANSWER_BYTES_MAX = 65_536
_VISIBLE = re.compile(r"[!-~]{1,512}")


class WrongKey(Exception):  # noqa: N818 - an answer of the provider
    """The provider does not know the key, or does not let it in."""


class ProviderAway(Exception):  # noqa: N818 - an answer: it could not be established
    """The provider did not answer, or not in a way that is understood."""


@dataclass(frozen=True, slots=True)
class RemoteBalance:
    """In the provider's currency, as exact decimal text; a limit of None: there is none."""

    limit: str | None
    usage: str


class _Figures(BaseModel):
    limit: Decimal | None = None
    usage: Decimal


class _Answer(BaseModel):
    data: _Figures


class _Again(Exception):  # noqa: N818 - a reason to ask again
    """The answer was one that the next try may better."""


# The time limit is of a whole try: the client's own is of each read, and a trickle has no end.
_TRY_AGAIN = (_Again, TimeoutError, httpx2.TransportError, httpx2.DecodingError)


def is_sendable(key: str) -> bool:
    """Whether it can stand in a header at all: visible ASCII."""
    return _VISIBLE.fullmatch(key) is not None


async def read_balance(settings: Settings, key: SecretStr) -> RemoteBalance:
    """What the key may spend and has spent, by `GET /key`; three tries, each with a time limit.

    Raises WrongKey (401, 403) at once, and ProviderAway when the last try has failed. Neither
    names the key. Redirects are not followed: the key goes to the configured address only.
    """
    try:
        async for attempt in stamina.retry_context(
            on=_TRY_AGAIN,
            attempts=ATTEMPTS,
            timeout=settings.openrouter_seconds_max * ATTEMPTS,
            wait_initial=0.1,
            wait_max=1.0,
        ):
            with attempt:
                async with asyncio.timeout(settings.openrouter_seconds_max):
                    return await _ask(settings, key)
    except _TRY_AGAIN as error:
        raise ProviderAway(f"OpenRouter does not answer ({type(error).__name__})") from None
    raise AssertionError("retry_context returns or raises")


async def _ask(settings: Settings, key: SecretStr) -> RemoteBalance:
    async with httpx2.AsyncClient(
        base_url=settings.openrouter_base_url,
        timeout=settings.openrouter_seconds_max,
        follow_redirects=False,
        trust_env=False,
    ) as client:
        headers = {"Authorization": f"Bearer {key.get_secret_value()}"}
        async with client.stream("GET", "/key", headers=headers) as answer:
            if answer.status_code in {401, 403}:
                raise WrongKey("OpenRouter refuses the key")
            if answer.status_code == 429 or answer.status_code >= 500:
                raise _Again
            if answer.status_code != 200:
                raise ProviderAway(f"OpenRouter answers {answer.status_code}")
            return _balance(await _body(answer))


async def _body(answer: httpx2.Response) -> bytes:
    body = bytearray()
    async for part in answer.aiter_bytes():
        body += part
        if len(body) > ANSWER_BYTES_MAX:
            raise ProviderAway("OpenRouter's answer is too long")
    return bytes(body)


def _balance(body: bytes) -> RemoteBalance:
    try:
        figures = _Answer.model_validate_json(body).data
    except ValidationError:
        raise ProviderAway("OpenRouter's answer is not understood") from None
    limit = None if figures.limit is None else f"{figures.limit:f}"
    return RemoteBalance(limit, f"{figures.usage:f}")
