"""What docs/explain.md shows was really printed; only the times are others."""

import json
import re
import shlex
from datetime import timedelta
from pathlib import Path

from adapters.price_store import publish
from adapters.settings import Settings
from tests.batches import NOW, Desk, desk, usage
from tests.commands import run_tollgate

TEXT = (Path(__file__).parents[2] / "docs" / "explain.md").read_text(encoding="utf-8")
PAGES_ACTION = {
    "charge": "graduated",
    "steps": [{"up_to": "1000", "credits": "0.01"}, {"credits": "0.005"}],
}
_TIME = re.compile(r"\d{4}-\d\d-\d\d \d\d:\d\d:\d\d")


async def _story(bench: Desk) -> None:
    """The events that the page speaks of."""
    document = json.loads(await bench.value("SELECT document FROM price_version"))
    document["actions"]["page_ocr"] = PAGES_ACTION
    start = NOW - timedelta(days=40)
    await publish(bench.connection, document, start, "tests", correction=True)
    claude = {"provider": "anthropic", "model": "claude-sonnet-4-5"}
    tokens = {"input": 1000, "cache_read": 800, "output": 120}
    await bench.open()
    await bench.apply(
        usage("chat-17", "acme", tokens=tokens, **claude),
        usage("ocr-1", "acme") | {"data": {"action": "page_ocr", "quantity": 800}},
        usage("ocr-2", "acme") | {"data": {"action": "page_ocr", "quantity": 700}},
        usage("chat-18", "acme", model="gpt-99"),
    )


def _without_times(text: str) -> str:
    lines = (line.rstrip() for line in _TIME.sub("TIME", text).splitlines())
    return "\n".join(line for line in lines if line)


async def test_the_page_shows_what_is_printed(
    settings: Settings, environment: dict[str, str]
) -> None:
    async with desk(settings) as bench:
        await _story(bench)
    fences = re.findall(r"^```console\n\$ tollgate (.*)\n((?:.*\n)*?)```", TEXT, re.MULTILINE)
    assert len(fences) == 5
    for command, shown in fences:
        done = await run_tollgate(environment, *shlex.split(command))
        assert _without_times(done.stdout + done.stderr) == _without_times(shown), done.stdout
