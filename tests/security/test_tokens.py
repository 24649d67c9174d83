"""S6: tokens: one algorithm, one issuer, one audience, in their time, by the right key."""

import asyncio
import base64
import hashlib
import hmac
import json
import time
from collections.abc import AsyncIterator, Iterator
from datetime import UTC, datetime, timedelta
from typing import Any

import httpx2
import jwt
import pytest
from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric import ec, rsa
from pydantic import SecretStr

from adapters.failures import Failure
from adapters.patience import Unavailable
from adapters.settings import Settings
from api.app import create_app
from api.callers import Role
from api.tokens import TokenAuthenticator
from tests.apis import SECRET, keyed, serve, with_tokens
from tests.identity import RSA_KEY, Provider, claims, encoded, of, signed

BASE = Settings(jwt_secret=SecretStr(SECRET))
OTHER_RSA_KEY = rsa.generate_private_key(65_537, 2_048)
EC_KEY = ec.generate_private_key(ec.SECP256R1())


def part(value: dict[str, Any]) -> str:
    text = json.dumps(value, default=lambda when: int(when.timestamp()))
    return base64.urlsafe_b64encode(text.encode()).rstrip(b"=").decode()


def by_hand(header: dict[str, Any], key: bytes) -> str:
    """A token that a library would refuse to make."""
    signed = f"{part(header)}.{part(claims())}"
    digest = hmac.new(key, signed.encode(), hashlib.sha256).digest()
    return f"{signed}.{base64.urlsafe_b64encode(digest).rstrip(b'=').decode()}"


async def accepted(credential: str, settings: Settings = BASE) -> bool:
    return await TokenAuthenticator(settings).authenticate(credential) is not None


def in_seconds(seconds: int) -> datetime:
    return datetime.now(UTC) + timedelta(seconds=seconds)


async def test_a_good_token_is_its_subject() -> None:
    caller = await TokenAuthenticator(BASE).authenticate(encoded())
    assert caller is not None
    assert (caller.subject, caller.role, caller.account_id) == ("acme", Role.USER, "acme")
    service = await TokenAuthenticator(BASE).authenticate(encoded(role="service", account="acme"))
    assert service is not None
    assert (service.role, service.account_id) == (Role.SERVICE, None)


@pytest.mark.parametrize(
    "changes",
    [
        {"iss": "elsewhere"},
        {"iss": None},
        {"aud": "another-api"},
        {"aud": None},
        {"aud": []},
        {"exp": in_seconds(-1)},
        {"exp": None},
        {"exp": "tomorrow"},
        {"nbf": in_seconds(864_000)},
        {"sub": None},
        {"sub": ""},
        {"sub": 7},
        {"role": "root"},
        {"role": ["admin"]},
        {"role": {"admin": True}},
        {"account": 7},
    ],
    ids=lambda changes: str(list(changes)),  # the same whenever the tests are collected
)
async def test_a_token_with_a_wrong_claim_is_nobodys(changes: dict[str, Any]) -> None:
    made = jwt.api_jws.encode(
        json.dumps(claims(**changes), default=lambda when: int(when.timestamp())).encode(), SECRET
    )
    assert not await accepted(made)
    assert await accepted(encoded())


@pytest.mark.parametrize("algorithm", ["none", "None", "NONE", "nOnE", ""])
async def test_an_unsigned_token_is_nobodys(algorithm: str) -> None:
    body = f"{part({'alg': algorithm, 'typ': 'JWT'})}.{part(claims())}"
    assert not await accepted(f"{body}.")
    signature = encoded().rpartition(".")[2]
    assert not await accepted(f"{body}.{signature}")


@pytest.mark.parametrize("algorithm", ["HS384", "HS512", "RS256", "ES256"])
async def test_another_algorithm_is_not_the_deployments(algorithm: str) -> None:
    key: Any = {"RS256": RSA_KEY, "ES256": EC_KEY}.get(algorithm, SECRET * 4)
    assert not await accepted(encoded(key, algorithm))


async def test_another_secret_and_a_changed_claim_are_refused() -> None:
    assert not await accepted(encoded("another secret that is long enough, too"))
    head, _, signature = encoded().split(".")
    assert not await accepted(f"{head}.{part(claims(role='admin'))}.{signature}")


