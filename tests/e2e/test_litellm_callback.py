"""LiteLLM's own `openmeter` callback against the running API: its events are charged.

It pins versions that the project can not share, so it lives in an environment of its own.
"""

import asyncio
import json
import os
import subprocess
import sys
import time
import venv
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import asyncpg
import httpx2

from adapters.settings import Settings
from bench.peers import LITELLM, LITELLM_LOCK
from tests.apis import SECRET
from tests.commands import report
from tests.workers import Worker, _free_port

CALLS = Path(__file__).with_name("litellm_calls.py")
INSTALL_SECONDS_MAX = 300
INSTALL_TRIES = 3
WAIT_SECONDS_MAX = 60


def _litellm_in(directory: Path) -> Path:
    """The Python of a new environment that has LiteLLM; our own pip fills it."""
    venv.create(directory, with_pip=False)
    python = directory / "bin" / "python"
    pip = [sys.executable, "-m", "pip", "--python", str(python), "install", "--quiet"]
    command = [*pip, "--no-compile", "--only-binary", ":all:", "-c", str(LITELLM_LOCK), LITELLM]
    for left in reversed(range(INSTALL_TRIES)):  # the network may fail for once
        done = subprocess.run(command, check=left == 0, timeout=INSTALL_SECONDS_MAX)
        if done.returncode == 0:
            break
    return python


def _ready(address: str) -> None:
    """Returns once the API answers."""
    deadline = time.monotonic() + WAIT_SECONDS_MAX
    while True:
        try:
            httpx2.get(f"{address}/health", timeout=5)
        except httpx2.HTTPError:
            assert time.monotonic() < deadline
            time.sleep(0.2)
        else:
            return


@contextmanager
def _calls(python: Path, address: str, key: str) -> Iterator[dict[str, str]]:
    """The id of each answer by the kind of call; LiteLLM runs until the block is left."""
    _ready(address)
    environment = {
        "PATH": os.environ["PATH"],
        "OPENMETER_API_ENDPOINT": address,
        "OPENMETER_API_KEY": key,
        "LITELLM_LOCAL_MODEL_COST_MAP": "True",
        "NO_PROXY": "127.0.0.1",
    }
    process = subprocess.Popen(
        [python, CALLS], env=environment, text=True, stdin=subprocess.PIPE, stdout=subprocess.PIPE
    )
    assert process.stdin
    assert process.stdout
    try:
        lines: list[str] = []
        while not (lines and lines[-1].startswith("{")):
            lines.append(process.stdout.readline())
            assert lines[-1], f"LiteLLM ended: {lines}"
        yield json.loads(lines[-1])
    finally:
        process.stdin.close()
        if process.wait(WAIT_SECONDS_MAX) != 0:
            raise AssertionError("LiteLLM failed")
        process.stdout.close()


async def test_what_litellm_reports_is_charged(
    settings: Settings, topics: dict[str, str], environment: dict[str, str], tmp_path: Path
) -> None:
    python = await asyncio.to_thread(_litellm_in, tmp_path / "litellm")
    issued = await report(environment, "api-key", "create", "litellm", "--scope", "usage")
    port = str(_free_port())
    own = {**environment, "TOLLGATE_API_PORT": port, "TOLLGATE_JWT_SECRET": SECRET}
    with Worker("rater", own), Worker("api", own), _calls(
        python, f"http://127.0.0.1:{port}", issued["credential"]
    ) as used:  # fmt: skip
        found = await _charged(settings, len(used))
    assert set(found) == set(used.values())
    plain, streamed = found[used["plain"]], found[used["streamed"]]
    gateway, mini = found[used["gateway"]], found[used["awaited"]]
    assert plain["rule"] == streamed["rule"] == "model:openai/gpt-4o"
    assert min(streamed["input_tokens"], streamed["output_tokens"], streamed["amount_micro"]) > 0
    assert "claude-3" in gateway["rule"]
    assert (mini["account_id"], mini["rule"]) == ("acct-2", "model:openai/gpt-4o-mini")
    # 10 and 20 tokens at 2.5 and 10 dollars for a million, in the free tier: x 1.5.
    assert (plain["input_tokens"], plain["output_tokens"]) == (10, 20)
    assert (plain["amount_micro"], plain["billed_pico"]) == (338, 225_000_000)
    assert {row["source"] for row in found.values()} == {"litellm-proxy"}


async def _charged(settings: Settings, count: int) -> dict[str, asyncpg.Record]:
    connection = await asyncpg.connect(settings.postgres.get_secret_value())
    deadline = time.monotonic() + WAIT_SECONDS_MAX
    try:
        while len(rows := await connection.fetch("SELECT * FROM charge")) < count:
            assert time.monotonic() < deadline, f"{len(rows)} of {count} charges"
            await asyncio.sleep(0.1)
        assert await connection.fetchval("SELECT count(*) FROM dead_letter") == 0
    finally:
        await connection.close()
    return {row["event_id"]: row for row in rows}
