"""What each process can come to run: the statements that its code can reach, by reading the code.

Followed is every name from the stage's entry: a function or class that is named may be called. So
too much is reached rather than too little. Annotations call nothing and are left out, but for the
API, whose routes are made from them.
"""

import ast
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from functools import cache
from pathlib import Path

ROOT = Path(__file__).parents[2]
PACKAGES = ("schemas", "core", "adapters", "consumers", "producers", "api", "tollgate")
# By role: the functions, or whole modules, that its process begins with.
OPERATORS = sorted(
    f"tollgate.{path.stem}"
    for path in (ROOT / "tollgate").glob("*_command.py")
    if path.stem
    not in {"bench_command", "demo_command", "migrate_command", "run_command", "stack_commands"}
)
ENTRIES: Mapping[str, list[str]] = {
    "tollgate_rater": ["consumers.app:run"],
    "tollgate_warehouse": ["consumers.warehouse:run"],
    "tollgate_scheduler": ["consumers.scheduler:run"],
    "tollgate_api": ["api.server:run"],
    "tollgate_operator": OPERATORS,
}
# Not the daily work of a role: what begins here is the owner's, and is not followed.
NOT_FOLLOWED = {("tollgate.migrate_command", "migrate")}


@dataclass(frozen=True, slots=True)
class Use:
    """A statement, or a table that is written by COPY."""

    file: str
    name: str

    def __str__(self) -> str:
        return f"{self.file}.{self.name}"


@dataclass(slots=True)
class _Module:
    """A module's own names, what it imports, and which of its names hold statements."""

    name: str
    defined: dict[str, ast.AST] = field(default_factory=dict)
    imported: dict[str, tuple[str, str | None]] = field(default_factory=dict)
    statements: dict[str, str] = field(default_factory=dict)
    at_import: list[ast.AST] = field(default_factory=list)


def reached(role: str) -> set[Use]:
    """Every statement of PostgreSQL, and every COPY, that the role's process can come to run."""
    found: set[Use] = set()
    seen: set[tuple[str, str | None]] = set()
    waiting: list[tuple[str, str | None]] = []
    for entry in ENTRIES[role]:
        module, _, name = entry.partition(":")
        waiting += [(module, name)] if name else [(module, each) for each in _read(module).defined]
    while waiting:
        at = waiting.pop()
        if at in seen or at in NOT_FOLLOWED:
            continue
        seen.add(at)
        for target in _named_by(*at):
            if isinstance(target, Use):
                found.add(target)
            else:
                waiting.append(target)
    return found


def _named_by(name: str, thing: str | None) -> Iterator[Use | tuple[str, str | None]]:
    module = _read(name)
    if thing is not None:
        yield name, None
        if thing in module.imported:
            yield module.imported[thing]
        nodes = [module.defined[thing]] if thing in module.defined else []
    else:
        nodes = module.at_import
    for node in nodes:
        own = {name: (module.name, name) for name in module.defined}
        local = {**module.imported, **own, **_imports_in(node)}
        for each in _without_annotations(node, keep=name.startswith("api")):
            yield from _one(module, local, each)


def _one(
    module: _Module, local: Mapping[str, tuple[str, str | None]], node: ast.AST
) -> Iterator[Use | tuple[str, str | None]]:
    match node:
        case ast.Call(func=ast.Attribute(attr="copy_records_to_table"), args=[ast.Constant(), *_]):
            yield Use("COPY", str(node.args[0].value))  # type: ignore[attr-defined]
        case ast.Attribute(value=ast.Name(id=owner), attr=attribute):
            yield from _attribute(module, local, owner, attribute)
        case ast.Name(id=name) if name in local:
            yield local[name]


def _attribute(
    module: _Module, local: Mapping[str, tuple[str, str | None]], owner: str, attribute: str
) -> Iterator[Use | tuple[str, str | None]]:
    if owner in module.statements:
        yield Use(module.statements[owner], attribute)
    elif owner in local:
        place, thing = local[owner]
        if thing is None:
            yield place, attribute
        elif _is_ours(place) and thing in _read(place).statements:
            yield Use(_read(place).statements[thing], attribute)


@cache
def _read(name: str) -> _Module:
    path = ROOT / f"{name.replace('.', '/')}.py"
    module = _Module(name)
    if not path.exists():  # a package
        return module
    for node in ast.parse(path.read_text(encoding="utf-8")).body:
        match node:
            case ast.FunctionDef() | ast.AsyncFunctionDef() | ast.ClassDef():
                module.defined[node.name] = node
                if any(_registers(each) for each in node.decorator_list):
                    module.at_import.append(node)
            case ast.Assign(targets=[ast.Name(id=target)], value=value):
                module.defined[target] = node
                file = _loads(value)
                if file is not None:
                    module.statements[target] = file
            case ast.AnnAssign(target=ast.Name(id=target)) if node.value is not None:
                module.defined[target] = node
            case ast.Expr():
                module.at_import.append(node)
            case ast.ImportFrom():
                module.imported |= _imports_in(node)
    return module


def _registers(decorator: ast.AST) -> bool:
    """A route is made by its decorator: nobody names it."""
    return any(
        isinstance(node, ast.Name) and node.id in {"router", "app"} for node in ast.walk(decorator)
    )


def _loads(value: ast.AST) -> str | None:
    match value:
        case ast.Call(func=ast.Name(id="load"), args=[ast.Constant(value=file)]):
            return str(file)
    return None


def _imports_in(node: ast.AST) -> dict[str, tuple[str, str | None]]:
    found: dict[str, tuple[str, str | None]] = {}
    for each in ast.walk(node):
        if not isinstance(each, ast.ImportFrom) or not each.module or not _is_ours(each.module):
            continue
        for alias in each.names:
            inner = f"{each.module}.{alias.name}"
            is_module = (ROOT / f"{inner.replace('.', '/')}.py").exists()
            target = (inner, None) if is_module else (each.module, alias.name)
            found[alias.asname or alias.name] = target
    return found


def _is_ours(module: str) -> bool:
    return module.partition(".")[0] in PACKAGES


def _without_annotations(node: ast.AST, *, keep: bool) -> Iterator[ast.AST]:
    yield node
    for name, value in ast.iter_fields(node):
        if name in {"annotation", "returns"} and not keep:
            continue
        for child in value if isinstance(value, list) else [value]:
            if isinstance(child, ast.AST):
                yield from _without_annotations(child, keep=keep)
