"""`tollgate prices`: the price book as files, and its published versions."""

import asyncio
from collections.abc import Callable, Coroutine
from datetime import datetime
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, TypeVar

import typer

from tollgate import prices_shown

if TYPE_CHECKING:
    from adapters.book_file import BookFile
    from adapters.postgres import Connection
    from adapters.price_store import Proposal

Result = TypeVar("Result")

File = Annotated[Path, typer.Argument(metavar="FILE", help="A price book as YAML or JSON.")]
From = Annotated[
    str | None,
    typer.Option(
        "--from", metavar="TIME", help="From when it holds: a UTC date or time. Else now."
    ),
]
DryRun = Annotated[bool, typer.Option(help="Say what would be published, publish nothing.")]
Json = Annotated[bool, typer.Option("--json", help="Report as JSON.")]


def register(app: typer.Typer) -> None:
    """Adds `prices validate`, `diff`, `publish`, `list`, `show` and `import`."""
    group = typer.Typer(
        help="The price book: judge a file, publish it, look at what holds.",
        no_args_is_help=True,
        epilog="Example: tollgate prices show --yaml > prices.yaml",
    )
    group.command("validate", epilog="Example: tollgate prices validate prices.yaml")(validate)
    group.command("diff", epilog="Example: tollgate prices diff prices.yaml --against 3")(diff)
    group.command(
        "publish", epilog="Example: tollgate prices publish prices.yaml --from 2026-12-01"
    )(publish)
    group.command("list", epilog="Example: tollgate prices list")(list_)
    group.command("show", epilog="Example: tollgate prices show 3 --model gpt-4o")(show)
    group.command("import", epilog="Example: tollgate prices import --dry-run")(import_)
    app.add_typer(group, name="prices")


def validate(file: File, as_json: Json = False) -> None:
    """Judge a file as a price book without any server; a complaint names its line."""
    from adapters import book_file
    from tollgate.output import print_json, say

    found = book_file.read(file)
    report = _judged(found)
    if as_json:
        print_json(report)
    else:
        actions = prices_shown.counted(report["actions"], "action")
        models = prices_shown.counted(report["models"], "model")
        say(f"{file} is a price book: {actions}, {models} of its own; catalog: {report['catalog']}")


def diff(
    file: File,
    against: Annotated[
        int | None, typer.Option(help="A version; else the one that it would follow.")
    ] = None,
    start: From = None,
    as_json: Json = False,
) -> None:
    """Say in plain words what a file changes for which model, tier and action."""
    from adapters.price_store import propose

    found = _read(file)

    async def compare(connection: "Connection") -> "Proposal":
        return await propose(connection, found.document, _moment(start), against=against)

    proposal = _with_postgres(compare, found)
    prices_shown.changes(proposal, as_json=as_json)


def publish(
    file: File,
    start: From = None,
    correction: Annotated[
        bool, typer.Option("--correction", help="Allow a start in the past.")
    ] = False,
    dry_run: DryRun = False,
    as_json: Json = False,
) -> None:
    """Publish a file as the next version; it is never edited afterwards.

    A start in the past needs --correction. It changes no charge: it says from when until when the
    version holds, how many charges lie in that time, and how to look at them.
    """
    found = _read(file)
    _publish(found, start, correction=correction, dry_run=dry_run, as_json=as_json)


def list_(as_json: Json = False) -> None:
    """List all versions with the time in which each holds."""
    from adapters.price_store import overview

    versions = _with_postgres(overview)
    prices_shown.versions(versions, as_json=as_json)


