"""`tollgate grant`: credits for an account, booked once."""

import asyncio
from typing import Annotated

import typer


def register(app: typer.Typer) -> None:
    """Adds `grant`."""
    example = "Example: tollgate grant acme 250.5 --expires 2027-01-01 --reason trial --key trial-7"
    app.command("grant", epilog=example)(grant)


def grant(
    account: Annotated[str, typer.Argument(help="The account that gets the credits.")],
    amount: Annotated[
        str, typer.Argument(metavar="CREDITS", help="How many, with up to six decimals.")
    ],
    expires: Annotated[
        str, typer.Option(help="Until when they can be used: a date or time in UTC. Empty: ever.")
    ] = "",
    priority: Annotated[int, typer.Option(help="Lower is burned first.")] = 100,
    reason: Annotated[str, typer.Option(help="Why, for the ledger.")] = "",
    key: Annotated[
        str | None, typer.Option(help="Running it again with the same key gives nothing again.")
    ] = None,
    as_json: Annotated[bool, typer.Option("--json", help="Report as JSON.")] = False,
) -> None:
    """Give credits to an account; what it owes as overdraft is repaid first."""
    from dataclasses import asdict

    from adapters.accounts import Granted, GrantRequest
    from adapters.admin_acts import Admin, allocate
    from adapters.reach import postgres
    from adapters.settings import load_settings
    from tollgate.arguments import actor, parse_credits, parse_time
    from tollgate.output import credits_text, print_json, say

    request = GrantRequest(
        account_id=account,
        amount_micro=parse_credits(amount),
        actor=actor(),
        priority=priority,
        expires_at=parse_time(expires) if expires else None,
        reason=reason,
        key=key,
    )

    async def book() -> Granted:
        async with postgres(load_settings(), "grant") as connection, connection.transaction():
            return await allocate(connection, request, Admin(request.actor, reason))

    granted = asyncio.run(book())
    if as_json:
        print_json(asdict(granted))
        return
    done = "was given before" if granted.repeated else "given"
    repaid = f", {credits_text(granted.repaid_micro)} of it repaid overdraft"
    say(
        f"grant {granted.grant_id}: {credits_text(granted.amount_micro)} credits {done}"
        f"{repaid if granted.repaid_micro else ''}; "
        f"balance {credits_text(granted.balance_after_micro)}"
    )
