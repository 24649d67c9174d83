"""`tollgate grant`: credits for an account, booked once."""

import asyncio
from typing import TYPE_CHECKING, Annotated

import typer

if TYPE_CHECKING:
    from adapters.accounts import Granted
    from adapters.proposals import Proposal


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
    """Give credits to an account; what it owes as overdraft is repaid first.

    Above the limit of dual control it is a proposal, which waits for another admin.
    """
    from adapters.accounts import GrantRequest
    from adapters.admin_acts import Admin
    from adapters.dual_control import give_or_propose, policy_of
    from adapters.proposals import Proposal
    from adapters.reach import postgres
    from adapters.settings import load_settings
    from tollgate.arguments import actor, parse_credits, parse_time
    from tollgate.proposed import tell_proposal

    request = GrantRequest(
        account_id=account,
        amount_micro=parse_credits(amount),
        actor=actor(),
        priority=priority,
        expires_at=parse_time(expires) if expires else None,
        reason=reason,
        key=key,
    )

    async def book() -> "Granted | Proposal":
        settings = load_settings()
        admin, policy = Admin(request.actor, reason), policy_of(settings)
        async with (
            postgres(settings, "grant") as connection,
            connection.transaction(isolation="read_committed"),
        ):
            return await give_or_propose(connection, request, admin, policy)

    done = asyncio.run(book())
    if isinstance(done, Proposal):
        tell_proposal(done, as_json=as_json)
    else:
        _tell(done, as_json=as_json)


def _tell(granted: "Granted", *, as_json: bool) -> None:
    from dataclasses import asdict

    from tollgate.output import credits_text, print_json, say

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
