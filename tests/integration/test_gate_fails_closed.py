"""PostgreSQL frozen, gone or read-only: the gate says no, within a second."""

import asyncio
import os
import signal
import time
from collections.abc import AsyncIterator

import asyncpg
import pytest

from adapters.gate import Gate, HoldRequest
from adapters.patience import Unavailable
from adapters.postgres import connect
from adapters.settings import Settings
from tests.gates import CREDIT, account, gate

SECONDS_MAX = 4.0


@pytest.fixture
async def connection(settings: Settings) -> AsyncIterator["asyncpg.Connection[asyncpg.Record]"]:
    made = await connect(settings, application_name="test")
    yield made
    await made.close()


@pytest.fixture
async def impatient(settings: Settings) -> AsyncIterator[Gate]:
    """With one connection: when that is frozen, all of PostgreSQL is for this gate."""
    async with gate(settings, seconds_max=0.8, size=1) as made:
        yield made


async def _refused(the_gate: Gate) -> float:
    """Every operation at once; returns the longest wait."""

    async def one(work: object) -> float:
        began = time.monotonic()
        with pytest.raises(Unavailable):
            await work  # type: ignore[misc]
        return time.monotonic() - began

    waits = await asyncio.gather(
        one(the_gate.check("acme", 1)),
        one(the_gate.hold(HoldRequest("acme", CREDIT, "app"))),
        one(the_gate.extend("acme", "h1", CREDIT)),
    )
    return max(waits)


async def test_postgres_frozen(connection: asyncpg.Connection, impatient: Gate) -> None:
    await account(connection, "acme", 100 * CREDIT)
    await _answers_again(impatient)
    backends = [
        row["pid"]
        for row in await connection.fetch(
            "SELECT pid FROM pg_stat_activity"
            " WHERE application_name = 'tollgate-gate' AND datname = current_database()"
        )
    ]
    for pid in backends:
        os.kill(pid, signal.SIGSTOP)
    try:
        waited_seconds = await _refused(impatient)
    finally:
        for pid in backends:
            os.kill(pid, signal.SIGCONT)
    assert waited_seconds < SECONDS_MAX
    await _answers_again(impatient)
    assert await connection.fetchval("SELECT held_micro FROM account") == 0


async def test_a_connection_at_hand_that_freezes_is_a_no_and_is_not_used_again(
    connection: asyncpg.Connection, settings: Settings
) -> None:
    await account(connection, "acme", 100 * CREDIT)
    async with gate(settings, seconds_max=0.8, size=4) as the_gate:
        await _answers_again(the_gate)
        kept = await connection.fetchval(
            "SELECT pid FROM pg_stat_activity"
            " WHERE application_name = 'tollgate-gate' AND datname = current_database()"
        )
        os.kill(kept, signal.SIGSTOP)
        try:
            began = time.monotonic()
            with pytest.raises(Unavailable):
                await the_gate.check("acme", CREDIT)
            assert time.monotonic() - began < SECONDS_MAX
            await _answers_again(the_gate)
        finally:
            os.kill(kept, signal.SIGCONT)


async def test_postgres_gone(settings: Settings) -> None:
    nowhere = settings.model_copy(
        update={"postgres": type(settings.postgres)("postgresql://tollgate@127.0.0.1:1/none")}
    )
    async with gate(nowhere, seconds_max=0.8) as impatient:
        assert await _refused(impatient) < SECONDS_MAX


async def test_postgres_read_only(connection: asyncpg.Connection, impatient: Gate) -> None:
    await account(connection, "acme", 100 * CREDIT)
    database = await connection.fetchval("SELECT current_database()")
    await connection.execute(f'ALTER DATABASE "{database}" SET default_transaction_read_only = on')
    with pytest.raises(Unavailable):
        await impatient.hold(HoldRequest("acme", CREDIT, "app"))
    with pytest.raises(Unavailable):
        await impatient.check("acme", CREDIT)
    assert await connection.fetchval("SELECT held_micro FROM account") == 0


async def _answers_again(the_gate: Gate) -> None:
    end = time.monotonic() + 20
    while time.monotonic() < end:
        try:
            if (await the_gate.check("acme", CREDIT)).sufficient:
                return
        except (Unavailable, asyncpg.PostgresError):
            await asyncio.sleep(0.1)
    raise AssertionError("the gate did not recover")
