"""S7: API keys are kept as digests, compared in constant time, limited, revoked and rotated."""

import asyncio
import hashlib
import hmac
import os
import time
from collections.abc import AsyncIterator

import asyncpg
import pytest

from adapters import api_keys
from adapters.api_keys import (
    NewKey,
    Scope,
    create_key,
    find_caller,
    list_keys,
    revoke_key,
    rotate_key,
)
from adapters.audit_log import list_acts
from adapters.failures import Failure
from adapters.logs import redact_text
from adapters.postgres import connect
from adapters.settings import Settings
from tests.apis import keyed, serve, with_tokens
from tests.commands import report, run_tollgate
from tests.gates import CREDIT, account

CHECK = "/api/v1/accounts/acme/check"
ONE = {"credits": 1}


@pytest.fixture
async def connection(settings: Settings) -> AsyncIterator["asyncpg.Connection[asyncpg.Record]"]:
    made = await connect(settings, application_name="test")
    await account(made, "acme", 100 * CREDIT)
    await account(made, "other", 100 * CREDIT)
    yield made
    await made.close()


@pytest.fixture
async def address(settings: Settings, connection: asyncpg.Connection) -> AsyncIterator[str]:
    async with serve(with_tokens(settings)) as found:
        yield found


def wanted(role: str = "service", *scopes: Scope, account_id: str | None = None) -> NewKey:
    return NewKey("chat", role, frozenset(scopes or {Scope.GATE}), "test", account_id)


async def checked(address: str, credential: str, path: str = CHECK) -> int:
    async with keyed(address, credential) as made:
        return (await made.post(path, json=ONE)).status_code


async def test_a_key_opens_what_its_scopes_say(
    address: str, connection: asyncpg.Connection
) -> None:
    gate = await create_key(connection, wanted())
    usage = await create_key(connection, wanted("service", Scope.USAGE))
    assert await checked(address, gate.credential) == 200
    assert await checked(address, usage.credential) == 403


async def test_a_key_that_reads_accounts_gives_no_credits(
    address: str, connection: asyncpg.Connection
) -> None:
    reads = await create_key(connection, wanted("service", Scope.ACCOUNTS))
    sells = await create_key(connection, wanted("service", Scope.PURCHASES))
    top_ups = "/api/v1/accounts/acme/top-ups"
    async with keyed(address, reads.credential) as reader:
        assert (await reader.get("/api/v1/accounts/acme")).status_code == 200
        assert (await reader.post(top_ups, json=ONE)).status_code == 403
    async with keyed(address, sells.credential) as seller:
        assert (await seller.post(top_ups, json=ONE)).status_code == 201
        assert (await seller.get("/api/v1/accounts/acme")).status_code == 403


async def test_a_key_of_a_user_reaches_one_account(
    address: str, connection: asyncpg.Connection
) -> None:
    issued = await create_key(connection, wanted("user", Scope.GATE, account_id="acme"))
    assert await checked(address, issued.credential) == 200
    foreign = "/api/v1/accounts/other/check"
    assert await checked(address, issued.credential, foreign) == 404


async def test_the_table_holds_no_secret(connection: asyncpg.Connection) -> None:
    issued = await create_key(connection, wanted())
    _, key_id, secret = issued.credential.split("_")
    row = await connection.fetchrow("SELECT * FROM api_key")
    assert row is not None
    assert row["digest"] == hashlib.sha256(secret.encode()).digest()
    stored = [await connection.fetch("SELECT * FROM api_key")]
    stored.append(await connection.fetch("SELECT * FROM audit_log"))
    everything = str(stored)
    assert key_id in everything
    assert secret not in everything
    assert secret not in str(await list_keys(connection, usable=False, keys_max=10))
    assert secret not in redact_text(f"refused {issued.credential}")


@pytest.mark.parametrize("change", ["secret", "id", "short", "long", "other secret", "prefix"])
async def test_a_wrong_key_is_nobody(
    address: str, connection: asyncpg.Connection, change: str
) -> None:
    credential = (await create_key(connection, wanted())).credential
    other = (await create_key(connection, wanted())).credential
    _, key_id, secret = credential.split("_")
    wrong = {
        "secret": f"tg_{key_id}_{'0' * 64}",
        "id": f"tg_{'0' * 16}_{secret}",
        "short": credential[:-1],
        "long": credential + "0",
        "other secret": f"tg_{key_id}_{other.split('_')[2]}",
        "prefix": f"sk_{key_id}_{secret}",
    }[change]
    assert await checked(address, wrong) == 401
    assert await checked(address, credential) == 200


