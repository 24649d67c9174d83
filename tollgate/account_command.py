"""`tollgate account show | create | set`: one account, as the ledger has it."""

import asyncio
from typing import TYPE_CHECKING, Annotated, Any

import typer

if TYPE_CHECKING:
    from adapters.accounts import GrantRequest
    from adapters.settings import Settings

Account = Annotated[str, typer.Argument(metavar="ACCOUNT", help="The id of the account.")]
Json = Annotated[bool, typer.Option("--json", help="Report as JSON.")]


def register(app: typer.Typer) -> None:
    """Adds `account show`, `account create` and `account set`."""
    group = typer.Typer(
        help="Look at an account, create it, change its tier.",
        no_args_is_help=True,
        epilog="Example: tollgate account show acme",
    )
    group.command("show", epilog="Example: tollgate account show acme --entries 20")(show)
    group.command("create", epilog="Example: tollgate account create acme --tier pro")(create)
    group.command("set", epilog="Example: tollgate account set acme --tier pro --no-demo")(change)
    app.add_typer(group, name="account")


def show(
    account: Account,
    entries: Annotated[
        int, typer.Option(min=0, max=1_000, help="How many of the newest ledger entries.")
    ] = 10,
    as_json: Json = False,
) -> None:
    """Show balance, grants in the order they are burned, and the newest ledger entries."""
    from adapters.accounts import read_account
    from adapters.reach import postgres
    from adapters.settings import load_settings
    from tollgate.output import print_json

    async def read() -> dict[str, Any]:
        async with postgres(load_settings(), "account", unlimited=True) as connection:
            return await read_account(connection, account, entries_max=entries)

    found = asyncio.run(read())
    if as_json:
        print_json(found)
    else:
        _print(found)


def create(
    account: Account,
    tier: Annotated[str | None, typer.Option(help="Else TOLLGATE_DEFAULT_TIER.")] = None,
    demo: Annotated[bool, typer.Option(help="Demo mode: never charged.")] = False,
    welcome: Annotated[
        bool, typer.Option(help="Give the welcome credits, TOLLGATE_WELCOME_CREDITS_MICRO.")
    ] = True,
    as_json: Json = False,
) -> None:
    """Create an account before its first event."""
    from adapters.accounts import create_account, read_account
    from adapters.reach import postgres
    from adapters.settings import load_settings
    from tollgate.output import print_json

    settings = load_settings()
    gift = _welcome(settings, account) if welcome else None

    async def book() -> dict[str, Any]:
        async with postgres(settings, "account") as connection:
            await create_account(
                connection,
                account,
                tier=tier or settings.default_tier,
                demo=demo,
                welcome=gift,
            )
            return await read_account(connection, account, entries_max=1)

    found = asyncio.run(book())
    if as_json:
        print_json(found)
    else:
        _print(found)


def _welcome(settings: "Settings", account: str) -> "GrantRequest | None":
    from adapters.accounts import GrantRequest, Source
    from tollgate.arguments import actor

    if settings.welcome_credits_micro == 0:
        return None
    return GrantRequest(
        account, settings.welcome_credits_micro, actor=actor(), source=Source.WELCOME
    )


def change(
    account: Account,
    tier: Annotated[str | None, typer.Option(help="A tier of the price book.")] = None,
    demo: Annotated[bool | None, typer.Option("--demo/--no-demo", help="Demo mode.")] = None,
    as_json: Json = False,
) -> None:
    """Change the tier or the demo mode, for charges from now on."""
    from adapters.accounts import change_account
    from adapters.reach import postgres
    from adapters.settings import load_settings
    from tollgate.output import print_json, say

    if tier is None and demo is None:
        raise typer.BadParameter("say what to change: --tier, --demo or --no-demo")

    async def book() -> dict[str, Any]:
        async with postgres(load_settings(), "account") as connection:
            return await change_account(connection, account, tier=tier, demo=demo)

    changed = asyncio.run(book())
    if as_json:
        print_json(changed)
    else:
        mode = "demo" if changed["demo"] else "charged"
        say(f"{changed['account_id']}: tier {changed['tier']}, {mode}")


def _print(account: dict[str, Any]) -> None:
    from tollgate.output import credits_text, print_table, say, time_text

    mode = ", demo: never charged" if account["demo"] else ""
    say(f"account    {account['account_id']} (tier {account['tier']}{mode})")
    say(f"since      {time_text(account['created_at'])} UTC")
    say(f"balance    {credits_text(account['balance_micro'])} credits")
    say(f"overdraft  {credits_text(account['overdraft_micro'])}")
    say(f"held       {credits_text(account['held_micro'])} in {account['open_holds']} open holds")
    say(f"available  {credits_text(account['available_micro'])}")
    if account["grants"]:
        print_table(
            ("grant", "source", "priority", "left", "of", "expires", "by"),
            [_grant_row(grant) for grant in account["grants"]],
            title="Grants, in the order they are burned",
        )
    if account["entries"]:
        print_table(
            ("time (UTC)", "type", "credits", "balance", "reference", "detail"),
            [_entry_row(entry) for entry in account["entries"]],
            title="Newest ledger entries",
        )


def _grant_row(grant: dict[str, Any]) -> tuple[object, ...]:
    from tollgate.output import credits_text, time_text

    expires = "never" if grant["expires_at"] is None else time_text(grant["expires_at"])
    return (
        str(grant["grant_id"]),
        grant["source"],
        grant["priority"],
        credits_text(grant["remaining_micro"]),
        credits_text(grant["amount_micro"]),
        f"{expires} (over)" if grant["expired"] else expires,
        grant["granted_by"],
    )


def _entry_row(entry: dict[str, Any]) -> tuple[object, ...]:
    from tollgate.output import credits_text

    return (
        entry["at"],
        entry["kind"],
        credits_text(entry["amount_micro"]),
        credits_text(entry["balance_after_micro"]),
        entry["reference"],
        entry["detail"],
    )
