"""`tollgate run` as a process manager sees it: probes, signals, exit codes."""

import asyncio
import contextlib
import json
import os
import signal
import socket
import sys
import urllib.request
from collections.abc import AsyncIterator, Mapping

import pytest

from tests.commands import run_tollgate

STARTED_SECONDS_MAX = 40


def free_port() -> int:
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        port: int = listener.getsockname()[1]
        return port


@contextlib.asynccontextmanager
async def running(
    environment: Mapping[str, str], stage: str, port: int
) -> AsyncIterator[asyncio.subprocess.Process]:
    process = await asyncio.create_subprocess_exec(
        sys.executable,
        *("-m", "tollgate.cli", "run", stage, "--probe-port", str(port)),
        env=dict(environment),
        stderr=asyncio.subprocess.PIPE,
    )
    try:
        yield process
    finally:
        with contextlib.suppress(ProcessLookupError):
            process.kill()
        await process.communicate()


def fetch(port: int, path: str) -> bytes:
    with urllib.request.urlopen(f"http://127.0.0.1:{port}{path}", timeout=5) as answer:
        body: bytes = answer.read()
        return body


async def until_ready(port: int) -> None:
    async with asyncio.timeout(STARTED_SECONDS_MAX):
        while True:
            with contextlib.suppress(OSError):
                await asyncio.to_thread(fetch, port, "/readyz")
                return
            await asyncio.sleep(0.1)


@pytest.mark.parametrize("stage", ["rater", "warehouse"])
@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
async def test_a_stage_gets_ready_and_stops_when_asked(
    environment: dict[str, str], topics: dict[str, str], stage: str, number: signal.Signals
) -> None:
    port = free_port()
    async with running(environment, stage, port) as process:
        await until_ready(port)
        assert json.loads(await asyncio.to_thread(fetch, port, "/healthz"))["stage"] == stage
        metrics = await asyncio.to_thread(fetch, port, "/metrics")
        assert b"process_resident_memory_bytes" in metrics
        process.send_signal(number)
        _, said = await asyncio.wait_for(process.communicate(), timeout=30)
    lines = [json.loads(line) for line in said.decode().splitlines()]
    assert process.returncode == 0, said
    assert {line["stage"] for line in lines} == {stage}
    assert lines[-1]["event"] == "stopped as asked"


async def test_a_stage_without_its_broker_says_so_and_exits_with_1(
    environment: dict[str, str],
) -> None:
    done = await run_tollgate({**environment, "TOLLGATE_KAFKA": "127.0.0.1:9"}, "run", "rater")
    assert done.returncode == 1
    assert any(line.startswith("tollgate: rater stopped") for line in done.stderr.splitlines())


async def test_a_taken_probe_port_is_one_clear_line(environment: dict[str, str]) -> None:
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        listener.listen()
        port = str(listener.getsockname()[1])
        done = await run_tollgate(environment, "run", "warehouse", "--probe-port", port)
    assert done.returncode == 1
    assert "TOLLGATE_PROBE_PORT" in done.stderr.splitlines()[-1]


async def test_a_rater_steps_back_and_the_clock_does_not(
    environment: dict[str, str], topics: dict[str, str]
) -> None:
    assert topics
    found = {}
    for stage in ("rater", "clock"):
        port = free_port()
        async with running(environment, stage, port) as process:
            await until_ready(port)
            found[stage] = os.getpriority(os.PRIO_PROCESS, process.pid)
    assert found == {"rater": 10, "clock": 0}
