"""What an account's commands print: its credits, its grants, and its history."""

import asyncio
from typing import TYPE_CHECKING, Annotated, Any

import typer

if TYPE_CHECKING:
    from adapters.history import Page

Account = Annotated[str, typer.Argument(metavar="ACCOUNT", help="The id of the account.")]
Json = Annotated[bool, typer.Option("--json", help="Report as JSON.")]


def history(
    account: Account,
    types: Annotated[
        list[str] | None,
        typer.Option("--type", help="USAGE, HOLD or a type of the ledger; may be repeated."),
    ] = None,
    statuses: Annotated[
        list[str] | None,
        typer.Option("--status", help="PENDING, COMPLETED or FAILED; may be repeated."),
    ] = None,
    since: Annotated[str, typer.Option(help="From this time (UTC) on, or how long ago: 2h.")] = "",
    until: Annotated[str, typer.Option(help="Before this time (UTC).")] = "",
    limit: Annotated[int, typer.Option(min=1, max=500, help="Entries of one page.")] = 20,
    before: Annotated[str, typer.Option(help="The cursor that the page before printed.")] = "",
    as_json: Json = False,
) -> None:
    """Show charges, credits and holds of an account, newest first, a page at a time."""
    from adapters.accounts import read_account
    from adapters.history import Filters, Page, read_cursor
    from adapters.history import history as read_page
    from adapters.reach import postgres
    from adapters.settings import load_settings
    from tollgate.arguments import parse_time
    from tollgate.output import print_json

    filters = Filters(
        types=_upper(types),
        statuses=_statuses(statuses),
        since=parse_time(since) if since else None,
        until=parse_time(until) if until else None,
    )
    cursor = read_cursor(before) if before else None

    async def read() -> Page:
        async with postgres(load_settings(), "account", unlimited=True) as connection:
            await read_account(connection, account, entries_max=0)
            return await read_page(connection, account, filters, limit, cursor)

    page = asyncio.run(read())
    if as_json:
        following = None if page.following is None else str(page.following)
        print_json({"account_id": account, "entries": page.entries, "next": following})
    else:
        _print_page(page)


def _upper(words: list[str] | None) -> list[str] | None:
    return [word.upper() for word in words] if words else None


def _statuses(words: list[str] | None) -> list[str] | None:
    from core.holds import HoldState

    known = sorted({state.status for state in HoldState})
    wanted = _upper(words)
    for word in wanted or ():
        if word not in known:
            raise typer.BadParameter(f"{word!r} is no status: {', '.join(known)}")
    return wanted


def _print_page(page: "Page") -> None:
    from tollgate.output import print_table, say

    if not page.entries:
        say("no entries")
        return
    print_table(
        ("time (UTC)", "type", "status", "credits", "balance", "reference", "by", "detail"),
        [_history_row(entry) for entry in page.entries],
    )
    if page.following is not None:
        say(f"older entries: --before {page.following}")


def _history_row(entry: dict[str, Any]) -> tuple[object, ...]:
    from tollgate.output import credits_text

    balance_micro = entry["balance_after_micro"]
    return (
        entry["at"],
        entry["type"],
        entry["status"],
        credits_text(entry["amount_micro"]),
        None if balance_micro is None else credits_text(balance_micro),
        _reference(entry),
        entry["actor"],
        entry["reason"] or entry["detail"],
    )


def _reference(entry: dict[str, Any]) -> str | None:
    """What the entry is about: a grant, a hold, or an event."""
    if entry["grant_id"] is not None:
        return f"grant {entry['grant_id']}"
    reference: str | None = entry["hold_id"] or entry["event_id"]
    return reference


def print_account(account: dict[str, Any]) -> None:
    """The account as a person reads it: credits, cap, allowance, grants, newest entries."""
    from tollgate.output import credits_text, print_table, say, time_text

    mode = ", demo: never charged" if account["demo"] else ""
    say(f"account    {account['account_id']} (tier {account['tier']}{mode})")
    say(f"since      {time_text(account['created_at'])} UTC")
    say(f"balance    {credits_text(account['balance_micro'])} credits")
    say(f"overdraft  {credits_text(account['overdraft_micro'])}")
    say(f"held       {credits_text(account['held_micro'])} in {account['open_holds']} open holds")
    if account["over_micro"]:
        say(f"expired    {credits_text(account['over_micro'])}, not booked yet")
    say(f"available  {credits_text(account['available_micro'])}")
    say(f"this month {credits_text(account['spent_micro'])} spent, {_cap_text(account)}")
    if account["allowance"] is not None:
        say(f"allowance  {_allowance_text(account['allowance'])}")
    if account["grants"]:
        print_table(
            ("grant", "source", "priority", "left", "of", "expires", "by"),
            [_grant_row(grant) for grant in account["grants"]],
            title="Grants, in the order they are burned",
        )
    if account["grants_next"] is not None:
        more = f"tollgate account show {account['account_id']} --grants-after"
        say(
            f"{len(account['grants']):,} grants are shown: {more} {account['grants_next']} goes on."
        )
    if account["entries"]:
        print_table(
            ("time (UTC)", "type", "credits", "balance", "reference", "detail"),
            [_entry_row(entry) for entry in account["entries"]],
            title="Newest ledger entries",
        )


def _cap_text(account: dict[str, Any]) -> str:
    from tollgate.output import credits_text

    cap_micro = account["cap_micro"]
    if cap_micro is None:
        return "no cap"
    whose = " of its tier" if account["monthly_cap_micro"] is None else ""
    return f"cap {credits_text(cap_micro)}{whose}"


def _allowance_text(allowance: dict[str, Any]) -> str:
    from tollgate.output import credits_text, time_text

    custom_micro = allowance["custom_micro"]
    amount = "of the tier" if custom_micro is None else credits_text(custom_micro)
    due = "paused" if allowance["paused"] else f"due {time_text(allowance['due_at'])} UTC"
    day = allowance["preferred_day"]
    preferred = "" if day is None else f", on day {day}"
    last = time_text(allowance["refreshed_at"])
    return f"{amount}, {due}{preferred}, last {last}"


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
