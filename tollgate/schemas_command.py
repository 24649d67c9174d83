"""`tollgate schemas export`: the contracts as JSON Schema files, for apps in any language."""

from pathlib import Path
from typing import Annotated

import typer

from adapters.failures import Failure


def register(app: typer.Typer) -> None:
    """Adds `schemas export`."""
    group = typer.Typer(help="The contracts of what travels.", no_args_is_help=True)
    group.command("export", epilog="Example: tollgate schemas export schemas/json")(export)
    app.add_typer(group, name="schemas")


def export(
    directory: Annotated[Path, typer.Argument(help="Directory of the files.")] = Path(
        "schemas/json"
    ),
    *,
    check: Annotated[
        bool, typer.Option("--check", help="Write nothing; fail when a file would change.")
    ] = False,
) -> None:
    """Write the JSON Schema of event, job, dead letter and price book; running it again is free."""
    from schemas.json_schema import documents
    from tollgate.output import say

    for name, text in documents().items():
        path = directory / name
        current = path.read_text(encoding="utf-8") if path.is_file() else None
        if check and current != text:
            raise Failure(f"{path} is not up to date: run tollgate schemas export {directory}")
        if current != text:
            directory.mkdir(parents=True, exist_ok=True)
            path.write_text(text, encoding="utf-8")
        say(f"{path} {'unchanged' if current == text else 'written'}")
