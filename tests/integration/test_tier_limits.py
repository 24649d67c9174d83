"""C9: the tier of an account decides its limits, in the gate's own transaction."""

import asyncio
from collections.abc import AsyncIterator

import asyncpg
import pytest

from adapters.accounts import GrantRequest, create_account, give
from adapters.failures import Failure
from adapters.gate import Gate, HoldRequest, Rules
from adapters.gate_account import Spending
from adapters.gate_outcomes import Deducted, Denied, Held
from adapters.postgres import connect, open_pool
from adapters.settings import Settings, TierLimit, load_settings
from adapters.tier_limits import tier_limits
from core.holds import Denial, Limits
from tests.apis import client, serve, with_tokens
from tests.commands import report, run_tollgate
from tests.gates import CREDIT, LIMITS, assert_sound

PRO = Limits(minimum_micro=50 * CREDIT, open_holds_max=2, cap_micro=30 * CREDIT)


@pytest.fixture
async def connection(settings: Settings) -> AsyncIterator["asyncpg.Connection[asyncpg.Record]"]:
    made = await connect(settings, application_name="test")
    for name, tier, given in (("f", "free", 40), ("p", "pro", 100), ("low", "pro", 49)):
        await create_account(made, name, tier=tier, demo=False, welcome=None)
        await give(made, GrantRequest(name, given * CREDIT, actor="test"))
    yield made
    await assert_sound(made)
    await made.close()


@pytest.fixture
async def gate(settings: Settings, connection: object) -> AsyncIterator[Gate]:
    rules = Rules(LIMITS, seconds_max=20.0, tiers={"pro": PRO})
    async with open_pool(settings, application_name="gate", size=8) as pool:
        yield Gate(pool, rules)


def _hold(account_id: str, whole: int) -> HoldRequest:
    return HoldRequest(account_id, whole * CREDIT, "test")


async def _set(connection: asyncpg.Connection, statement: str) -> None:
    await connection.execute(f"UPDATE account SET {statement}")  # noqa: S608


async def test_the_minimum_to_start_is_the_tiers(gate: Gate) -> None:
    assert (await gate.check("f", CREDIT)).denial is None
    assert (await gate.check("low", CREDIT)).denial is Denial.BELOW_MINIMUM
    refused = await gate.hold(_hold("low", 1))
    assert isinstance(refused, Denied)
    assert refused.denial is Denial.BELOW_MINIMUM


async def test_open_holds_are_as_many_as_the_tier_says(gate: Gate) -> None:
    made = await asyncio.gather(*(gate.hold(_hold("p", 1)) for _ in range(12)))
    assert sum(isinstance(one, Held) for one in made) == 2
    denials = {one.denial for one in made if isinstance(one, Denied)}
    assert denials == {Denial.TOO_MANY_HOLDS}
    assert isinstance(await gate.hold(_hold("f", 1)), Held)


async def test_the_tiers_cap_is_one_for_checks_holds_extensions_and_deductions(
    gate: Gate,
) -> None:
    assert (await gate.check("p", 31 * CREDIT)).denial is Denial.CAP
    assert (await gate.check("f", 31 * CREDIT)).denial is None
    held = await gate.hold(_hold("p", 20))
    assert isinstance(held, Held)
    more = await gate.extend("p", held.hold_id, 11 * CREDIT)
    assert isinstance(more, Denied)
    assert (more.denial, more.promisable_micro) == (Denial.CAP, 10 * CREDIT)
    dear = await gate.deduct(Spending("p", "test", amount_micro=11 * CREDIT))
    assert isinstance(dear, Denied)
    assert isinstance(await gate.deduct(Spending("p", "test", amount_micro=10 * CREDIT)), Deducted)
    assert (await gate.check("p", 1)).denial is Denial.CAP