@pytest.mark.parametrize(
    "credential",
    ["", ".", "..", "a.b.c", "x" * 1_048_576, f"{'x' * 500_000}.{'y' * 500_000}.z", "é.é.é",
     "e30.e30.e30", "null.null.null", "\x00.\x00.\x00"],
    ids=lambda text: text[:8] or "empty",
)  # fmt: skip
async def test_what_is_no_token_is_nobodys(credential: str) -> None:
    assert not await accepted(credential)


async def test_a_token_of_a_megabyte_is_refused_by_the_server(settings: Settings) -> None:
    async with serve(with_tokens(settings)) as address, keyed(address, "x" * 1_048_576) as made:
        try:
            answer = await made.get("/api/v1/accounts/acme")
        except httpx2.TransportError:
            return
    assert answer.status_code in {400, 401, 431}


@pytest.fixture
def provider() -> Iterator[Provider]:
    made = Provider()
    made.publish(RSA_KEY, "one", "RS256")
    yield made
    made.close()


async def test_a_token_of_the_identity_provider_is_accepted(provider: Provider) -> None:
    assert await accepted(signed(), of(provider))
    provider.publish(OTHER_RSA_KEY, "two", "RS256")
    assert await accepted(signed(OTHER_RSA_KEY, "two"), of(provider))


async def test_a_key_that_nobody_published_signs_nothing(provider: Provider) -> None:
    settings = of(provider)
    assert not await accepted(signed(OTHER_RSA_KEY), settings)
    assert not await accepted(signed(OTHER_RSA_KEY, "unknown"), settings)
    assert not await accepted(encoded(RSA_KEY, "RS256"), settings), "without a kid"


async def test_unknown_kids_do_not_make_the_provider_asked_again_and_again(
    provider: Provider,
) -> None:
    """S12: whoever invents names of keys asks the identity provider nothing."""
    judge = TokenAuthenticator(of(provider))
    for number in range(20):
        assert await judge.authenticate(signed(kid=f"invented-{number}")) is None
    assert await judge.authenticate(signed()) is not None
    assert provider.asked == 1


@pytest.mark.parametrize(
    "kid",
    ["../../../../dev/null", "/etc/passwd", "one' OR '1'='1", "file:///dev/null", "", "\x00one"],
)
async def test_a_kid_is_a_name_and_never_a_path(provider: Provider, kid: str) -> None:
    settings = of(provider)
    assert not await accepted(signed(kid=kid), settings)
    assert not await accepted(by_hand({"alg": "HS256", "kid": kid}, b""), settings)


async def test_a_token_brings_no_keys_of_its_own(provider: Provider) -> None:
    evil = Provider()
    try:
        evil.publish(OTHER_RSA_KEY, "one", "RS256")
        own_key = evil.keys[0]
        for more in (
            {"jku": evil.address},
            {"x5u": evil.address},
            {"jwk": own_key},
            {"x5c": ["MIIB"]},
            {"jku": evil.address, "jwk": own_key},
        ):
            assert not await accepted(signed(OTHER_RSA_KEY, more=more), of(provider))
        assert evil.asked == 0
    finally:
        evil.close()


async def test_a_public_key_is_no_secret(provider: Provider) -> None:
    """RS256 to HS256: signed with the bytes of the public key, in each form that it has."""
    public = RSA_KEY.public_key()
    forms = [
        public.public_bytes(encoding, form)
        for encoding, form in (
            (serialization.Encoding.PEM, serialization.PublicFormat.SubjectPublicKeyInfo),
            (serialization.Encoding.PEM, serialization.PublicFormat.PKCS1),
            (serialization.Encoding.DER, serialization.PublicFormat.SubjectPublicKeyInfo),
        )
    ]
    forms.append(json.dumps(provider.keys[0]).encode())
    for key in forms:
        token = by_hand({"alg": "HS256", "typ": "JWT", "kid": "one"}, key)
        assert not await accepted(token, of(provider))


async def test_the_algorithm_of_a_published_key_is_kept(provider: Provider) -> None:
    provider.publish(EC_KEY, "elliptic", "ES256")
    token = encoded(EC_KEY, "ES256", headers={"kid": "elliptic"})
    assert not await accepted(token, of(provider))
    assert await accepted(token, of(provider, "ES256"))


