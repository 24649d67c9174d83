"""`tollgate rerate`: what a stretch of usage would cost at other prices, and the way to book it."""

import asyncio
from collections.abc import Callable, Coroutine
from typing import TYPE_CHECKING, Annotated, Any, TypeVar

import typer

if TYPE_CHECKING:
    from datetime import datetime

    from adapters.postgres import Connection
    from adapters.rerate_runs import NewRun, Run
    from adapters.settings import Settings

Result = TypeVar("Result")

TIMES = "a UTC time, or how long ago: 2h, 7d."
RunNumber = Annotated[int, typer.Argument(metavar="RUN", help="The number that `list` shows.")]
Limit = Annotated[int, typer.Option(min=1, max=10_000, help="Rows of the table on the screen.")]
Json = Annotated[bool, typer.Option("--json", help="Report everything as JSON.")]
_REASON_CHARS_MAX = 500


def register(app: typer.Typer) -> None:
    """Adds `rerate` with `list`, `show`, `resume` and `revert`."""
    group = typer.Typer(no_args_is_help=True)
    group.callback(
        invoke_without_command=True,
        epilog="Example: tollgate rerate --from 2026-11-14 --to 2026-11-21",
    )(rerate)
    group.command("list", epilog="Example: tollgate rerate list")(list_)
    group.command("show", epilog="Example: tollgate rerate show 7")(show)
    group.command("resume", epilog="Example: tollgate rerate resume 7")(resume)
    group.command(
        "revert", epilog="Example: tollgate rerate revert 7 --reason 'the old price was right'"
    )(revert)
    app.add_typer(group, name="rerate")


def rerate(
    context: typer.Context,
    since: Annotated[
        str | None, typer.Option("--from", help=f"Events not before this: {TIMES}")
    ] = None,
    until: Annotated[str | None, typer.Option("--to", help=f"Events before this: {TIMES}")] = None,
    book: Annotated[
        str | None,
        typer.Option(
            metavar="FILE|VERSION",
            help="Prices of this file, or of this version whenever it holds; else the published"
            " ones, each at its time.",
        ),
    ] = None,
    account: Annotated[
        list[str] | None, typer.Option("--account", help="Only this account; may be repeated.")
    ] = None,
    source: Annotated[
        str, typer.Option(help="ledger: what was charged; topic: the events as they were sent.")
    ] = "ledger",
    apply: Annotated[
        bool, typer.Option("--apply", help="Book the differences as corrections.")
    ] = False,
    reason: Annotated[str | None, typer.Option(help="Why; it stands with each correction.")] = None,
    limit: Limit = 20,
    as_json: Json = False,
) -> None:
    """Price a stretch of usage again and report what differs; books nothing without --apply.

    Every event in the stretch, by its own time, is priced as it was recorded. The lines go into
    ClickHouse (view rerates) and no balance moves. With --apply the differences are corrections,
    each linked to the charge that it corrects; `tollgate rerate revert` takes them back.
    """
    if context.invoked_subcommand is not None:
        return
    if since is None or until is None:
        raise typer.BadParameter("give the stretch by --from and --to")
    _check(book, source, reason, apply=apply)
    stretch = _stretch(since, until)

    async def work(connection: "Connection", settings: "Settings") -> "Run | None":
        from adapters.rerate import start
        from adapters.rerate_book import choose

        chosen = await choose(connection, book)
        new = _new_run(stretch, source, account, chosen, reason, apply=apply)
        run = await start(connection, settings, new)
        return None if run is None else await _go_on(connection, settings, run)

    run = _with_postgres(work)
    if run is None:
        _nothing(stretch, as_json=as_json)
    else:
        _report(run, limit, as_json=as_json)


def list_(limit: Limit = 20, as_json: Json = False) -> None:
    """List the newest runs: what they read, what they found, whether they were booked."""
    from tollgate.rerate_report import print_runs

    async def work(connection: "Connection", _: "Settings") -> list[dict[str, Any]]:
        from adapters.rerate_runs import newest

        return await newest(connection, limit)

    print_runs(_with_postgres(work), as_json=as_json)


def show(run: RunNumber, limit: Limit = 20, as_json: Json = False) -> None:
    """Show one run with its report per account, model and day."""

    async def work(connection: "Connection", _: "Settings") -> "Run":
        from adapters.rerate_runs import read

        return await read(connection, run)

    _report(_with_postgres(work), limit, as_json=as_json)


