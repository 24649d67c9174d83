"""Adjustments up and down, and the log of who made them."""

from collections.abc import AsyncIterator

import asyncpg
import pytest

from adapters.adjustments import Adjusted, Adjustment, adjust
from adapters.audit_log import list_acts
from adapters.failures import Failure
from adapters.postgres import connect
from adapters.settings import Settings
from tests.gates import CREDIT, account, assert_sound


@pytest.fixture
async def connection(settings: Settings) -> AsyncIterator["asyncpg.Connection[asyncpg.Record]"]:
    made = await connect(settings, application_name="test")
    await account(made, "acme", 100 * CREDIT)
    yield made
    await assert_sound(made)
    await made.close()


async def adjusted(connection: asyncpg.Connection, credit: int, account_id: str = "acme") -> object:
    async with connection.transaction():
        return await adjust(
            connection, Adjustment(account_id, credit * CREDIT, "root", "goodwill", "req-1")
        )


async def test_up_down_and_below_nothing(connection: asyncpg.Connection) -> None:
    up = await adjusted(connection, 50)
    assert isinstance(up, Adjusted)
    assert (up.balance_before_micro, up.balance_micro) == (100 * CREDIT, 150 * CREDIT)
    down = await adjusted(connection, -170)
    assert isinstance(down, Adjusted)
    assert down.balance_micro == -20 * CREDIT
    assert await connection.fetchval("SELECT spend_micro FROM account") == 0
    assert await connection.fetchval("SELECT overdraft_micro FROM account") == 20 * CREDIT
    again = await adjusted(connection, 30)
    assert isinstance(again, Adjusted)
    assert again.balance_micro == 10 * CREDIT
    assert await connection.fetchval("SELECT overdraft_micro FROM account") == 0


async def test_the_log_says_who_what_when_from_and_to(connection: asyncpg.Connection) -> None:
    await adjusted(connection, 50)
    await adjusted(connection, -10)
    acts = await list_acts(connection, subject="acme", action="adjust")
    assert [(act["actor"], act["reason"], act["request_id"]) for act in acts] == [
        ("root", "goodwill", "req-1")
    ] * 2
    assert acts[0]["before"] == {"balance_micro": 150 * CREDIT}
    assert acts[0]["after"]["balance_micro"] == 140 * CREDIT
    older = await list_acts(connection, below_id=acts[0]["audit_id"], acts_max=1)
    assert older == acts[1:]
    assert await list_acts(connection, actor="nobody") == []


async def test_an_unknown_account_is_not_logged(connection: asyncpg.Connection) -> None:
    assert await adjusted(connection, 1, "nobody") is None
    assert await list_acts(connection) == []


@pytest.mark.parametrize("statement", ["UPDATE audit_log SET actor = 'x'", "DELETE FROM audit_log"])
async def test_the_log_can_not_be_changed(connection: asyncpg.Connection, statement: str) -> None:
    await adjusted(connection, 1)
    with pytest.raises(asyncpg.RaiseError, match="append-only"):
        await connection.execute(statement)


@pytest.mark.parametrize(
    ("amount_micro", "reason"),
    [(0, "why"), (10**15 + 1, "why"), (1, ""), (1, " "), (1, "a\nb"), (1, "x" * 301)],
)
def test_what_can_not_be_an_adjustment(amount_micro: int, reason: str) -> None:
    with pytest.raises(Failure):
        Adjustment("acme", amount_micro, "root", reason)