async def test_without_the_identity_provider_nobody_is_let_in() -> None:
    away = Settings(jwt_jwks_url="http://127.0.0.1:1/jwks", jwt_algorithm="RS256")
    with pytest.raises(Unavailable):
        await accepted(signed(), away)


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"jwt_secret": SecretStr("")}, "at least 32"),
        ({"jwt_secret": SecretStr("x" * 31)}, "at least 32"),
        ({"jwt_algorithm": "RS256"}, "TOLLGATE_JWT_JWKS_URL"),
        ({"local_login": True, "api_host": "0.0.0.0"}, "only with 127.0.0.1"),  # noqa: S104
        ({"local_login": True, "api_host": "::"}, "only with 127.0.0.1"),
        ({"local_login": True, "api_host": "10.0.0.7"}, "only with 127.0.0.1"),
        (
            {"local_login": True, "jwt_algorithm": "RS256", "jwt_jwks_url": "http://x"},
            "makes tokens with a secret",
        ),
    ],
)
def test_a_configuration_that_is_not_safe_does_not_start(
    changes: dict[str, Any], said: str
) -> None:
    with pytest.raises(Failure, match=said):
        create_app(BASE.model_copy(update=changes))


@pytest.fixture
async def local(settings: Settings) -> AsyncIterator[str]:
    async with serve(with_tokens(settings, local_login=True)) as address:
        yield address


async def test_the_login_of_the_local_stack_gives_a_token_that_works(local: str) -> None:
    async with httpx2.AsyncClient(base_url=local) as nobody:
        answer = await nobody.post("/api/v1/login", json={"account": "root", "role": "admin"})
    assert answer.status_code == 200
    async with keyed(local, answer.json()["access_token"]) as admin:
        assert (await admin.get("/api/v1/admin/statistics")).status_code == 200


@pytest.mark.parametrize("named", ["username", "email"])
async def test_the_login_of_003_gives_a_token_that_works(local: str, named: str) -> None:
    body = {named: "root@example.com", "password": "anything", "role": "admin"}
    async with httpx2.AsyncClient(base_url=local) as nobody:
        answer = await nobody.post("/api/auth/login", json=body)
        unnamed = await nobody.post("/api/auth/login", json={"password": "anything"})
    assert (answer.status_code, answer.json()["role"], unnamed.status_code) == (200, "admin", 422)
    async with keyed(local, answer.json()["token"]) as admin:
        assert (await admin.get("/api/v1/me")).json()["subject"] == "root@example.com"
        assert (await admin.get("/api/v1/admin/statistics")).status_code == 200


@pytest.mark.parametrize(
    ("path", "body"),
    [("/api/v1/login", {"account": "a"}), ("/api/auth/login", {"username": "a"})],
)
async def test_there_is_no_login_unless_it_is_switched_on(
    settings: Settings, path: str, body: dict[str, str]
) -> None:
    async with serve(with_tokens(settings)) as address, httpx2.AsyncClient(base_url=address) as one:
        assert (await one.post(path, json=body)).status_code == 404
        assert path not in (await one.get("/openapi.json")).text


async def test_tokens_are_judged_without_holding_others_up(provider: Provider) -> None:
    """The identity provider is asked once for many tokens, beside the loop."""
    one = TokenAuthenticator(of(provider))
    assert await one.authenticate(signed()) is not None
    asked = provider.asked
    found = await asyncio.gather(*(one.authenticate(signed()) for _ in range(20)))
    assert all(found)
    assert provider.asked == asked


@pytest.mark.parametrize(
    ("claim", "ahead", "good"),
    [
        ("iat", 2, True),
        ("iat", 864_000, True),
        ("nbf", 3, True),
        ("nbf", 30, False),
        ("nbf", "soon", False),
        ("nbf", [], False),
        ("nbf", float("inf"), False),
        ("exp", -1, False),
    ],
)
async def test_clocks_that_are_a_little_apart(claim: str, ahead: Any, *, good: bool) -> None:
    """An issuer a few seconds ahead: its tokens are good at once. None is good past its end."""
    value = time.time() + ahead if isinstance(ahead, int | float) else ahead
    body = {**claims(), claim: value}
    made = json.dumps(body, default=lambda when: int(when.timestamp())).encode()
    assert await accepted(jwt.api_jws.encode(made, SECRET)) is good