async def test_secrets_are_compared_in_constant_time_and_for_unknown_ids_too(
    connection: asyncpg.Connection, monkeypatch: pytest.MonkeyPatch
) -> None:
    issued = await create_key(connection, wanted())
    compared: list[tuple[bytes, bytes]] = []

    def seen(left: bytes, right: bytes) -> bool:
        compared.append((left, right))
        return left == right

    monkeypatch.setattr(hmac, "compare_digest", seen)
    assert await find_caller(connection, issued.credential) is not None
    assert await find_caller(connection, f"tg_{'0' * 16}_{'0' * 64}") is None
    assert len(compared) == 2


async def test_a_revoked_key_is_refused_within_five_seconds(
    address: str, connection: asyncpg.Connection
) -> None:
    issued = await create_key(connection, wanted())
    assert await checked(address, issued.credential) == 200
    first = await revoke_key(connection, issued.key_id, actor="test")
    revoked = time.monotonic()
    while True:
        began = time.monotonic()
        if await checked(address, issued.credential) == 401:
            break
        assert began - revoked < 5
        await asyncio.sleep(0.1)
    assert await revoke_key(connection, issued.key_id, actor="test") == first
    acts = [act["action"] for act in await list_acts(connection, subject=issued.key_id)]
    assert acts == ["api-key.revoke", "api-key.create"]


async def test_an_expired_key_is_nobody(connection: asyncpg.Connection) -> None:
    issued = await create_key(connection, wanted())
    assert await find_caller(connection, issued.credential) is not None
    await connection.execute("UPDATE api_key SET expires_at = now() - interval '1 second'")
    assert await find_caller(connection, issued.credential) is None
    with pytest.raises(Failure, match="has ended"):
        await rotate_key(connection, issued.key_id, overlap_seconds=1, actor="test")


async def test_a_rotation_overlaps_and_then_the_old_key_is_over(
    connection: asyncpg.Connection,
) -> None:
    old = await create_key(connection, wanted("user", Scope.ACCOUNTS, account_id="acme"))
    new = await rotate_key(connection, old.key_id, overlap_seconds=60, actor="test")
    before, after = [await find_caller(connection, each.credential) for each in (old, new)]
    assert before is not None
    assert after is not None
    assert (before.role, before.scopes, before.account_id) == (
        after.role,
        after.scopes,
        after.account_id,
    )
    await connection.execute(
        "UPDATE api_key SET expires_at = expires_at - interval '60 seconds' WHERE key_id = $1",
        old.key_id,
    )
    assert await find_caller(connection, old.credential) is None
    assert await find_caller(connection, new.credential) is not None


async def test_a_rotation_never_lengthens_a_life(connection: asyncpg.Connection) -> None:
    old = await create_key(connection, wanted())
    ends_at = await connection.fetchval(
        "UPDATE api_key SET expires_at = now() + interval '60 seconds' RETURNING expires_at"
    )
    new = await rotate_key(connection, old.key_id, overlap_seconds=3_600, actor="test")
    ends = await connection.fetch("SELECT key_id, expires_at FROM api_key")
    assert {row["key_id"]: row["expires_at"] for row in ends} == {
        old.key_id: ends_at,
        new.key_id: ends_at,
    }


async def test_with_postgres_away_no_key_opens_anything(settings: Settings) -> None:
    nowhere = settings.model_copy(
        update={"postgres": type(settings.postgres)("postgresql://tollgate@127.0.0.1:1/none")}
    )
    async with serve(with_tokens(nowhere)) as address:
        assert await checked(address, f"tg_{'0' * 16}_{'0' * 64}") == 503


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        ({"role": "root"}, "role is user, service or admin"),
        ({"role": "service", "scopes": frozenset({Scope.ADMIN})}, "only a key of the role admin"),
        ({"role": "user"}, "has an account"),
        ({"role": "service", "account_id": "acme"}, "no other key has one"),
        ({"role": "service", "scopes": frozenset()}, "needs a scope"),
        ({"role": "service", "name": "a\nb"}, "printable"),
    ],
)
def test_a_key_that_could_not_be_used_is_not_made(arguments: dict[str, object], said: str) -> None:
    standard = {"name": "chat", "scopes": frozenset({Scope.GATE}), "actor": "test"}
    with pytest.raises(Failure, match=said):
        NewKey(**{**standard, **arguments})  # type: ignore[arg-type]


