"""`tollgate hold list | release`: holds, for operators."""

import asyncio
from typing import TYPE_CHECKING, Annotated

import typer

if TYPE_CHECKING:
    from adapters.gate_outcomes import Closed, Denied
    from adapters.history import Page

Json = Annotated[bool, typer.Option("--json", help="Report as JSON.")]


def register(app: typer.Typer) -> None:
    """Adds `hold list` and `hold release`."""
    group = typer.Typer(
        help="Look at holds; free one that its app left behind.",
        no_args_is_help=True,
        epilog="Example: tollgate hold list",
    )
    group.command("list", epilog="Example: tollgate hold list --account acme --all")(show)
    group.command(
        "release", epilog="Example: tollgate hold release acme job-17 --reason 'the app is gone'"
    )(release)
    app.add_typer(group, name="hold")


def show(
    account: Annotated[
        str | None, typer.Option(help="Of this account, newest first. Else of all, oldest first.")
    ] = None,
    every: Annotated[
        bool, typer.Option("--all", help="Closed ones too; with --account only.")
    ] = False,
    limit: Annotated[int, typer.Option(min=1, max=10_000, help="At most so many.")] = 50,
    after: Annotated[str, typer.Option(help="The cursor that the page before printed.")] = "",
    as_json: Json = False,
) -> None:
    """List open holds, those first that nobody touched for longest."""
    from adapters.account_view import list_holds, list_open_holds
    from adapters.history import Page, read_cursor
    from adapters.reach import postgres
    from adapters.settings import load_settings
    from tollgate.output import print_json

    if every and account is None:
        raise typer.BadParameter("--all goes with --account")

    cursor = read_cursor(after) if after else None

    async def read() -> Page:
        async with postgres(load_settings(), "hold") as connection:
            if account is None:
                return await list_open_holds(connection, limit, cursor)
            return await list_holds(
                connection, account, only_open=not every, rows_max=limit, before=cursor
            )

    page = asyncio.run(read())
    if as_json:
        print_json({"holds": page.entries, "next": page.next})
    else:
        _print(page, account)


def _print(page: "Page", account: str | None) -> None:
    from tollgate.output import credits_text, print_table, say

    holds = page.entries
    if not holds:
        say("no holds")
        return
    print_table(
        ("hold", "account", "kind", "credits", "state", "since (UTC)", "expires"),
        [
            (
                hold["hold_id"],
                hold.get("account_id", account),
                hold["kind"],
                credits_text(hold["amount_micro"]),
                hold.get("state", "open"),
                hold["created_at"],
                hold["expires_at"],
            )
            for hold in holds
        ],
    )
    if page.following is not None:
        say(f"more holds: --after {page.following}")


def release(
    account: Annotated[str, typer.Argument(metavar="ACCOUNT", help="Whose hold it is.")],
    hold: Annotated[str, typer.Argument(metavar="HOLD", help="The id of the hold.")],
    reason: Annotated[str, typer.Option(help="Why, for the audit log.")],
    as_json: Json = False,
) -> None:
    """Free the credits of an open hold. Usage that names it later is charged all the same."""
    from dataclasses import asdict

    from adapters.failures import Failure
    from adapters.gate_outcomes import Denied
    from adapters.operator_holds import release_by_hand
    from adapters.reach import postgres
    from adapters.settings import load_settings
    from tollgate.arguments import actor
    from tollgate.output import credits_text, print_json, say

    async def book() -> "Closed | Denied":
        async with postgres(load_settings(), "hold") as connection:
            return await release_by_hand(connection, account, hold, actor=actor(), reason=reason)

    outcome = asyncio.run(book())
    if isinstance(outcome, Denied):
        raise Failure(f"{account} {hold}: {outcome.denial.meaning.lower()}")
    if as_json:
        print_json(asdict(outcome))
    else:
        say(f"{account} {hold}: {credits_text(outcome.reserved_micro)} credits are free again")
