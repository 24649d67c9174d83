"""Drift that is planted in PostgreSQL shows in the metrics, whatever befell an audit before."""

import asyncio
import re
from functools import partial
from types import SimpleNamespace
from urllib.parse import urlsplit

import asyncpg
import pytest
from clickhouse_connect.driver.exceptions import OperationalError
from pydantic import SecretStr

from adapters import copy_audit
from adapters.audit import Report, audit
from adapters.failures import Failure
from adapters.metrics import Metrics
from adapters.settings import Settings
from consumers import drift
from consumers.drift import audit_once, watch_drift
from tests.batches import desk, usage

# An answer of many blocks, of which the line lets some through.
LONG = """
SELECT leftPad(toString(number), 500), today(), 1, 0, 0
FROM numbers(20000) SETTINGS max_block_size = 500, max_threads = 1
"""
ANSWER_BYTES_MAX = 3_000_000


def _findings(metrics: Metrics) -> dict[str, int]:
    found = re.findall(r'tollgate_drift\{check="([^"]+)".*\} (\S+)', metrics.text().decode())
    return {check: round(float(count)) for check, count in found}


async def test_a_balance_that_was_tampered_with_is_a_finding_until_it_is_mended(
    settings: Settings,
) -> None:
    async with desk(settings) as bench:
        await bench.open()
        await bench.apply(usage("e1"), usage("e2", "other"))
        metrics = Metrics("warehouse")
        await audit_once(settings, metrics)
        clean = _findings(metrics)
        assert len(clean) > 5
        assert not any(clean.values())
        await _move(bench.connection, 7)
        await audit_once(settings, metrics)
        assert _findings(metrics)["balance = sum of ledger"] == 1
        await _move(bench.connection, -7)
        await audit_once(settings, metrics)
        assert not any(_findings(metrics).values())


async def _move(connection: "asyncpg.Connection[asyncpg.Record]", amount_micro: int) -> None:
    await connection.execute(
        "UPDATE account SET balance_micro = balance_micro + $1 WHERE account_id = 'acct'",
        amount_micro,
    )


async def test_an_audit_whose_stream_ends_halfway_is_a_failure(
    settings: Settings, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(copy_audit, "CH", SimpleNamespace(charge_days=LONG))
    async with await asyncio.start_server(partial(_relay, settings), "127.0.0.1", 0) as line:
        port = line.sockets[0].getsockname()[1]
        cut = settings.model_copy(update={"clickhouse": SecretStr(f"http://127.0.0.1:{port}")})
        with pytest.raises(Failure, match="ClickHouse does not answer: Stream failed"):
            await audit(cut)


async def _relay(
    settings: Settings, reader: asyncio.StreamReader, writer: asyncio.StreamWriter
) -> None:
    """To ClickHouse and back, until the answers were longer than one line carries."""
    url = urlsplit(settings.clickhouse.get_secret_value())
    answers, requests = await asyncio.open_connection(url.hostname, url.port)
    asking = asyncio.create_task(_copy(reader, requests))
    left = ANSWER_BYTES_MAX
    while left > 0 and (part := await answers.read(left)):
        left -= len(part)
        writer.write(part)
        await writer.drain()
    asking.cancel()
    writer.close()
    requests.close()


async def _copy(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    while part := await reader.read(65_536):
        writer.write(part)


async def test_an_error_that_nobody_expected_does_not_end_the_watching(
    settings: Settings, monkeypatch: pytest.MonkeyPatch
) -> None:
    again, audits = asyncio.Event(), 0

    async def fails(_: Settings) -> Report:
        nonlocal audits
        audits += 1
        if audits == 1:
            raise OperationalError("a new one")
        again.set()
        raise Failure("not this time either")

    monkeypatch.setattr(drift, "audit", fails)
    monkeypatch.setattr(drift, "PAUSE_FACTOR", 1)
    hasty = settings.model_copy(update={"audit_seconds": 0.01})
    watching = asyncio.create_task(watch_drift(hasty, Metrics("warehouse")))
    seen = asyncio.create_task(again.wait())
    await asyncio.wait({watching, seen}, timeout=20, return_when=asyncio.FIRST_COMPLETED)
    for task in (watching, seen):
        task.cancel()
    await asyncio.gather(watching, seen, return_exceptions=True)
    assert again.is_set()
