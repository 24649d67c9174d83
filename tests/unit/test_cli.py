"""The command line without any server: help, versions, usage errors, exit codes."""

import json
import os
import re
import subprocess
import sys
from collections.abc import Iterator
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest
import typer
from typer.testing import CliRunner

from tollgate.cli import COMMANDS, build_app, main
from tollgate.output import print_json

CLOSED_PORT = "127.0.0.1:9"  # discard: nothing listens there
HEAVY = (
    "asyncpg",
    "aiokafka",
    "clickhouse_connect",
    "pydantic",
    "prometheus_client",
    "chdb",
    "rich",
)


def tollgate(*arguments: str, **variables: str) -> subprocess.CompletedProcess[str]:
    environment = {name: value for name, value in os.environ.items() if "TOLLGATE" not in name}
    return subprocess.run(
        [sys.executable, "-m", "tollgate.cli", *arguments],
        env={**environment, "TOLLGATE_HOME": "/nonexistent", **variables},
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )


def every_command(group: Any, path: tuple[str, ...] = ()) -> Iterator[tuple[str, ...]]:
    for name, command in group.commands.items():
        if hasattr(command, "commands"):
            yield from every_command(command, (*path, name))
        else:
            yield (*path, name)


ALL_COMMANDS = sorted(every_command(typer.main.get_command(build_app())))


SILENT = {("run",), ("schemas", "export")}  # they run, or write files: nothing to report


@pytest.mark.parametrize("path", ALL_COMMANDS, ids=" ".join)
def test_every_command_explains_itself_with_an_example(path: tuple[str, ...]) -> None:
    shown = CliRunner().invoke(build_app(), [*path, "--help"], env={"COLUMNS": "200"})
    assert shown.exit_code == 0, shown.output
    assert f"Example: tollgate {' '.join(path)}" in re.sub(r"\s+", " ", shown.output)
    assert ("--json" in shown.output) is (path not in SILENT)


def test_every_listed_module_is_there() -> None:
    place = Path(__file__).parents[2] / "tollgate"
    there = {f"tollgate.{path.stem}" for path in place.glob("*_command*.py")}
    assert set(COMMANDS) == there


def test_help_imports_nothing_that_is_slow() -> None:
    program = (
        "import sys, tollgate.cli; tollgate.cli.build_app(); "
        f"print(sorted(set({HEAVY!r}) & set(sys.modules)))"
    )
    shown = subprocess.run(
        [sys.executable, "-c", program], capture_output=True, text=True, check=True
    )
    assert shown.stdout.strip() == "[]"


def test_version_is_the_package_s() -> None:
    shown = tollgate("--version")
    assert re.fullmatch(r"tollgate \d+\.\d+\.\d+\n", shown.stdout)
    assert shown.returncode == 0


@pytest.mark.parametrize(
    "arguments",
    [
        ("nope",),
        ("--nope",),
        ("lag", "--nope"),
        ("run", "cook"),
        ("run",),
        ("grant", "acme", "1.2345678"),
        ("grant", "acme", "-1"),
        ("grant", "acme", "1e3"),
        ("account", "set", "acme"),
        ("dead-letters", "requeue"),
        ("dead-letters", "list", "--reason", "weather"),
        ("dead-letters", "list", "--since", "yesterday"),
        ("stream", "accept-epoch", "--json"),
    ],
    ids=" ".join,
)
def test_wrong_usage_is_one_line_and_exit_code_2(arguments: tuple[str, ...]) -> None:
    done = tollgate(*arguments)
    assert done.returncode == 2
    assert done.stdout == ""
    assert done.stderr.startswith("tollgate: ")
    assert done.stderr.count("\n") == 1
    assert "--help`" in done.stderr


def test_a_group_alone_shows_its_help() -> None:
    done = tollgate("dead-letters")
    assert done.returncode == 2
    assert "requeue" in done.stdout + done.stderr


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (("lag",), "PostgreSQL 127.0.0.1:9/tollgate does not answer"),
        (("migrate",), "PostgreSQL 127.0.0.1:9/tollgate does not answer"),
        (("account", "show", "acme"), "PostgreSQL 127.0.0.1:9/tollgate does not answer"),
        (("grant", "acme", "1"), "PostgreSQL 127.0.0.1:9/tollgate does not answer"),
        (("grant", "acme", "0"), "more than 0"),
        (("dead-letters", "list"), "PostgreSQL 127.0.0.1:9/tollgate does not answer"),
        (("stream", "accept-epoch"), "PostgreSQL 127.0.0.1:9/tollgate does not answer"),
        (("grant", "a b", "1"), "no account id"),
        (("grant", "acme", "1", "--expires", "2020-01-01"), "is over already"),
    ],
    ids=str,
)
def test_a_failure_is_one_line_and_exit_code_1(arguments: tuple[str, ...], said: str) -> None:
    dsn = f"postgresql://tollgate:hidden@{CLOSED_PORT}/tollgate"
    done = tollgate(*arguments, TOLLGATE_POSTGRES=dsn, TOLLGATE_KAFKA=CLOSED_PORT)
    assert done.returncode == 1
    assert done.stderr.startswith("tollgate: ")
    assert done.stderr.count("\n") == 1
    assert said in done.stderr
    assert "hidden" not in done.stderr


def test_a_dsn_that_is_none_is_named() -> None:
    done = tollgate("lag", TOLLGATE_POSTGRES="nonsense")
    assert done.returncode == 1
    assert done.stderr.startswith("tollgate: TOLLGATE_POSTGRES: is no address")
    assert done.stderr.count("\n") == 1


def test_a_wrong_setting_names_its_variable() -> None:
    done = tollgate("lag", TOLLGATE_PARTITIONS="many")
    assert done.returncode == 1
    assert "TOLLGATE_PARTITIONS" in done.stderr


def test_an_unexpected_error_is_one_line_unless_its_traceback_is_asked_for(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def breaks() -> typer.Typer:
        raise RuntimeError("first\nsecond")

    monkeypatch.setattr("tollgate.cli.build_app", breaks)
    with pytest.raises(SystemExit) as exited:
        main()
    assert exited.value.code == 1
    assert capsys.readouterr().err == (
        "tollgate: unexpected RuntimeError: first second (TOLLGATE_LOG_LEVEL=debug shows where)\n"
    )
    monkeypatch.setenv("TOLLGATE_LOG_LEVEL", "debug")
    with pytest.raises(RuntimeError):
        main()


def test_ctrl_c_exits_as_a_shell_expects(monkeypatch: pytest.MonkeyPatch) -> None:
    def interrupted() -> typer.Typer:
        raise KeyboardInterrupt

    monkeypatch.setattr("tollgate.cli.build_app", interrupted)
    with pytest.raises(SystemExit) as exited:
        main()
    assert exited.value.code == 130


def test_json_is_one_document(capsys: pytest.CaptureFixture[str]) -> None:
    print_json({"at": datetime(2026, 11, 21, tzinfo=UTC), "bytes": b"\x00\xff", "text": "ä\n"})
    shown = json.loads(capsys.readouterr().out)
    assert shown == {"at": "2026-11-21T00:00:00+00:00", "bytes": "00ff", "text": "ä\n"}
