"""An audit whose server vanishes ends by itself and at a stop; a session that vanishes is seen."""

import asyncio
import socket
import time
from collections.abc import AsyncIterator
from datetime import UTC, datetime

import asyncpg
import pytest
from pydantic import SecretStr

from adapters import jobs as runs
from adapters.audit import audit
from adapters.failures import Failure
from adapters.jobs import Busy, Figures, at_work, list_runs
from adapters.postgres import KEEPALIVE, TRANSIENT, Connection, connect, open_pool
from adapters.settings import Settings
from consumers import jobs
from consumers.jobs import Workshop
from schemas.job_names import JobName
from schemas.jobs import Job, new_job
from tests.faults.lossy_proxy import LossyProxy

BEGIN, MIDDLE = b"REPEATABLE READ", b"FROM grant_draw GROUP BY grant_id"


@pytest.fixture
async def connection(settings: Settings) -> AsyncIterator["asyncpg.Connection[asyncpg.Record]"]:
    made = await connect(settings, application_name="test")
    yield made
    await made.close()


@pytest.fixture
async def proxy(settings: Settings) -> AsyncIterator[LossyProxy]:
    made = LossyProxy(settings.postgres.get_secret_value())
    await made.open()
    yield made
    await made.close()


def an_audit(key: str = "audit:1") -> Job:
    return new_job(JobName.AUDIT, key, "test", datetime.now(UTC))


def through(proxy: LossyProxy, settings: Settings, seconds_max: float = 60) -> Settings:
    changes = {"postgres": SecretStr(proxy.dsn), "audit_seconds_max": seconds_max}
    return settings.model_copy(update=changes)


@pytest.mark.parametrize("moment", [BEGIN, MIDDLE])
async def test_an_audit_whose_server_vanishes_fails_at_its_limit(
    settings: Settings, connection: asyncpg.Connection, proxy: LossyProxy, moment: bytes
) -> None:
    proxy.silent_from = moment
    began = time.monotonic()
    ended = await Workshop(through(proxy, settings, 2)).run(connection, an_audit())
    assert ended is not None
    assert "longer than 2 s (TOLLGATE_AUDIT_SECONDS_MAX)" in ended.error
    assert time.monotonic() - began < 20
    assert proxy.silenced == 1
    with pytest.raises(Failure, match="TOLLGATE_AUDIT_SECONDS_MAX"):
        await audit(through(proxy, settings, 0.1))


async def test_an_audit_gives_signs_of_life_and_ends_at_a_stop(
    settings: Settings,
    connection: asyncpg.Connection,
    proxy: LossyProxy,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(jobs, "SIGN_SECONDS", 0.05)
    proxy.silent_from = MIDDLE
    workshop = Workshop(through(proxy, settings))
    signs: list[Figures] = []

    def note(figures: Figures) -> None:
        signs.append(figures)
        if len(signs) == 3:
            workshop.stop()

    async with asyncio.timeout(30):
        assert await workshop.run(connection, an_audit(), note) is None
    assert signs == [{}, {}, {}]
    [run] = await list_runs(connection, None, 5)
    assert run["state"] == "running"


async def test_an_audit_ends_when_its_lock_is_lost(
    settings: Settings,
    connection: asyncpg.Connection,
    proxy: LossyProxy,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(jobs, "SIGN_SECONDS", 0.05)
    proxy.silent_from = MIDDLE
    holder = await connect(settings, application_name="holder")

    async def lose() -> None:
        while not proxy.silenced:
            await asyncio.sleep(0.02)
        await connection.execute("SELECT pg_terminate_backend($1)", holder.get_server_pid())

    losing = asyncio.create_task(lose())
    async with asyncio.timeout(30):
        with pytest.raises(TRANSIENT):
            await Workshop(through(proxy, settings)).run(holder, an_audit())
    await losing


async def test_a_frozen_worker_loses_its_run(
    settings: Settings, connection: asyncpg.Connection, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Its kernel answers for it as long as it is frozen: only the session's silence shows it."""
    monkeypatch.setattr(runs, "SILENT_SECONDS_MAX", 2.0)
    frozen = await connect(settings, application_name="frozen")
    began = time.monotonic()
    work = at_work(frozen, an_audit())
    await work.__aenter__()
    with pytest.raises(Busy):
        await _take(connection)
    async with asyncio.timeout(30):
        while True:
            try:
                await _take(connection)
                break
            except Busy:
                await asyncio.sleep(0.05)
    assert time.monotonic() - began > 2
    await work.__aexit__(None, None, None)  # the session is closed: nothing is left to unlock
    assert frozen.is_closed()


async def _take(connection: Connection) -> None:
    async with at_work(connection, an_audit()):
        pass


async def test_a_session_may_be_idle_when_it_holds_no_run(connection: asyncpg.Connection) -> None:
    limit = "SELECT current_setting('idle_session_timeout')"
    assert await connection.fetchval(limit) == "0"
    async with at_work(connection, an_audit()):
        assert await connection.fetchval(limit) == "2min"
    assert await connection.fetchval(limit) == "0"


async def test_both_ends_look_whether_the_other_one_is_there(settings: Settings) -> None:
    wanted = [KEEPALIVE.idle_seconds, KEEPALIVE.interval_seconds, KEEPALIVE.count]
    names = ["tcp_keepalives_idle", "tcp_keepalives_interval", "tcp_keepalives_count"]
    async with open_pool(settings, application_name="test") as pool, pool.acquire() as pooled:
        single = await connect(settings, application_name="test", unlimited=True)
        for one in (single, pooled):
            said = [int(await one.fetchval("SELECT current_setting($1)", name)) for name in names]
            assert said == wanted
            ours = one._transport.get_extra_info("socket")
            assert ours.getsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE) == 1
            options = [socket.TCP_KEEPIDLE, socket.TCP_KEEPINTVL, socket.TCP_KEEPCNT]
            assert [ours.getsockopt(socket.IPPROTO_TCP, option) for option in options] == wanted
            silence = ours.getsockopt(socket.IPPROTO_TCP, socket.TCP_USER_TIMEOUT)
            assert silence == KEEPALIVE.seconds * 1000
        checked = await single.fetchval(
            "SELECT current_setting('client_connection_check_interval')"
        )
        assert checked == "10s"
        await single.close()
