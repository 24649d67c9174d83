"""What docs/credits.md shows was really printed; only times and the user's name are others."""

import re
import shlex
from pathlib import Path

from adapters.gate import HoldRequest
from adapters.gate_account import Spending
from adapters.settings import Settings
from tests.batches import desk, usage
from tests.commands import run_tollgate
from tests.gates import CREDIT, gate

TEXT = (Path(__file__).parents[2] / "docs" / "credits.md").read_text(encoding="utf-8")
LIMIT = "TOLLGATE_DUAL_CONTROL_CREDITS_MICRO"
_TIME = re.compile(r"\d{4}-\d\d-\d\d \d\d:\d\d:\d\d")
_ACTOR = re.compile(r"cli:\S+")
_CURSOR = re.compile(r"--before [A-Za-z0-9_-]{20,}")


async def _work(settings: Settings) -> None:
    """What the app does in the story: three holds, a settlement by call, one by usage event."""
    async with gate(settings) as the_gate, desk(settings) as rater:
        for hold_id, credit in (("job-1", 10), ("job-2", 25), ("job-3", 4)):
            await the_gate.hold(HoldRequest("acme", credit * CREDIT, "app", hold_id))
        await the_gate.settle("job-1", Spending("acme", "app", 7_250_000))
        await rater.open()
        await rater.apply(usage("chat-17", "acme", hold_id="job-2"))


def _comparable(text: str) -> str:
    """Without what differs from run to run, and without the widths that follow from it."""
    text = _CURSOR.sub("--before CURSOR", _ACTOR.sub("cli:NAME", _TIME.sub("TIME", text)))
    lines = (re.sub(r"─+", "─", " ".join(line.split())) for line in text.splitlines())
    return "\n".join(line for line in lines if line)


async def test_the_page_shows_what_is_printed(
    settings: Settings, environment: dict[str, str]
) -> None:
    fences = re.findall(r"^```console\n(\$ tollgate .*\n(?:.*\n)*?)```", TEXT, re.MULTILINE)
    calls = re.split(r"^\$ tollgate ", "".join(fences), flags=re.MULTILINE)[1:]
    assert len(calls) == 18
    for call in calls:
        command, _, shown = call.partition("\n")
        if command == "account show acme --entries 0":
            await _work(settings)
        if command.startswith("grant acme 5000"):
            environment = environment | {"LOGNAME": "anna", LIMIT: str(1_000 * CREDIT)}
        if command.startswith("proposal list"):
            environment = environment | {"LOGNAME": "bob"}
        done = await run_tollgate(environment, *shlex.split(command))
        assert _comparable(done.stdout + done.stderr) == _comparable(shown), command
