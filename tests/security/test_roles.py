"""S16: each stage works under a login of its role, and none of them can do more than its work."""

import shlex
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from dataclasses import asdict
from datetime import UTC, datetime
from urllib.parse import urlsplit, urlunsplit

import asyncpg
import httpx2
import pytest
from pydantic import SecretStr
from typer.testing import CliRunner

from adapters.audit import audit
from adapters.failures import Failure
from adapters.migrations import apply, read_migrations, read_reference
from adapters.postgres import connect
from adapters.roles import RolesReport, ensure_roles
from adapters.settings import Settings
from consumers.jobs import Workshop
from schemas.job_names import JobName
from schemas.jobs import new_job
from tests.apis import client, everything_on, serve
from tests.batches import desk, usage
from tests.commands import report
from tests.conftest import in_a_loop
from tests.gates import CREDIT, account
from tests.planted_corrections import plant_every_kind
from tests.planted_gifts import plant_gifts
from tests.planted_ledger import Batch, plant
from tests.security.reached import ENTRIES, Use, reached
from tests.security.rights import LOCKED, Parser, Right, called_functions, granted_to, needed_by
from tests.security.routes import Access, Operation, operations
from tests.shipping import assert_copied_exactly, bench
from tollgate.cli import build_app

ANALYST, OWNER = "tollgate_analyst", "tollgate_owner"
ROLES = (*ENTRIES, ANALYST, OWNER)
APPEND_ONLY = ("charge", "credit_transaction", "grant_draw", "price_version", "batch_outcome",
               "charge_correction", "audit_log")  # fmt: skip
# The only rows that a stage takes away: what the purge and the users' own keys are about.
DELETES = {
    ("tollgate_scheduler", "idempotency_key"), ("tollgate_scheduler", "job_run"),
    ("tollgate_operator", "idempotency_key"), ("tollgate_operator", "job_run"),
    ("tollgate_operator", "deployment"), ("tollgate_api", "provider_key"),
}  # fmt: skip
Login = Callable[[str], Settings]


@pytest.fixture
async def login(settings: Settings) -> AsyncIterator[Login]:
    """The test's database with its roles, and settings of a user that is a member of one."""
    admin = await connect(settings, application_name="test", unlimited=True)
    await ensure_roles(admin)
    place = urlsplit(settings.postgres.get_secret_value())
    users = {role: f"{place.path[1:]}_{role}" for role in ROLES}
    for role, user in users.items():
        await admin.execute(f'CREATE ROLE "{user}" LOGIN IN ROLE {role}')

    def of(role: str) -> Settings:
        address = place._replace(netloc=f"{users[role]}@{place.hostname}:{place.port}")
        return settings.model_copy(update={"postgres": SecretStr(urlunsplit(address))})

    yield of
    for user in users.values():
        await admin.execute(
            "SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE usename = $1", user
        )
        await admin.execute(f'DROP OWNED BY "{user}"')
        await admin.execute(f'DROP ROLE "{user}"')
    await admin.close()


@asynccontextmanager
async def acting(settings: Settings) -> "AsyncIterator[asyncpg.Connection[asyncpg.Record]]":
    made = await connect(settings, application_name="test")
    try:
        yield made
    finally:
        await made.close()


async def test_every_role_has_what_its_statements_need_and_nothing_else(
    settings: Settings, login: Login
) -> None:
    """A statement without its grant, or a grant without a statement: put it into, or take it out
    of, sql/postgres/roles.sql."""
    wrong = []
    async with acting(settings) as connection, acting(settings) as asked:
        parser = Parser(asked)
        await parser.listen()
        for role in ENTRIES:
            needed = await needed_by(parser, reached(role))
            granted = await granted_to(connection, role)
            inner = await called_functions(connection, reached(role))
            for right, users in needed.items():
                if not satisfied(right, granted):
                    wrong.append(f"GRANT {right} TO {role}; -- {', '.join(users[:3])}")
            wrong += [
                f"GRANT {right} TO {role}; -- inside of a function"
                for right in inner
                if not satisfied(right, granted)
            ]
            for right in granted - set(needed):
                locked = Right(right.thing, "UPDATE", LOCKED)
                by_function = Right(right.thing, right.verb, LOCKED if right.column else "")
                if locked not in needed and by_function not in inner:
                    wrong.append(f"-- nothing needs: GRANT {right} TO {role}")
    assert not wrong, "\n".join(sorted(wrong))