async def test_of_many_holds_at_once_the_tiers_cap_lets_as_many_through_as_fit(
    gate: Gate, connection: asyncpg.Connection
) -> None:
    await connection.execute("UPDATE account SET tier = 'capped' WHERE account_id = 'p'")
    gate._rules = Rules(  # the same gate under another configuration
        LIMITS, seconds_max=20.0, tiers={"capped": Limits(0, 1_000, 30 * CREDIT)}
    )
    made = await asyncio.gather(*(gate.hold(_hold("p", 4)) for _ in range(30)))
    assert sum(isinstance(one, Held) for one in made) == 7


async def test_an_accounts_own_cap_wins_over_the_tiers(
    gate: Gate, connection: asyncpg.Connection
) -> None:
    await _set(connection, f"monthly_cap_micro = {60 * CREDIT}")
    assert (await gate.check("p", 60 * CREDIT)).denial is None
    await _set(connection, f"monthly_cap_micro = {5 * CREDIT}")
    assert (await gate.check("p", 6 * CREDIT)).denial is Denial.CAP


async def test_another_tier_counts_from_the_next_decision_on(
    gate: Gate, connection: asyncpg.Connection
) -> None:
    assert (await gate.check("p", 31 * CREDIT)).denial is Denial.CAP
    await _set(connection, "tier = 'free'")
    assert isinstance(await gate.hold(_hold("p", 31)), Held)


async def test_the_api_decides_by_the_tier_and_shows_its_cap(
    settings: Settings, connection: asyncpg.Connection
) -> None:
    tiers = {"pro": TierLimit(monthly_cap_micro=30 * CREDIT)}
    async with (
        serve(with_tokens(settings, tier_limits=tiers)) as address,
        client(address, "shop", "service") as app,
    ):
        holds = "/api/v1/accounts/p/holds"
        refused = await app.post(holds, json={"credits": 31})
        assert (refused.status_code, refused.json()["code"]) == (402, "monthly_cap")
        assert (await app.post(holds, json={"credits": 30})).status_code == 201
        assert (await app.get("/api/v1/accounts/p")).json()["monthly_cap"] == "30"
        assert (await app.get("/api/v1/accounts/f")).json()["monthly_cap"] is None
        old = (await app.get("/api/v1/credits/balance", params={"user_id": "p"})).json()
        assert old["monthly_cap"] == 30.0


async def test_the_command_says_whose_cap_it_is(
    environment: dict[str, str], connection: asyncpg.Connection
) -> None:
    said = {**environment, "TOLLGATE_TIER_LIMITS": '{"pro": {"monthly_cap_micro": 30000000}}'}
    assert "cap 30.000000 of its tier" in (await run_tollgate(said, "account", "show", "p")).stdout
    assert "no cap" in (await run_tollgate(said, "account", "show", "f")).stdout
    await _set(connection, f"monthly_cap_micro = {60 * CREDIT}")
    shown = await report(said, "account", "show", "p")
    assert (shown["cap_micro"], shown["minimum_micro"]) == (60 * CREDIT, 10 * CREDIT)


def test_what_a_tier_does_not_say_is_as_everywhere(monkeypatch: pytest.MonkeyPatch) -> None:
    said = '{"pro": {"monthly_cap_micro": 5}, "team": {"minimum_micro": 0, "open_holds_max": 7}}'
    monkeypatch.setenv("TOLLGATE_TIER_LIMITS", said)
    monkeypatch.setenv("TOLLGATE_OPEN_HOLDS_MAX", "9")
    found = tier_limits(load_settings())
    assert found.of("free") == Limits(10 * CREDIT, 9)
    assert found.of("pro") == Limits(10 * CREDIT, 9, 5)
    assert found.of("team") == Limits(0, 7)


@pytest.mark.parametrize("said", ['{"pro": {"cap": 1}}', '{"pro": {"open_holds_max": 0}}'])
def test_a_limit_that_is_none_is_refused_by_name(
    monkeypatch: pytest.MonkeyPatch, said: str
) -> None:
    monkeypatch.setenv("TOLLGATE_TIER_LIMITS", said)
    with pytest.raises(Failure, match=r"TOLLGATE_TIER_LIMITS: pro: "):
        load_settings()
