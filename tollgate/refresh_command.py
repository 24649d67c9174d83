"""`tollgate refresh`: the monthly allowance, as an operator looks at it, sets it and undoes it."""

import asyncio
from collections.abc import Callable, Coroutine
from typing import TYPE_CHECKING, Annotated, Any, TypeVar

import typer

if TYPE_CHECKING:
    from adapters.idempotency import Reply
    from adapters.postgres import Connection

Result = TypeVar("Result")
Reason = Annotated[str, typer.Option(help="Why, for the audit log.")]
Account = Annotated[str, typer.Argument(help="The account.", show_default=False)]
Json = Annotated[bool, typer.Option("--json", help="Report as JSON.")]


def register(app: typer.Typer) -> None:
    """Adds `refresh` with `due`, `stats`, `history`, `show`, `set`, `now` and `undo`."""
    group = typer.Typer(help="The monthly allowance.", no_args_is_help=True)
    group.command("due", epilog="Example: tollgate refresh due --until 2026-12-01")(due)
    group.command("stats", epilog="Example: tollgate refresh stats --json")(stats)
    group.command("history", epilog="Example: tollgate refresh history --account acme")(history)
    group.command("show", epilog="Example: tollgate refresh show acme")(show)
    group.command("set", epilog="Example: tollgate refresh set acme --day 15 --reason asked")(set_)
    group.command("now", epilog="Example: tollgate refresh now acme --reason 'late payment'")(now)
    group.command("undo", epilog="Example: tollgate refresh undo 12 --reason 'wrong tier'")(undo)
    app.add_typer(group, name="refresh")


def due(
    until: Annotated[str, typer.Option(help="A date or time in UTC. Empty: now.")] = "",
    as_json: Json = False,
) -> None:
    """Show what the refresh job would give, by tier; changes nothing."""
    from dataclasses import asdict

    from adapters.refresh import count_due
    from adapters.settings import load_settings
    from consumers.jobs import terms_of
    from tollgate.arguments import parse_time
    from tollgate.output import credits_text, print_json, print_table

    moment = parse_time(until) if until else None
    terms = terms_of(load_settings())
    tiers = _with_postgres(lambda connection: count_due(connection, terms, moment))
    if as_json:
        print_json([asdict(tier) for tier in tiers])
        return
    rows = ((tier.tier, tier.accounts, credits_text(tier.amount_micro)) for tier in tiers)
    print_table(("tier", "accounts due", "credits"), rows)


def stats(as_json: Json = False) -> None:
    """Show how refreshes go: accounts, due dates, success rate, duration."""
    from adapters.allowances import statistics
    from tollgate.output import print_json, print_table

    found = _with_postgres(statistics)
    if as_json:
        print_json(found)
    else:
        print_table(("figure", "value"), _shown(found))


def history(
    account: Annotated[str | None, typer.Option(help="Only of this account.")] = None,
    run: Annotated[int | None, typer.Option(help="Only of this run of the job.")] = None,
    below: Annotated[int | None, typer.Option(help="Go on below this number.")] = None,
    limit: Annotated[int, typer.Option(min=1, max=10_000, help="How many.")] = 20,
    as_json: Json = False,
) -> None:
    """List refreshes, newest first: what each gave, replaced, and who asked."""
    from adapters.allowances import history as read
    from tollgate.output import credits_text, print_json, print_table

    rows = _with_postgres(
        lambda connection: read(
            connection, account_id=account, run_id=run, below_id=below, refreshes_max=limit
        )
    )
    if as_json:
        print_json(rows)
        return
    print_table(
        ("number", "account", "when", "given", "replaced", "before", "after", "by", "undone"),
        (
            (
                str(row["refresh_id"]),
                row["account_id"],
                row["refreshed_at"],
                *(credits_text(row[f"{name}_micro"]) for name in ("amount", "replaced")),
                *(credits_text(row[f"balance_{when}_micro"]) for when in ("before", "after")),
                row["actor"],
                row["undone_at"],
            )
            for row in rows
        ),
    )


def show(account: Account, as_json: Json = False) -> None:
    """Show the allowance of an account: when it is due, and what it asked for."""
    from adapters.allowances import read_allowance
    from tollgate.output import print_json, print_table

    found = _with_postgres(lambda connection: read_allowance(connection, account))
    if as_json:
        print_json(found)
    else:
        print_table(("setting", "value"), _shown(found))


