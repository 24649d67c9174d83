"""`tollgate query`: SQL to ClickHouse, for people and for programs."""

from typing import TYPE_CHECKING, Annotated

import typer

from adapters.failures import Failure

if TYPE_CHECKING:
    from adapters.settings import Settings

_PEOPLE = {
    "output_format_pretty_color": 0,
    "output_format_pretty_max_rows": 10_000,
    "output_format_pretty_row_numbers": 0,
    "output_format_pretty_display_footer_column_names": 0,
}
_JSON = {
    "output_format_json_array_of_rows": 1,
    "output_format_json_quote_64bit_integers": 0,
    "output_format_json_quote_decimals": 1,
}


def register(app: typer.Typer) -> None:
    """Adds the command."""

    @app.command(
        "query", epilog='Example: tollgate query "SELECT sum(credits) FROM usage WHERE NOT demo"'
    )
    def query(
        sql: Annotated[
            str, typer.Argument(help="One statement that reads; - takes it from stdin.")
        ],
        as_json: Annotated[bool, typer.Option("--json", help="An array of objects.")] = False,
        as_csv: Annotated[bool, typer.Option("--csv", help="CSV with a header.")] = False,
    ) -> None:
        """Ask ClickHouse; it refuses statements that change anything.

        Begin with the views usage, usage_by_day, credits and credits_by_day: they say credits as
        exact decimals. docs/querying.md answers the usual questions.
        """
        import sys

        from adapters.settings import load_settings

        if as_json and as_csv:
            raise typer.BadParameter("--json and --csv exclude each other")
        text = sys.stdin.read() if sql == "-" else sql
        form: tuple[str, dict[str, int]] = ("PrettyCompactMonoBlock", _PEOPLE)
        if as_json:
            form = ("JSONEachRow", _JSON)
        elif as_csv:
            form = ("CSVWithNames", {})
        answer = _ask(load_settings(), text, *form)
        sys.stdout.write(answer.decode(errors="replace"))


def _ask(settings: "Settings", sql: str, form: str, options: dict[str, int]) -> bytes:
    from adapters.clickhouse import Refused, Unreachable, read_only_answer

    try:
        return read_only_answer(settings, sql, form, options)
    except Refused as refusal:
        raise Failure(str(refusal)) from refusal
    except Unreachable as trouble:
        raise Failure(f"ClickHouse: {trouble}") from trouble