def satisfied(right: Right, granted: set[Right]) -> bool:
    if right.column == LOCKED:
        return any(each.thing == right.thing and each.verb == "UPDATE" for each in granted)
    return right in granted


async def test_the_comparison_sees_what_is_missing(settings: Settings, login: Login) -> None:
    """The rights of a few statements, as anybody can read them."""
    async with acting(settings) as asked:
        parser = Parser(asked)
        await parser.listen()
        assert await parser.needed(Use("purge", "purge_keys")) == {
            Right("idempotency_key", "DELETE"),
            Right("idempotency_key", "SELECT"),
            Right("idempotency_key", "UPDATE", LOCKED),
        }
        assert await parser.needed(Use("admin_acts", "set_cap")) == {
            Right("account", "SELECT"),
            Right("account", "UPDATE", "monthly_cap_micro"),
        }
        assert await parser.needed(Use("audit_log", "note")) == {
            Right("audit_log", "INSERT"),
            Right("audit_log", "SELECT"),
        }
        assert Right("batch_id_seq", "USAGE") in await parser.needed(Use("ledger", "next_batch_id"))
    assert Use("COPY", "charge") in reached("tollgate_rater")
    assert Use("audit_log", "note") not in reached("tollgate_rater")


async def test_what_is_append_only_or_deleted_is_as_the_design_says(
    settings: Settings, login: Login
) -> None:
    async with acting(settings) as connection:
        granted = {(role, right) for role in ROLES for right in await granted_to(connection, role)}
        granted -= {(OWNER, right) for _, right in granted}
        changes = {"UPDATE", "DELETE", "TRUNCATE"}
        assert not {
            (role, str(right))
            for role, right in granted
            if right.thing in APPEND_ONLY and right.verb in changes
        }
        assert {(role, right.thing) for role, right in granted if right.verb == "DELETE"} == DELETES
        assert {right.verb for _, right in granted} <= {
            "SELECT", "INSERT", "UPDATE", "DELETE", "USAGE",
        }  # fmt: skip
        assert {role for role, right in granted if right.thing in {"api_key", "provider_key"}} == {
            "tollgate_api",
            "tollgate_operator",
        }
        owners = await connection.fetch(
            "SELECT DISTINCT relowner::regrole::text FROM pg_class"
            " WHERE relnamespace = current_schema()::regnamespace"
        )
        assert [row[0] for row in owners] == [OWNER]
        for role in ROLES:
            attributes = await connection.fetchrow(
                "SELECT rolcanlogin, rolsuper, rolcreaterole, rolcreatedb, rolbypassrls,"
                " rolreplication FROM pg_roles WHERE rolname = $1",
                role,
            )
            assert not any(attributes), role