def set_(
    account: Account,
    reason: Reason,
    paused: Annotated[
        bool | None, typer.Option("--pause/--resume", help="Paused accounts wait.")
    ] = None,
    day: Annotated[
        int | None, typer.Option(min=0, max=31, help="Preferred day of the month; 0: none.")
    ] = None,
    amount: Annotated[
        str | None,
        typer.Option(metavar="CREDITS", help="Its own amount; 'tier': the tier's amount."),
    ] = None,
    as_json: Json = False,
) -> None:
    """Set what an account asked for; it holds from the next refresh on. Idempotent."""
    from adapters.allowances import By, change_allowance
    from adapters.dual_control import check_allowance, policy_of
    from adapters.settings import load_settings
    from tollgate.arguments import actor, parse_credits
    from tollgate.output import print_json, print_table

    changes: dict[str, Any] = {}
    if paused is not None:
        changes["paused"] = paused
    if day is not None:
        changes["preferred_day"] = day or None
    if amount is not None:
        changes["custom_micro"] = None if amount == "tier" else parse_credits(amount)
    if not changes:
        raise typer.BadParameter("say what to set: --pause, --resume, --day or --amount")
    check_allowance(changes, policy_of(load_settings()))
    by = By(actor(), reason)
    found = _with_postgres(lambda connection: change_allowance(connection, account, changes, by))
    if as_json:
        print_json(found)
    else:
        print_table(("setting", "value"), _shown(found))


def now(
    accounts: Annotated[list[str], typer.Argument(help="The accounts.", show_default=False)],
    reason: Reason = "",
    key: Annotated[
        str | None, typer.Option(help="Running it again with the same key does it once.")
    ] = None,
    dry_run: Annotated[
        bool, typer.Option("--dry-run", help="Report what they would get; change nothing.")
    ] = False,
    as_json: Json = False,
) -> None:
    """Refresh accounts now, due or not; their next refresh is due 30 days later.

    Everything that is due: `tollgate job refresh --now`.
    """
    import json
    from dataclasses import asdict

    from adapters.allowances import By, RefreshedNow, refresh_now
    from adapters.command_keys import once_by_command
    from adapters.refresh import count_due
    from adapters.settings import load_settings
    from consumers.jobs import terms_of
    from tollgate.arguments import actor
    from tollgate.output import credits_text, print_json, say

    terms = terms_of(load_settings())
    if dry_run:
        tiers = _with_postgres(lambda connection: count_due(connection, terms, None, accounts))
        count = sum(tier.accounts for tier in tiers)
        amount_micro = sum(tier.amount_micro for tier in tiers)
        if as_json:
            print_json({"dry_run": True, "accounts": count, "amount_micro": amount_micro})
        else:
            say(f"{count:,} accounts would get {credits_text(amount_micro)} credits")
        return
    by = By(actor(), reason, key or "")

    async def once(connection: "Connection") -> "Reply":
        async def work() -> str:
            return json.dumps(asdict(await refresh_now(connection, accounts, terms, by)))

        asked = (sorted(set(accounts)), reason)
        return await once_by_command(connection, key, "refresh now", asked, work)

    reply = _with_postgres(once)
    done = RefreshedNow(**json.loads(reply.text))
    if as_json:
        print_json({**asdict(done), "repeated": reply.repeated})
        return
    before = " before, with this key" if reply.repeated else ""
    say(
        f"run {done.run_id}: {done.refreshed:,} accounts got {credits_text(done.amount_micro)} "
        f"credits{before}, {credits_text(done.replaced_micro)} of older allowances replaced"
    )
    for account_id, refusal in done.failures:
        say(f"{account_id} was refused: {refusal}")
    if done.missed:
        say(f"{done.missed:,} are no accounts")


def undo(
    refresh: Annotated[int, typer.Argument(help="The number that `history` shows.")],
    reason: Reason,
    as_json: Json = False,
) -> None:
    """Take a refresh back, once: what it gave leaves the balance, what it replaced returns."""
    from dataclasses import asdict

    from adapters.allowances import By, undo_refresh
    from tollgate.arguments import actor
    from tollgate.output import credits_text, print_json, say

    by = By(actor(), reason)
    done = _with_postgres(lambda connection: undo_refresh(connection, refresh, by))
    if as_json:
        print_json(asdict(done))
        return
    say(
        f"{done.account_id}: {credits_text(done.taken_micro)} credits taken back, "
        f"{credits_text(done.given_back_micro)} given back; "
        f"balance {credits_text(done.balance_micro)}"
    )


def _shown(found: dict[str, Any]) -> list[tuple[str, Any]]:
    from tollgate.output import credits_text

    return [
        (
            name.removesuffix("_micro").replace("_", " "),
            credits_text(value) if name.endswith("_micro") and value is not None else _text(value),
        )
        for name, value in found.items()
    ]


def _text(value: Any) -> Any:
    return f"{value:,.3f}" if isinstance(value, float) else value


def _with_postgres(work: "Callable[[Connection], Coroutine[Any, Any, Result]]") -> Result:
    from adapters.reach import postgres
    from adapters.settings import load_settings

    async def run() -> Result:
        async with postgres(load_settings(), "refresh") as connection:
            return await work(connection)

    return asyncio.run(run())
