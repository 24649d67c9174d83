"""Writes the tables in docs/ that the code knows better: `make docs`. A test fails when one is old.

A table stands between `<!-- table: NAME -->` and `<!-- end -->`.
"""

import json
import re
from collections.abc import Callable, Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any

import typer
from pydantic import SecretStr
from pydantic_core import PydanticUndefined

from adapters.metrics import METRICS
from adapters.settings import Settings
from producers.normalise.outcome import Refusal
from schemas.reasons import Reason
from schemas.topics import ALL
from tollgate.cli import build_app

PACKAGES = ("schemas", "core", "adapters", "consumers", "producers", "api", "stack", "tollgate")
FOLDER = Path(__file__).parent
_BLOCK = re.compile(r"(<!-- table: (\w+) -->\n).*?(<!-- end -->)", re.DOTALL)
_DAY_MS = 86_400_000


def commands() -> Iterator[tuple[str, Any]]:
    """Every command that does something, with its full name, in the order that --help shows."""
    return _leaves("tollgate", typer.main.get_command(build_app()))


def _leaves(name: str, command: Any) -> Iterator[tuple[str, Any]]:
    inner = getattr(command, "commands", {})
    if not inner or command.invoke_without_command:
        yield name, command
    for word, child in inner.items():
        yield from _leaves(f"{name} {word}", child)


def _table(head: Sequence[str], rows: Iterable[Sequence[str]]) -> str:
    lines = [head, ["---"] * len(head), *rows]
    return "".join(
        f"| {' | '.join(cell.replace('|', chr(92) + '|') for cell in line)} |\n" for line in lines
    )


def _settings() -> str:
    rows = []
    for name, field in Settings.model_fields.items():
        default = field.default
        if isinstance(default, SecretStr):
            default = default.get_secret_value()
        if isinstance(default, bool):
            default = str(default).lower()
        if isinstance(default, dict):
            default = json.dumps(default)  # as the variable is written
        shown = "" if default in ("", None, PydanticUndefined) else f"`{default}`"
        rows.append((f"`TOLLGATE_{name.upper()}`", shown, field.description or ""))
    return _table(("variable", "default", "meaning"), rows)


def _metrics() -> str:
    return _table(
        ("metric", "kind", "labels beside `stage`", "unit", "meaning"),
        (
            (
                f"`{metric.name}{'_total' if metric.kind == 'counter' else ''}`",
                metric.kind,
                ", ".join(f"`{label}`" for label in metric.labels),
                metric.unit,
                metric.meaning,
            )
            for metric in METRICS
        ),
    )


def _commands() -> str:
    return _table(
        ("command", "what it does"),
        (
            (f"`{name}`", " ".join((command.help or "").split("\n\n")[0].split()))
            for name, command in commands()
        ),
    )


def _reasons() -> str:
    return _table(
        ("reason", "what is wrong with the record"),
        ((f"`{reason}`", reason.meaning) for reason in Reason),
    )


def _refusals() -> str:
    return _table(
        ("reason", "what cannot be known"),
        ((f"`{reason}`", reason.meaning) for reason in Refusal),
    )


def _topics() -> str:
    return _table(
        ("topic", "key", "partitions", "kept for", "largest batch"),
        (
            (
                f"`{topic.name}`",
                topic.key,
                str(topic.partitions),
                f"{topic.retention_ms // _DAY_MS} days",
                f"{topic.max_message_bytes // 1024} KiB",
            )
            for topic in ALL
        ),
    )


TABLES: dict[str, Callable[[], str]] = {
    "settings": _settings,
    "metrics": _metrics,
    "commands": _commands,
    "reasons": _reasons,
    "refusals": _refusals,
    "topics": _topics,
}


def filled(text: str) -> str:
    """The text with every table as the code has it now; an unknown table is a KeyError."""
    return _BLOCK.sub(lambda block: block[1] + TABLES[block[2]]() + block[3], text)


if __name__ == "__main__":
    for path in sorted(FOLDER.glob("*.md")):
        path.write_text(filled(path.read_text(encoding="utf-8")), encoding="utf-8")
