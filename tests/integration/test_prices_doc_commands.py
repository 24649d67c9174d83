"""What docs/pricing.md shows was really printed: its commands, one after the other."""

import asyncio
import os
import re
import subprocess
import sys
from collections.abc import Mapping
from pathlib import Path

from tests.unit.test_prices_doc import TEXT


def _shown() -> list[tuple[str, list[str]]]:
    """Each command of the page with the lines below it; "..." stands for any lines."""
    found: list[tuple[str, list[str]]] = []
    for fence in re.findall(r"^```console\n(.*?)^```", TEXT, re.MULTILINE | re.DOTALL):
        for line in fence.splitlines():
            if line.startswith("$ "):
                found.append((line.removeprefix("$ "), []))
            else:
                found[-1][1].append(line)
    return found


def _run(environment: Mapping[str, str], command: str, folder: Path) -> str:
    programs = f"{Path(sys.executable).parent}{os.pathsep}{environment['PATH']}"
    return subprocess.run(
        ["bash", "-c", command],
        env={**environment, "PATH": programs},
        cwd=folder,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        timeout=120,
        check=False,
    ).stdout


async def test_the_page_shows_what_is_printed(environment: dict[str, str], tmp_path: Path) -> None:
    shown = _shown()
    commands = [command.split()[2] for command, _ in shown if command.startswith("tollgate")]
    assert commands == ["show", "validate", "diff", "publish", "publish", "publish", "import"]
    for command, lines in shown:
        printed = await asyncio.to_thread(_run, environment, command, tmp_path)
        pattern = "".join(
            "(?:.*\n)*?" if line == "..." else f"{re.escape(line)}\n" for line in lines
        )
        assert re.fullmatch(pattern, printed), f"$ {command}\n{printed}"
