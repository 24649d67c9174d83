"""docs/coverage.md names what exists, and no line of it is without a test or a plain "not yet"."""

import ast
import re
import shlex
from collections.abc import Iterator
from pathlib import Path

import pytest
import yaml
from pydantic import SecretStr

from adapters.settings import Settings
from api.app import create_app
from docs import tables
from schemas.job_names import JobName
from tollgate.run_command import Stage

ROOT = Path(__file__).parents[2]
PAGE = (ROOT / "docs/coverage.md").read_text(encoding="utf-8")
DOCUMENTS = ("(000)", "(001)", "(002)", "(003)", "(004)")
HEAD = ["what it says", "here", "held by"]
LINK = re.compile(r"\[`(test_\w+)`\]\(\.\./(tests/[\w/]+\.py)\)")
NOT_YET = re.compile(r"\*\*not yet\*\*: \w+")
# Served, and not among the operations of the OpenAPI document.
BESIDE = {"/openapi.json", "/metrics"}


def _rows(text: str) -> Iterator[list[str]]:
    """The lines of every table but its head, as cells."""
    for line in text.splitlines():
        if line.startswith("|"):
            cells = [cell.strip() for cell in line.strip().strip("|").split("|")]
            if cells != HEAD and set(cells) != {"---"}:
                yield cells


def _wrong(cells: list[str]) -> bool:
    """Whether a line has other than three cells, quotes nothing, or holds nothing."""
    if len(cells) != len(HEAD) or not cells[0]:
        return True
    return not (LINK.search(cells[2]) or NOT_YET.search(cells[2]))


def _operations() -> set[str]:
    settings = Settings(jwt_secret=SecretStr("s" * 32), local_login=True)
    return {
        f"{method.upper()} {path}"
        for path, methods in create_app(settings).openapi()["paths"].items()
        for method in methods
    }


def _spans() -> list[str]:
    return re.findall(r"`([^`\n]+)`", PAGE)


def _tests_of(path: Path) -> set[str]:
    kinds = ast.FunctionDef | ast.AsyncFunctionDef
    tree = ast.parse(path.read_text(encoding="utf-8"))
    return {node.name for node in ast.walk(tree) if isinstance(node, kinds)}


@pytest.mark.parametrize("number", DOCUMENTS)
def test_every_document_has_its_lines(number: str) -> None:
    part = re.split(r"^## ", PAGE, flags=re.MULTILINE)
    found = [text for text in part if number in text.partition("\n")[0]]
    assert len(found) == 1
    assert len(list(_rows(found[0]))) >= 20


def test_no_line_is_without_a_test_or_not_yet() -> None:
    assert not [cells for cells in _rows(PAGE) if _wrong(cells)]


@pytest.mark.parametrize(
    "line",
    [
        "| G1 | `GET /health` | |",
        "| G1 | `GET /health` | `tests/unit/test_cli.py` |",
        "| G1 | | **not yet** |",
        "| | | **not yet**: pages |",
        "| G1 | **not yet**: pages |",
    ],
)
def test_a_line_that_holds_nothing_is_seen(line: str) -> None:
    assert [_wrong(cells) for cells in _rows(line)] == [True]


def test_every_test_that_is_linked_exists() -> None:
    links = set(LINK.findall(PAGE))
    tests = {name: _tests_of(ROOT / name) for name in {path for _, path in links}}
    assert not sorted(f"{path}: {test}" for test, path in links if test not in tests[path])
    assert len(re.findall(r"`test_\w+`", PAGE)) == len(LINK.findall(PAGE))


def test_every_command_exists() -> None:
    known = dict(tables.commands())
    wrong = []
    for span in _spans():
        words = shlex.split(span)
        if words[0] != "tollgate":
            continue
        names = [name for name in known if words[: len(name.split())] == name.split()]
        options = {
            option
            for name in names
            for parameter in known[name].params
            for option in (*parameter.opts, *parameter.secondary_opts)
        }
        if not names or {word for word in words if word.startswith("--")} - options:
            wrong.append(span)
    assert not wrong


def test_every_stage_job_and_saved_question_exists() -> None:
    """What a command takes as its argument, and `test_every_command_exists` does not look at."""
    for command, known in (("run", Stage), ("job", JobName)):
        named = set(re.findall(rf"`tollgate {command} (\w+)", PAGE))
        assert named
        assert named <= set(known)
    questions = (ROOT / "sql/clickhouse/queries/analysts.sql").read_text(encoding="utf-8")
    saved = set(re.findall(r"--saved (\w+)", PAGE))
    assert saved
    assert saved <= set(re.findall(r"^-- name: (\w+)", questions, re.MULTILINE))


def test_every_endpoint_exists() -> None:
    operations = _operations()
    paths = {operation.partition(" ")[2] for operation in operations} | BESIDE
    endpoints = {span for span in _spans() if re.match(r"[A-Z]+ /", span)}
    assert len(endpoints) >= 20
    assert not endpoints - operations
    assert not {span for span in _spans() if span.startswith("/")} - paths


def test_every_metric_exists() -> None:
    text = (ROOT / "docs/operations.md").read_text(encoding="utf-8")
    assert not {span for span in _spans() if re.fullmatch(r"tollgate_\w+", span)} - set(
        re.findall(r"^\| `(tollgate_\w+)`", text, re.MULTILINE)
    )


def test_compose_runs_every_stage() -> None:
    compose = yaml.safe_load((ROOT / "docker-compose.yml").read_text(encoding="utf-8"))
    commands = [service.get("command", []) for service in compose["services"].values()]
    assert {command[1] for command in commands if command[:1] == ["run"]} == set(Stage)