FORBIDDEN = [
    ("tollgate_api", "UPDATE charge SET amount_micro = 0"),
    ("tollgate_api", "INSERT INTO charge DEFAULT VALUES"),
    ("tollgate_api", "UPDATE stream_position SET next_offset = 0"),
    ("tollgate_api", "INSERT INTO price_version DEFAULT VALUES"),
    ("tollgate_api", "INSERT INTO api_key DEFAULT VALUES"),
    ("tollgate_api", "UPDATE api_key SET role = 'admin'"),
    ("tollgate_api", "DELETE FROM idempotency_key"),
    ("tollgate_api", "UPDATE credit_proposal SET amount_micro = 1"),
    ("tollgate_api", "UPDATE credit_proposal SET proposed_by = 'x'"),
    ("tollgate_scheduler", "UPDATE credit_proposal SET state = 'approved'"),
    ("tollgate_api", "SELECT payload FROM dead_letter"),
    ("tollgate_rater", "SELECT ciphertext FROM provider_key"),
    ("tollgate_rater", "SELECT digest FROM api_key"),
    ("tollgate_rater", "UPDATE charge SET amount_micro = 0"),
    ("tollgate_rater", "DELETE FROM charge"),
    ("tollgate_rater", "UPDATE account SET tier = 'pro'"),
    ("tollgate_rater", "UPDATE credit_grant SET amount_micro = 1"),
    ("tollgate_rater", "UPDATE audit_log SET actor = ''"),
    ("tollgate_rater", "INSERT INTO audit_log (actor, action, subject) VALUES ('', '', '')"),
    ("tollgate_warehouse", "UPDATE account SET balance_micro = 1"),
    ("tollgate_warehouse", "INSERT INTO credit_transaction DEFAULT VALUES"),
    ("tollgate_warehouse", "SELECT ciphertext FROM provider_key"),
    ("tollgate_warehouse", "SELECT response FROM idempotency_key"),
    ("tollgate_scheduler", "INSERT INTO charge DEFAULT VALUES"),
    ("tollgate_scheduler", "DELETE FROM charge"),
    ("tollgate_scheduler", "UPDATE stream_position SET next_offset = 0"),
    ("tollgate_scheduler", "SELECT digest FROM api_key"),
    ("tollgate_operator", "UPDATE charge SET amount_micro = 0"),
    ("tollgate_operator", "DELETE FROM audit_log"),
    ("tollgate_operator", "DELETE FROM credit_proposal"),
    ("tollgate_operator", "TRUNCATE charge"),
    ("tollgate_operator", "ALTER TABLE charge DISABLE TRIGGER ALL"),
    ("tollgate_operator", "CREATE TABLE mine (n integer)"),
    ("tollgate_operator", "SET session_replication_role = replica"),
    ("tollgate_analyst", "UPDATE account SET balance_micro = 1"),
    ("tollgate_analyst", "INSERT INTO account (account_id, tier) VALUES ('x', 'free')"),
    ("tollgate_analyst", "SELECT ciphertext FROM provider_key"),
    ("tollgate_analyst", "SELECT digest FROM api_key"),
    ("tollgate_analyst", "SELECT payload FROM dead_letter"),
    ("tollgate_analyst", "SELECT code FROM coupon"),
    ("tollgate_analyst", "SELECT response FROM idempotency_key"),
    ("tollgate_owner", "CREATE ROLE another"),
    ("tollgate_owner", "SET session_replication_role = replica"),
]


async def test_what_is_not_its_work_is_refused(login: Login) -> None:
    for role in ROLES:
        async with acting(login(role)) as connection:
            for _, statement in (each for each in FORBIDDEN if each[0] == role):
                with pytest.raises(asyncpg.InsufficientPrivilegeError):
                    await connection.execute(statement)


async def test_the_rater_charges(settings: Settings, login: Login) -> None:
    async with desk(login("tollgate_rater"), create_accounts=True) as rater:
        # What the desk asks for itself is not the rater's.
        await rater.open()
        good = [usage(f"e{n}", f"acct-{n % 3}") for n in range(9)]
        await rater.apply(*good, b"not json", usage("u1", "acct-1", model="nobodys-model"), good[0])
        await rater.apply(usage("e9", "acct-1"), first=12)
    async with acting(settings) as connection:
        assert await connection.fetchval("SELECT count(*) FROM charge") == 10
        reasons = await connection.fetch("SELECT reason FROM dead_letter ORDER BY reason")
        assert [row["reason"] for row in reasons] == ["bad_json", "unpriced"]


