"""The rules of the house that no linter knows, so that nobody needs to remember them."""

import ast
import re
import sys
from collections.abc import Iterator
from pathlib import Path

from docs.tables import PACKAGES

ROOT = Path(__file__).parents[2]
PURE = ("schemas", "core")
NOT_OURS = {"build", "__pycache__"}  # beside whatever begins with a dot or ends with egg-info
FUNCTION_LINES_MAX = 70
TEST_FUNCTION_LINES_MAX = 120
FILE_LINES_MAX = 400
# The hosts that a committed file may name. No package registry: a machine has its own.
HOSTS = {
    "127.0.0.1",
    "cloudevents.io",
    "docs.docker.com",
    "example.com",
    "example.org",
    "json-schema.org",
    "keepachangelog.com",
    "openrouter.ai",
    "semver.org",
    "www.apache.org",
}


def _ours(place: Path) -> Iterator[Path]:
    for entry in sorted(place.iterdir()):
        if entry.name in NOT_OURS or entry.name.endswith(".egg-info"):
            continue
        hidden = entry.name.startswith(".")
        if entry.is_dir() and (not hidden or entry.name == ".ci"):
            yield from _ours(entry)
        elif entry.is_file() and not entry.is_symlink():
            yield entry


FILES = list(_ours(ROOT))
PYTHON = [path for path in FILES if path.suffix == ".py"]
TREES = {path: ast.parse(path.read_text(encoding="utf-8")) for path in PYTHON}
TEXTS = {
    path: path.read_text(encoding="utf-8")
    for path in FILES
    if path.suffix in {".py", ".md", ".sql", ".toml", ".yml", ".yaml", ".json", ".lock", ""}
}

Function = ast.FunctionDef | ast.AsyncFunctionDef


def _name(path: Path) -> str:
    return path.relative_to(ROOT).as_posix()


def _in(path: Path, *folders: str) -> bool:
    return path.relative_to(ROOT).parts[0] in folders


def _at(path: Path, node: ast.AST | int) -> str:
    line = node if isinstance(node, int) else getattr(node, "lineno", 0)
    return f"{_name(path)}:{line}"


def _nodes(*folders: str) -> Iterator[tuple[Path, ast.AST]]:
    for path, tree in TREES.items():
        if _in(path, *folders):
            for node in ast.walk(tree):
                yield path, node


def _lines_matching(pattern: str, paths: list[Path]) -> list[str]:
    """Where a pattern occurs; those below put a letter in brackets, so that they miss this file."""
    return [
        f"{_at(path, number)}: {line.strip()[:80]}"
        for path in paths
        for number, line in enumerate(TEXTS[path].splitlines(), 1)
        if re.search(pattern, line)
    ]


def test_something_is_looked_at() -> None:
    assert len(PYTHON) > 40
    assert all(any(_in(path, package) for path in PYTHON) for package in PACKAGES)


def test_functions_are_short() -> None:
    long = [
        f"{_at(path, node)} {node.name}: {lines} lines"
        for path, tree in TREES.items()
        for node in ast.walk(tree)
        if isinstance(node, Function)
        and (lines := (node.end_lineno or 0) - node.lineno + 1)
        > (TEST_FUNCTION_LINES_MAX if _in(path, "tests") else FUNCTION_LINES_MAX)
    ]
    assert not long, "\n".join(long)


def test_files_are_short() -> None:
    counted = {_name(path): TEXTS[path].count("\n") for path in PYTHON if not _in(path, "tests")}
    long = {name: lines for name, lines in counted.items() if lines > FILE_LINES_MAX}
    assert not long


def test_no_file_is_called_after_nothing() -> None:
    empty_words = {"utils", "util", "helpers", "manager", "base", "common", "service", "misc"}
    assert not [_name(path) for path in FILES if path.stem in empty_words]


def test_every_public_thing_says_what_it_promises() -> None:
    silent = []
    for path, tree in TREES.items():
        if not _in(path, *PACKAGES, "bench") or not TEXTS[path].strip():
            continue
        if ast.get_docstring(tree) is None:
            silent.append(_name(path))
        classes = [node for node in ast.walk(tree) if isinstance(node, ast.ClassDef)]
        for scope in (tree, *(node for node in classes if not node.name.startswith("_"))):
            silent += [
                f"{_at(path, node)} {node.name}"
                for node in scope.body
                if isinstance(node, Function | ast.ClassDef)
                and not node.name.startswith("_")
                and ast.get_docstring(node) is None
                and not any(ast.unparse(mark).endswith(".setter") for mark in node.decorator_list)
            ]
    assert not silent, "\n".join(silent)


def test_nothing_is_left_for_later() -> None:
    assert not _lines_matching(r"\b(TOD[O]|FIXM[E]|XX[X]|NotImplemente[d]Error)\b", PYTHON)


