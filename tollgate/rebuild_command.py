"""`tollgate rebuild`: ClickHouse made anew from the ledger."""

import asyncio
from typing import Annotated

import typer


def register(app: typer.Typer) -> None:
    """Adds the command."""

    @app.command("rebuild", epilog="Example: tollgate rebuild --yes")
    def rebuild(
        yes: Annotated[bool, typer.Option("--yes", "-y", help="Do not ask.")] = False,
        as_json: Annotated[bool, typer.Option("--json", help="Print the result as JSON.")] = False,
    ) -> None:
        """Empty ClickHouse's copy and make it anew from PostgreSQL.

        Raters and warehouses may run meanwhile; balances are not touched. Analysts see a growing
        copy until it is done. Interrupted, run it again: it goes on where it was.
        """
        from dataclasses import asdict

        from adapters.rebuild import rebuild as make_anew
        from adapters.settings import load_settings
        from tollgate.output import print_json, progress, say

        settings = load_settings()
        if not yes:
            question = f"Empty ClickHouse's database {settings.clickhouse_database} and copy anew?"
            typer.confirm(question, abort=True)
        shown = 0
        with progress("copying", total=None) as steps:

            def on_progress(done: int, _all: int) -> None:
                nonlocal shown
                steps.advance(done - shown)
                shown = done

            rebuilt = asyncio.run(make_anew(settings, on_progress))
        if as_json:
            print_json(asdict(rebuilt))
        else:
            how = "carried on and finished" if rebuilt.resumed else "made anew"
            say(
                f"ClickHouse's copy was {how}: {rebuilt.charges:,} offsets copied, "
                f"generation {rebuilt.generation}. `tollgate verify` proves it."
            )