def show(
    version: Annotated[
        int | None, typer.Argument(metavar="[VERSION]", help="Else the one that holds now.")
    ] = None,
    model: Annotated[
        str | None, typer.Option(help="Only the prices of this model, by any of its names.")
    ] = None,
    as_yaml: Annotated[
        bool, typer.Option("--yaml", help="As a file to edit and publish, without the catalog.")
    ] = False,
    as_json: Json = False,
) -> None:
    """Show a version: what it says, or the file to start the next one from."""
    from adapters.price_store import Version, overview, read_document

    async def read(connection: "Connection") -> "tuple[Version, dict[str, object]]":
        chosen = prices_shown.chosen(await overview(connection), version)
        return chosen, await read_document(connection, chosen.version)

    found, document = _with_postgres(read)
    if as_yaml:
        prices_shown.as_file(found, document)
    elif model is not None:
        prices_shown.one_model(found, document, model, as_json=as_json)
    else:
        prices_shown.version(found, document, as_json=as_json)


def import_(start: From = None, dry_run: DryRun = False, as_json: Json = False) -> None:
    """Take the model prices of the installed genai-prices into a new version.

    All else stays as in the version in force: own models, actions, multipliers. Models that the
    snapshot no longer has are kept. What it has and an event cannot be charged by is listed.
    """
    _publish(None, start, correction=False, dry_run=dry_run, as_json=as_json)


def _publish(
    found: "BookFile | None", start: str | None, *, correction: bool, dry_run: bool, as_json: bool
) -> None:
    from adapters import price_store
    from tollgate.arguments import actor

    document = None if found is None else found.document
    moment = _moment(start)

    async def work(connection: "Connection") -> prices_shown.Outcome:
        preview = await price_store.propose(connection, document, moment)
        if found is None and not preview.changes:
            return prices_shown.Outcome(preview)
        if dry_run:
            price_store.refuse(preview, correction=correction)
            version = None
        else:
            version, preview = await price_store.publish_proposal(
                connection, document, moment, actor(), correction=correction
            )
        charges = None
        if preview.past:
            charges = await price_store.charges_between(
                connection, preview.effective_from, preview.until
            )
        return prices_shown.Outcome(preview, version, charges)

    outcome = _with_postgres(work, found)
    prices_shown.outcome(outcome, dry_run=dry_run, imported=found is None, as_json=as_json)


def _read(file: Path) -> "BookFile":
    """The file, judged before any server is asked."""
    from adapters import book_file

    found = book_file.read(file)
    _judged(found)
    return found


def _judged(found: "BookFile") -> dict[str, Any]:
    from datetime import UTC

    from adapters.price_store import installed_catalog
    from core.catalog import Catalog, parse_catalog
    from core.document import BookError, Node
    from core.prices import parse_book
    from schemas.price_book import INSTALLED_CATALOG

    said = found.document.get("catalog")
    catalog, words = None, "its own"
    if said is None:
        catalog, words = Catalog("", ()), "kept from the version that it follows"
    elif said == INSTALLED_CATALOG:
        catalog = parse_catalog(Node(installed_catalog(None).catalog))
        words = f"{catalog.source}, as installed"
    begin = datetime(2020, 1, 1, tzinfo=UTC)
    try:
        book = parse_book(found.document, version=0, effective_from=begin, catalog=catalog)
    except BookError as error:
        raise found.failure(error) from None
    models = found.document["models"]
    return {
        "file": str(found.path),
        "actions": len(book.actions),
        "models": len(models) if isinstance(models, dict) else 0,
        "catalog": words,
    }


def _moment(text: str | None) -> datetime | None:
    from tollgate.arguments import parse_time

    return None if text is None else parse_time(text)


def _with_postgres(
    work: "Callable[[Connection], Coroutine[None, None, Result]]", found: "BookFile | None" = None
) -> Result:
    """Runs the work on a connection; a complaint about the file names the file's line."""
    from adapters.reach import postgres
    from adapters.settings import load_settings
    from core.document import BookError

    async def run() -> Result:
        async with postgres(load_settings(), "prices", unlimited=True) as connection:
            return await work(connection)

    try:
        return asyncio.run(run())
    except BookError as error:
        if found is None:
            raise
        raise found.failure(error) from None