def test_the_core_knows_no_float() -> None:
    found = [
        f"{_at(path, node)}: {ast.unparse(node)}"
        for path, node in _nodes(*PURE)
        if (isinstance(node, ast.Constant) and isinstance(node.value, float))
        or (isinstance(node, ast.Call) and ast.unparse(node.func) == "float")
    ]
    assert not found, "\n".join(found)


def test_the_core_knows_no_clock() -> None:
    found = [
        f"{_at(path, node)}: {ast.unparse(node)}"
        for path, node in _nodes(*PURE)
        if isinstance(node, ast.Call)
        and ast.unparse(node.func).rpartition(".")[2] in {"now", "today", "utcnow", "time_ns"}
    ]
    assert not found, "\n".join(found)


def test_an_app_that_publishes_needs_the_base_install_only() -> None:
    base = re.search(
        r"^dependencies = \[(.*?)^\]", TEXTS[ROOT / "pyproject.toml"], re.MULTILINE | re.DOTALL
    )
    assert base
    allowed = {"schemas", "producers", "pydantic_core", *re.findall(r'"([\w-]+)==', base[1])}
    found = [
        f"{_at(path, node)}: {name}"
        for path, node in _nodes("schemas", "producers")
        if isinstance(node, ast.Import | ast.ImportFrom)
        for name in _roots(node)
        if name not in allowed | sys.stdlib_module_names
    ]
    assert not found, "\n".join(found)


def _roots(node: ast.Import | ast.ImportFrom) -> set[str]:
    names = (
        [node.module or ""] if isinstance(node, ast.ImportFrom) else [n.name for n in node.names]
    )
    return {name.partition(".")[0] for name in names}


def test_no_test_is_skipped() -> None:
    found = [
        _at(path, node)
        for path, node in _nodes("tests")
        if isinstance(node, ast.Attribute)
        and node.attr in {"skip", "skipif", "xfail", "importorskip"}
        and ast.unparse(node).startswith(("pytest.", "unittest."))
    ]
    assert not found, "\n".join(found)


def test_sql_stands_in_files_and_is_never_put_together() -> None:
    statement = re.compile(
        r"\b(SELECT|INSERT INTO|UPDATE \w+ SET|DELETE FROM|TRUNCATE|(CREATE|DROP|ALTER) [A-Z]+)\b"
    )
    found = [
        f"{_at(path, node)}: {ast.unparse(node)[:80]}"
        for path, node in _nodes(*PACKAGES)
        if isinstance(node, ast.JoinedStr)
        and any(
            isinstance(part, ast.Constant) and statement.search(str(part.value))
            for part in node.values
        )
    ]
    assert not found, "\n".join(found)


def test_every_statement_has_a_name_and_a_contract() -> None:
    silent = []
    for path in FILES:
        if path.suffix == ".sql" and path.parent.name == "queries":
            for part in TEXTS[path].split("-- name:")[1:]:
                name, _, body = part.partition("\n")
                if not body.lstrip().startswith("--"):
                    silent.append(f"{_name(path)}: {name.strip()}")
    assert not silent, "\n".join(silent)


def test_every_statement_is_used() -> None:
    """Of those for PostgreSQL: the saved questions to ClickHouse are named by who asks them."""
    code = "\n".join(TEXTS[path] for path in PYTHON if _in(path, *PACKAGES, "tests"))
    unused = [
        f"{_name(path)}: {name}"
        for path in FILES
        if path.suffix == ".sql" and path.parts[-3:-1] == ("postgres", "queries")
        for name in re.findall(r"^-- name: (\w+)", TEXTS[path], re.MULTILINE)
        if not re.search(rf"\.{name}\b", code)
    ]
    assert not unused, "\n".join(unused)


def test_committed_text_names_no_machine() -> None:
    assert not _lines_matching(r"/(wor[k]|roo[t]|hom[e])/\w|/tm[p]/w\b|share[d]/data", list(TEXTS))


def test_committed_text_names_no_registry() -> None:
    registries = r"p[y]pi\.org|p[y]thonhosted|[m]aven\.(org|apache)|n[p]mjs|registry\.[n]pm"
    assert not _lines_matching(registries, list(TEXTS))


def test_every_host_is_a_known_one() -> None:
    address = re.compile(r"\bhttps?://(?:[^\s\"'`]+@)?([A-Za-z0-9.-]+)")
    strangers = [
        f"{_name(path)}: {host}"
        for path, text in TEXTS.items()
        for host in address.findall(re.sub(r"\$\{[^}]*\}", "", text))
        if "." in host and host not in HOSTS
    ]
    assert not strangers, "\n".join(strangers)
