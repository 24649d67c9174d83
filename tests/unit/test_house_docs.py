"""The documents are true: what they name exists, and their tables are those of the code."""

import ast
import re
import shlex
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml

from adapters.failures import HaltReason
from docs import tables

ROOT = Path(__file__).parents[2]
DOCUMENTS = {
    path.relative_to(ROOT).as_posix(): path.read_text(encoding="utf-8")
    for path in (*ROOT.glob("*.md"), *(ROOT / "docs").rglob("*.md"))
}
# Every table of docs/configuration.md; the settings among them are written from the code.
VARIABLES = set(
    re.findall(r"^\| `(TOLLGATE_\w+)`", DOCUMENTS["docs/configuration.md"], re.MULTILINE)
)
COMMANDS = dict(tables.commands())


def _fences(text: str) -> Iterator[tuple[str, str]]:
    for fence in re.finditer(r"^```(\w*)\n(.*?)^```", text, re.MULTILINE | re.DOTALL):
        yield fence[1], fence[2]


def _spans(text: str) -> list[str]:
    without_fences = re.sub(r"^```.*?^```", "", text, flags=re.MULTILINE | re.DOTALL)
    return re.findall(r"`([^`\n]+)`", without_fences)


def _command_lines(text: str) -> Iterator[str]:
    """Commands as a reader would type them: code spans, `sh` fences, `$ ` lines of `console`."""
    yield from _spans(text)
    for language, body in _fences(text):
        joined = body.replace("\\\n", " ")
        if language == "sh":
            yield from joined.splitlines()
        if language == "console":
            yield from (line[2:] for line in joined.splitlines() if line.startswith("$ "))


def _tollgate_calls(text: str) -> Iterator[list[str]]:
    for line in _command_lines(text):
        for part in re.split(r"\s(?:\|\||&&|\||;|#|>)\s", line):
            call = re.match(r"^\s*(?:\w+=\S*\s+)*(?:\.venv/bin/)?(tollgate(?: .*)?)$", part)
            if call and not call[1].startswith("tollgate ..."):
                yield shlex.split(call[1])


def _wrong_with(call: list[str]) -> str | None:
    """Why a call cannot be made, or None. A bare `tollgate` or a group's name is a mention."""
    words = [word for word in call if not word.startswith("-")]
    named = [name for name in COMMANDS if words[: len(name.split())] == name.split()]
    if not named:
        mentioned = " ".join(words)
        is_group = any(name.startswith(f"{mentioned} ") for name in COMMANDS)
        return None if is_group or words == ["tollgate"] else "no such command"
    command = COMMANDS[max(named, key=len)]  # `rerate` does something, and so does `rerate show`
    options = {option for parameter in command.params for option in _options(parameter)}
    used = {word.partition("=")[0] for word in call if word.startswith("--") and word != "--"}
    unknown = used - options - {"--help"}
    return f"no option {', '.join(sorted(unknown))}" if unknown else None


def _options(parameter: Any) -> list[str]:
    return [*parameter.opts, *parameter.secondary_opts]


def _slug(heading: str) -> str:
    return re.sub(r"[^\w\- ]", "", heading.strip().lower()).replace(" ", "-")


def _defined_in(path: Path) -> set[str]:
    text = path.read_text(encoding="utf-8")
    if path.suffix == ".sql":
        made = r"(?:TABLE|VIEW|FUNCTION)(?: IF NOT EXISTS)?"
        return set(re.findall(rf"(?:-- name:|CREATE (?:MATERIALIZED )?{made})\s*(\w+)", text))
    kinds = ast.FunctionDef | ast.AsyncFunctionDef | ast.ClassDef
    return {node.name for node in ast.walk(ast.parse(text)) if isinstance(node, kinds)}


@pytest.mark.parametrize("name", DOCUMENTS)
def test_every_table_is_what_the_code_says(name: str) -> None:
    assert tables.filled(DOCUMENTS[name]) == DOCUMENTS[name], f"{name} is old: run `make docs`"


@pytest.mark.parametrize("name", DOCUMENTS)
def test_every_link_leads_somewhere(name: str) -> None:
    dead = []
    for target in re.findall(r"\]\(([^)\s]+)\)", DOCUMENTS[name]):
        if "://" in target:
            continue
        path, _, anchor = target.partition("#")
        file = (ROOT / name).parent / path if path else ROOT / name
        if not file.exists():
            dead.append(target)
        elif anchor:
            headings = re.findall(r"^#+ (.*)$", file.read_text(encoding="utf-8"), re.MULTILINE)
            if anchor not in {_slug(heading) for heading in headings}:
                dead.append(target)
    assert not dead


@pytest.mark.parametrize("name", DOCUMENTS)
def test_every_file_and_function_named_exists(name: str) -> None:
    pattern = re.compile(r"^([\w.-]+(?:/[\w.-]+)*\.(?:py|sql|md|yml|toml|json|lock))(?::(\w+))?$")
    missing = []
    for span in _spans(DOCUMENTS[name]):
        named = pattern.match(span)
        if named and ("/" in named[1] or named[2]):
            path = ROOT / named[1]
            if not path.exists() or (named[2] and named[2] not in _defined_in(path)):
                missing.append(span)
    assert not missing