async def test_the_warehouse_copies_and_audits(settings: Settings, login: Login) -> None:
    await plant(settings, Batch(50, partitions=2))
    await plant_every_kind(settings)
    await plant_gifts(settings)
    warehouse = login("tollgate_warehouse")
    async with bench(warehouse) as at:
        await at.drain_with_credits()
    assert await assert_copied_exactly(settings) == 50
    assert (await audit(warehouse)).exact


async def test_the_analyst_reads(settings: Settings, login: Login) -> None:
    await plant(settings, Batch(3))
    async with acting(login(ANALYST)) as connection:
        assert await connection.fetchval("SELECT count(*) FROM charge") == 3
        assert await connection.fetchval("SELECT count(reason) FROM dead_letter") == 0


async def test_the_api_answers_on_every_route(
    settings: Settings, login: Login, topics: dict[str, str]
) -> None:
    async with acting(settings) as connection:
        await account(connection, "acme", 1_000 * CREDIT)
    found = []
    api = everything_on(login("tollgate_api"))
    async with serve(api) as address, client(address, "root", "admin") as admin:
        for kind in ("hold", "session"):
            wanted = {"credits": 5, f"{kind}_id": f"{kind}-of-acme"}
            assert (await admin.post(f"/api/v1/accounts/acme/{kind}s", json=wanted)).is_success
        succeeded = 0
        for each in operations():
            if each.access is Access.PUBLIC:
                continue
            answer = await ask(admin, each)
            succeeded += answer.is_success
            if answer.status_code >= 500 and "openrouter" not in each.path:
                found.append(f"{each.name}: {answer.status_code} {answer.text[:200]}")
    assert found == []
    assert succeeded > 40


async def test_two_admins_give_what_one_may_not(settings: Settings, login: Login) -> None:
    async with acting(settings) as connection:
        await account(connection, "acme", CREDIT)
    api = everything_on(login("tollgate_api")).model_copy(
        update={"dual_control_credits_micro": 1_000 * CREDIT}
    )
    async with (
        serve(api) as address,
        client(address, "anna", "admin") as anna,
        client(address, "bob", "admin") as bob,
    ):
        for number, body in enumerate(({"credits": -1_001}, {"credits": 1_002}), 1):
            answer = await anna.post(
                "/api/v1/admin/accounts/acme/adjustments", json={**body, "reason": "why"}
            )
            assert answer.status_code == 202, answer.text
            done = await bob.post(f"/api/v1/admin/proposals/{number}/approve", json={})
            assert done.status_code == 200, done.text
    assert done.json()["balance"] == "2"


async def ask(caller: httpx2.AsyncClient, each: Operation) -> httpx2.Response:
    things = {"account_id": "acme", "hold_id": "hold-of-acme", "session_id": "session-of-acme"}
    changes = {}
    if each.naming in (each.body or {}).get("properties", {}):
        changes[each.naming] = "acme"
    address = each.address(**things, provider="openrouter")
    return await caller.request(each.method, address, **each.request(**changes))


async def test_the_scheduler_does_every_job(settings: Settings, login: Login) -> None:
    async with acting(settings) as connection:
        await account(connection, "acme", 100 * CREDIT)
        await connection.execute(
            "INSERT INTO credit_hold (hold_id, account_id, amount_micro, touched_at)"
            " VALUES ('left', 'acme', 5, now() - interval '1 hour');"
            "UPDATE account SET held_micro = 5;"
            "INSERT INTO allowance (account_id, due_at) VALUES ('acme', now());"
            "INSERT INTO credit_grant (account_id, source, granted_by, amount_micro,"
            " remaining_micro, expires_at)"
            " SELECT 'acme', 'purchase', 'test', 7, 7, now() - interval '1 day';"
            "UPDATE account SET balance_micro = balance_micro + 7;"
            "INSERT INTO credit_transaction (account_id, type, amount_micro, balance_after_micro,"
            " actor) VALUES ('acme', 'GRANT', 7, 100000007, 'test');"
            "INSERT INTO idempotency_key (caller, key, operation, body_hash, response, created_at)"
            " VALUES ('a', 'k', 'x', '', '', now() - interval '400 days')"
        )
    scheduler = login("tollgate_scheduler")
    async with acting(scheduler) as connection:
        ended = {}
        for name in JobName:
            job = new_job(name, f"{name}:1", "test", datetime.now(UTC))
            ended[name] = await Workshop(scheduler).run(connection, job)
    assert [each.error for each in ended.values() if each is not None] == [""] * len(JobName)
    did = {name: each.figures for name, each in ended.items() if each is not None}
    assert did[JobName.REFRESH]["refreshed"] == 1
    assert did[JobName.RECONCILE]["examined"] == 1
    assert did[JobName.EXPIRE]["grants"] == 1
    assert did[JobName.AUDIT]["findings"] == 0
    assert did[JobName.PURGE]["keys"] == 1


