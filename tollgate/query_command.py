"""`tollgate query`: SQL to ClickHouse, for people and for programs."""

from datetime import UTC, datetime, timedelta
from typing import TYPE_CHECKING, Annotated

import typer

from adapters.failures import Failure

if TYPE_CHECKING:
    from adapters.settings import Settings

SAVED_DAYS = 30
_PEOPLE = {
    "output_format_pretty_color": 0,
    "output_format_pretty_max_rows": 10_000,
    "output_format_pretty_row_numbers": 0,
    "output_format_pretty_display_footer_column_names": 0,
    "output_format_pretty_single_large_number_tip_threshold": 0,
    "output_format_decimal_trailing_zeros": 1,
}
_JSON = {
    "output_format_json_array_of_rows": 1,
    "output_format_json_quote_64bit_integers": 0,
    "output_format_json_quote_decimals": 1,
    "output_format_decimal_trailing_zeros": 1,
}
_CSV = {"output_format_decimal_trailing_zeros": 1}


def register(app: typer.Typer) -> None:
    """Adds the command."""

    @app.command(
        "query", epilog='Example: tollgate query "SELECT sum(credits) FROM usage WHERE NOT demo"'
    )
    def query(
        sql: Annotated[str, typer.Argument(help="A statement that reads; - is stdin.")] = "",
        saved: Annotated[
            str, typer.Option(help="A question of docs/querying.md by its name.")
        ] = "",
        since: Annotated[str, typer.Option(help="First day of a saved question (UTC).")] = "",
        until: Annotated[str, typer.Option(help="Its last day; without: today.")] = "",
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
        if bool(sql) == bool(saved):
            raise typer.BadParameter("give a statement, or --saved with a name")
        text = _saved(saved) if saved else sys.stdin.read() if sql == "-" else sql
        form: tuple[str, dict[str, int]] = ("PrettyCompactMonoBlock", _PEOPLE)
        if as_json:
            form = ("JSONEachRow", _JSON)
        elif as_csv:
            form = ("CSVWithNames", _CSV)
        days = {"since": _day(since, SAVED_DAYS), "until": _day(until, 0)} if saved else {}
        answer = _ask(load_settings(), text, form, days)
        sys.stdout.write(answer.decode(errors="replace"))


def _day(text: str, days_ago: int) -> str:
    """The day given, or the one so many days ago in UTC."""
    if not text:
        return (datetime.now(UTC) - timedelta(days=days_ago)).date().isoformat()
    try:
        return datetime.strptime(text, "%Y-%m-%d").replace(tzinfo=UTC).date().isoformat()
    except ValueError:
        raise typer.BadParameter(f"{text!r} is no day such as 2026-11-21") from None


def _saved(name: str) -> str:
    from adapters.queries import load

    questions = load("analysts", "clickhouse")
    if name not in questions.names():
        raise typer.BadParameter(f"--saved is one of {', '.join(questions.names())}")
    text: str = getattr(questions, name)
    return text


def _ask(
    settings: "Settings", sql: str, form: tuple[str, dict[str, int]], days: dict[str, str]
) -> bytes:
    from adapters.clickhouse import Refused, Unreachable, read_only_answer

    try:
        return read_only_answer(settings, sql, *form, parameters=days)
    except Refused as refusal:
        raise Failure(str(refusal)) from refusal
    except Unreachable as trouble:
        raise Failure(f"ClickHouse: {trouble}") from trouble