async def test_the_command_prints_a_secret_once(
    connection: asyncpg.Connection, environment: dict[str, str]
) -> None:
    made = await run_tollgate(environment, "api-key", "create", "chat", "--scope", "gate")
    assert made.returncode == 0, made.stderr
    credential = made.stdout.strip()
    assert api_keys.is_key(credential)
    secret = credential.split("_")[2]
    assert secret not in made.stderr
    [row] = await report(environment, "api-key", "list")
    assert secret not in str(row)
    turned = await report(environment, "api-key", "rotate", row["key_id"])
    ended = await report(environment, "api-key", "revoke", row["key_id"], "--reason", "lost")
    assert ended["key_id"] == row["key_id"]
    usable = await report(environment, "api-key", "list", "--usable")
    assert [each["key_id"] for each in usable] == [turned["key_id"]]
    table = await run_tollgate(environment, "api-key", "list")
    assert turned["key_id"] in table.stdout
    assert turned["credential"].split("_")[2] not in table.stdout


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (("create", "x", "--scope", "money"), "no scope 'money'"),
        (("create", "x", "--scope", "gate", "--role", "user", "--account", "zz"), "no account"),
        (("revoke", "0000"), "no key '0000'"),
        (("rotate", "0000"), "no key '0000'"),
    ],
)
async def test_the_command_refuses_in_one_line(
    environment: dict[str, str], arguments: tuple[str, ...], said: str
) -> None:
    done = await run_tollgate(environment, "api-key", *arguments)
    assert done.returncode == 1
    assert said in done.stderr
    assert done.stderr.count(os.linesep) == 1


async def test_one_key_one_effect_across_a_rotation(
    address: str, connection: asyncpg.Connection
) -> None:
    """A successor retries what its predecessor began: the payment is booked once."""
    old = await create_key(connection, wanted("service", Scope.PURCHASES))
    new = await rotate_key(connection, old.key_id, overlap_seconds=60, actor="test")
    newest = await rotate_key(connection, new.key_id, overlap_seconds=60, actor="test")
    other = await create_key(connection, wanted("service", Scope.PURCHASES))
    path, payment = "/api/v1/accounts/acme/top-ups", {"Idempotency-Key": "payment-1"}
    balances = []
    for issued in (old, new, newest, other):
        async with keyed(address, issued.credential) as made:
            balances.append((await made.post(path, json=ONE, headers=payment)).json()["balance"])
    assert balances == ["101", "101", "101", "102"]


async def test_a_session_is_finalised_by_the_successor_alone(
    address: str, connection: asyncpg.Connection
) -> None:
    user = wanted("user", Scope.GATE, account_id="acme")
    old, other = await create_key(connection, user), await create_key(connection, user)
    new = await rotate_key(connection, old.key_id, overlap_seconds=60, actor="test")
    sessions = "/api/v1/accounts/acme/sessions"
    async with keyed(address, old.credential) as made:
        opened = await made.post(sessions, json={"credits": 5})
        assert opened.status_code == 201
    answers = []
    for issued in (other, new):
        async with keyed(address, issued.credential) as made:
            done = await made.post(
                f"{sessions}/{opened.json()['hold_id']}/finalise", json={"credits": 4}
            )
            answers.append((done.status_code, done.json().get("code")))
    assert answers == [(403, "hold_of_another"), (200, None)]


async def test_the_audit_log_names_the_key_that_acted(
    address: str, connection: asyncpg.Connection
) -> None:
    """The ledger names whose keys they are, under the name of the first one."""
    old = await create_key(connection, wanted("admin", Scope.ADMIN))
    new = await rotate_key(connection, old.key_id, overlap_seconds=60, actor="test")
    async with keyed(address, new.credential) as made:
        for path, body in (
            ("accounts/acme/grants", ONE),
            ("accounts/acme/adjustments", {**ONE, "reason": "a mistake"}),
            ("refreshes", {"accounts": ["acme"], "reason": "asked for"}),
        ):
            answer = await made.post(f"/api/v1/admin/{path}", json=body)
            assert answer.is_success, answer.text
    acts = await list_acts(connection, actor=f"key:{new.key_id}")
    assert len(acts) == 3
    booked = await connection.fetch(
        "SELECT actor FROM credit_transaction WHERE actor LIKE 'key:%' GROUP BY actor"
    )
    assert [row["actor"] for row in booked] == [f"key:{old.key_id}"]
    shown = await list_keys(connection, usable=True, keys_max=10)
    assert {row["principal"] for row in shown} == {old.key_id}