# As a person types them. What each one reads and writes is compared above; here some are run.
TYPED = """
account create fresh --tier pro
grant acme 5 --reason trial
account adjust acme -1 --reason 'given twice'
coupon create TEN --credits 10 --uses 10
coupon redeem TEN acme
grant acme 5000 --reason large
proposal list
proposal reject 1 --reason 'not now'
api-key create chat --scope gate
charge void acct-1 e1 --reason test
dead-letters list
job purge --now
rerate list
audit-log verify
"""


def test_the_operator_does_the_daily_work(
    settings: Settings, login: Login, environment: dict[str, str]
) -> None:
    in_a_loop(lambda: _charged(settings))
    mine = {
        **environment,
        "TOLLGATE_POSTGRES": login("tollgate_operator").postgres.get_secret_value(),
        "TOLLGATE_DUAL_CONTROL_CREDITS_MICRO": str(1_000 * CREDIT),
    }
    said = []
    for line in TYPED.strip().splitlines():
        done = CliRunner().invoke(build_app(), shlex.split(line), env=mine)
        if done.exit_code:
            said.append(f"{line}: {done.exit_code} {done.output} {done.exception!r}")
    assert said == []


async def _charged(settings: Settings) -> None:
    async with acting(settings) as connection:
        await account(connection, "acme", 100 * CREDIT)
    async with desk(settings) as rater:
        await rater.open()
        await rater.apply(usage("e1", "acct-1"), usage("e2", "acct-1"), b"x")


async def test_members_of_the_owner_migrate_and_every_migration_renews_the_rights(
    settings: Settings, login: Login, topics: dict[str, str], environment: dict[str, str]
) -> None:
    deployer = login(OWNER)
    async with acting(deployer) as connection:
        await apply(connection, read_migrations(), read_reference())
        await connection.execute("CREATE TABLE later (n integer); GRANT SELECT ON later TO PUBLIC")
        await connection.execute("GRANT UPDATE ON charge TO tollgate_rater")
        await connection.execute("REVOKE SELECT ON account FROM tollgate_rater")
        would = await ensure_roles(connection, dry_run=True)
    address = deployer.postgres.get_secret_value()
    done = await report({**environment, "TOLLGATE_POSTGRES": address}, "migrate")
    assert (
        done["roles"]
        == asdict(would)
        == {
            "created": [],
            "granted": ["tollgate_rater: SELECT ON account"],
            "revoked": ["tollgate_rater: UPDATE ON charge"],
        }
    )
    async with acting(settings) as connection:
        owner = "SELECT relowner::regrole::text FROM pg_class WHERE relname = 'later'"
        assert await connection.fetchval(owner) == OWNER
        assert await ensure_roles(connection) == RolesReport([], [], [])


async def test_who_may_not_is_told_what_it_takes(settings: Settings, login: Login) -> None:
    async with acting(login("tollgate_rater")) as connection:
        with pytest.raises(Failure, match="member of tollgate_owner"):
            await ensure_roles(connection)