def resume(run: RunNumber, limit: Limit = 20, as_json: Json = False) -> None:
    """Go on with a run that was interrupted; a finished one is only shown again."""

    async def work(connection: "Connection", settings: "Settings") -> "Run":
        from adapters.rerate_runs import read

        return await _go_on(connection, settings, await read(connection, run))

    _report(_with_postgres(work), limit, as_json=as_json)


def revert(
    run: RunNumber,
    reason: Annotated[str, typer.Option(help="Why; it stands with each correction.")],
    limit: Limit = 20,
    as_json: Json = False,
) -> None:
    """Take an applied run back: each charge costs again what it did before the run.

    Once for each run. A charge that was corrected again since keeps its later correction.
    """
    _check_reason(reason)

    async def work(connection: "Connection", settings: "Settings") -> "Run":
        from adapters.rerate_revert import start
        from tollgate.arguments import actor

        started = await start(connection, run, actor=actor(), reason=reason)
        return await _go_on(connection, settings, started)

    _report(_with_postgres(work), limit, as_json=as_json)


def _check(book: str | None, source: str, reason: str | None, *, apply: bool) -> None:
    if source not in {"ledger", "topic"}:
        raise typer.BadParameter(f"--source is ledger or topic, not {source!r}")
    if not apply and reason is not None:
        raise typer.BadParameter("--reason goes with --apply")
    if not apply:
        return
    if reason is None:
        raise typer.BadParameter("--apply needs --reason")
    _check_reason(reason)
    if source != "ledger":
        raise typer.BadParameter("--apply books from the ledger: leave out --source")
    if book is not None and not book.isdigit():
        raise typer.BadParameter("a file is not booked: `tollgate prices publish` it first")


def _check_reason(reason: str) -> None:
    if not 0 < len(reason) <= _REASON_CHARS_MAX or not reason.isprintable():
        raise typer.BadParameter(f"a reason is printable, 1 to {_REASON_CHARS_MAX} characters long")


def _stretch(since: str, until: str) -> "tuple[datetime, datetime]":
    from tollgate.arguments import parse_time

    begin, end = parse_time(since), parse_time(until)
    if begin >= end:
        raise typer.BadParameter("--from is before --to")
    return begin, end


def _new_run(
    stretch: "tuple[datetime, datetime]",
    source: str,
    account: list[str] | None,
    book: Any,
    reason: str | None,
    *,
    apply: bool,
) -> "NewRun":
    from adapters.rerate_runs import NewRun, RunKind, Source
    from tollgate.arguments import actor

    return NewRun(
        kind=RunKind.APPLY if apply else RunKind.WHAT_IF,
        source=Source(source),
        since=stretch[0],
        until=stretch[1],
        account_ids=account or None,
        book=book,
        actor=actor(),
        reason=reason or "",
    )


async def _go_on(connection: "Connection", settings: "Settings", run: "Run") -> "Run":
    from adapters.failures import Failure
    from adapters.postgres import TRANSIENT
    from tollgate.output import progress

    try:
        if run.reverts is not None:
            from adapters.rerate_revert import go_on as take_back

            with progress("taken back", None) as steps:
                return await take_back(connection, run, steps.advance)
        from adapters.rerate import go_on, steps_of

        with progress("read", steps_of(run)) as steps:
            return await go_on(connection, settings, run, steps.advance)
    except TRANSIENT as error:
        raise Failure(
            f"PostgreSQL went away ({type(error).__name__}): `tollgate rerate resume"
            f" {run.run_id}` goes on from where it was"
        ) from None


def _report(run: "Run", limit: int, *, as_json: bool) -> None:
    from adapters.settings import load_settings
    from tollgate.rerate_report import print_report

    print_report(load_settings(), run, limit, as_json=as_json)


def _nothing(stretch: "tuple[datetime, datetime]", *, as_json: bool) -> None:
    from tollgate.output import print_json, say, time_text

    if as_json:
        print_json({"run": None, "groups": []})
    else:
        since, until = (time_text(moment) for moment in stretch)
        say(f"No charge can be of {since} to {until}: nothing to price again.")


def _with_postgres(work: "Callable[[Connection, Settings], Coroutine[Any, Any, Result]]") -> Result:
    from adapters.reach import postgres
    from adapters.settings import load_settings

    settings = load_settings()

    async def run() -> Result:
        async with postgres(settings, "rerate", unlimited=True) as connection:
            return await work(connection, settings)

    return asyncio.run(run())
