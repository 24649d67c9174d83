"""Runs the command as a person would: a process of its own, with the test's settings."""

import asyncio
import json
import subprocess
import sys
from collections.abc import Mapping
from typing import Any

Done = subprocess.CompletedProcess[str]


def tollgate(environment: Mapping[str, str], *arguments: str, typed: str = "") -> Done:
    """Runs `tollgate ...` to its end and returns what it said."""
    return subprocess.run(
        [sys.executable, "-m", "tollgate.cli", *arguments],
        env=dict(environment),
        input=typed,
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
    )


async def run_tollgate(environment: Mapping[str, str], *arguments: str, typed: str = "") -> Done:
    """The same from a test that has an event loop."""
    return await asyncio.to_thread(tollgate, environment, *arguments, typed=typed)


async def report(environment: Mapping[str, str], *arguments: str) -> Any:
    """The JSON document of a command that reports; fails with what it said on stderr."""
    done = await run_tollgate(environment, *arguments, "--json")
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout)