@pytest.mark.parametrize("name", DOCUMENTS)
def test_every_command_named_exists(name: str) -> None:
    wrong = [
        f"{' '.join(call)}: {reason}"
        for call in _tollgate_calls(DOCUMENTS[name])
        if (reason := _wrong_with(call))
    ]
    assert not wrong, "\n".join(wrong)


@pytest.mark.parametrize("name", DOCUMENTS)
def test_every_make_target_named_exists(name: str) -> None:
    targets = set(re.findall(r"^([a-z]+):", (ROOT / "Makefile").read_text(), re.MULTILINE))
    lines = [line.split() for line in _command_lines(DOCUMENTS[name])]
    assert not [
        line for line in lines if line[:1] == ["make"] and not targets.issuperset(line[1:2])
    ]


def test_every_command_is_documented_with_help_and_an_example() -> None:
    bare = [name for name, command in COMMANDS.items() if "Example" not in _help_of(command)]
    assert not bare


def _help_of(command: Any) -> str:
    return f"{command.help or ''}\n{command.epilog or ''}"


def test_every_variable_named_anywhere_is_documented() -> None:
    texts = [ROOT / "Dockerfile", ROOT / "Makefile", ROOT / ".ci/run", *ROOT.glob("*.yml")]
    texts += [ROOT / name for name in DOCUMENTS]
    texts += [path for package in tables.PACKAGES for path in (ROOT / package).rglob("*.py")]
    named = {
        variable
        for path in texts
        for variable in re.findall(r"\bTOLLGATE_[A-Z_]*[A-Z]\b", path.read_text(encoding="utf-8"))
    }
    assert not named - VARIABLES


def test_every_halt_reason_says_what_to_do() -> None:
    headings = re.findall(r"^### `([\w-]+)`$", DOCUMENTS["docs/operations.md"], re.MULTILINE)
    assert sorted(headings) == sorted(HaltReason)


COMPOSE = yaml.safe_load((ROOT / "docker-compose.yml").read_text(encoding="utf-8"))
STAGES = {name: service for name, service in COMPOSE["services"].items() if "build" in service}


def test_compose_runs_commands_that_exist() -> None:
    calls = {name: ["tollgate", *service["command"]] for name, service in STAGES.items()}
    assert set(calls) >= {"migrate", "rater", "warehouse"}
    assert not {name: wrong for name, call in calls.items() if (wrong := _wrong_with(call))}
    assert [call[2] for name, call in calls.items() if call[1] == "run" and call[2] != name] == []


def test_compose_sets_what_the_settings_know_and_no_secret() -> None:
    for service in STAGES.values():
        assert not set(service["environment"]) - VARIABLES
    text = (ROOT / "docker-compose.yml").read_text(encoding="utf-8")
    secrets = re.findall(r"(?m)^ +\w*PASSWORD: *(\S+)", text)
    assert secrets
    assert all(secret.startswith("${") for secret in secrets)


def test_compose_starts_in_an_order_that_works() -> None:
    services = COMPOSE["services"]
    for name, service in services.items():
        for needed, how in service.get("depends_on", {}).items():
            assert needed in services
            assert how["condition"] in {"service_healthy", "service_completed_successfully"}
            assert how["condition"] != "service_healthy" or "healthcheck" in services[needed], name
    volumes = {
        mount.split(":")[0] for service in services.values() for mount in service.get("volumes", ())
    }
    assert volumes == set(COMPOSE["volumes"])


def test_the_image_installs_from_hashes_at_the_versions_of_the_clone() -> None:
    pins = re.compile(r"^([\w.-]+)==(\S+)", re.MULTILINE)
    image = set(pins.findall((ROOT / "requirements-image.lock").read_text(encoding="utf-8")))
    clone = set(pins.findall((ROOT / "requirements.lock").read_text(encoding="utf-8")))
    assert image
    assert image <= clone
    assert "--require-hashes" in (ROOT / "Dockerfile").read_text(encoding="utf-8")


def test_the_lock_is_the_one_of_the_project() -> None:
    pins = set(
        re.findall(r'"([\w-]+)(?:\[\w+\])?==([\w.]+)"', (ROOT / "pyproject.toml").read_text())
    )
    locked = re.findall(
        r"^([\w.-]+)==([\w.]+)", (ROOT / "requirements.lock").read_text(), re.MULTILINE
    )
    assert pins
    assert not pins - set(locked), "run `make lock`"


def test_every_dependency_is_used() -> None:
    project = (ROOT / "pyproject.toml").read_text().partition("[dependency-groups]")[0]
    names = re.findall(r'^    "([\w-]+)(?:\[\w+\])?==', project, re.MULTILINE)
    module = {"pyjwt": "jwt", "pyyaml": "yaml"}
    sources = "".join(
        path.read_text(encoding="utf-8")
        for package in tables.PACKAGES
        for path in (ROOT / package).rglob("*.py")
    )
    unused = [
        name
        for name in names
        if not re.search(
            rf"(?:import |from |\"){module.get(name, name.replace('-', '_'))}", sources
        )
    ]
    assert names
    assert not unused
