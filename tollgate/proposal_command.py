"""`tollgate proposal list | show | approve | reject`: gifts that wait for a second admin."""

import asyncio
from typing import TYPE_CHECKING, Annotated

import typer

from core.dual_control import ProposalState

if TYPE_CHECKING:
    from adapters.dual_control import Decided
    from adapters.proposals import Proposal

Number = Annotated[int, typer.Argument(metavar="NUMBER", min=1, help="The proposal's number.")]
Json = Annotated[bool, typer.Option("--json", help="Report as JSON.")]


def register(app: typer.Typer) -> None:
    """Adds `proposal list`, `show`, `approve` and `reject`."""
    group = typer.Typer(
        help="Decide on gifts of credits that are too large for one admin.",
        no_args_is_help=True,
        epilog="Example: tollgate proposal list --state pending",
    )
    group.command("list", epilog="Example: tollgate proposal list --state pending")(show_all)
    group.command("show", epilog="Example: tollgate proposal show 3")(show)
    group.command(
        "approve", epilog="Example: tollgate proposal approve 3 --reason 'contract 1042'"
    )(approve)
    group.command("reject", epilog="Example: tollgate proposal reject 3 --reason 'no contract'")(
        reject
    )
    app.add_typer(group, name="proposal")


def show_all(
    state: Annotated[
        ProposalState | None, typer.Option(help="Only these; pending ones wait for an admin.")
    ] = None,
    account: Annotated[str | None, typer.Option(help="Only of this account.")] = None,
    limit: Annotated[int, typer.Option(min=1, max=1_000, help="At most so many.")] = 50,
    before: Annotated[
        int | None, typer.Option(metavar="NUMBER", help="Older than the one of this number.")
    ] = None,
    as_json: Json = False,
) -> None:
    """List proposals, newest first."""
    from dataclasses import asdict

    from adapters.proposals import list_proposals
    from adapters.reach import postgres
    from adapters.settings import load_settings
    from tollgate.output import print_json, print_table, say
    from tollgate.proposed import what

    async def read() -> "list[Proposal]":
        async with postgres(load_settings(), "proposal") as connection:
            return await list_proposals(
                connection,
                state=state,
                account_id=account,
                below_id=before,
                proposals_max=limit + 1,
            )

    found = asyncio.run(read())
    page, following = found[:limit], found[limit - 1].proposal_id if len(found) > limit else None
    if as_json:
        print_json({"proposals": [asdict(each) for each in page], "next": following})
        return
    if not page:
        say("no proposals")
        return
    print_table(
        ("no", "state", "what", "proposed by", "reason", "until (UTC)", "decided by"),
        [
            (
                each.proposal_id,
                each.state,
                f"{each.kind}: {what(each)}",
                each.proposed_by,
                each.reason,
                each.expires_at,
                each.decided_by,
            )
            for each in page
        ],
    )
    if following is not None:
        say(f"older proposals: --before {following}")


def show(number: Number, as_json: Json = False) -> None:
    """Show a proposal: what is to be done, who asked for it, and what became of it."""
    from dataclasses import asdict

    from tollgate.output import print_json, say, time_text
    from tollgate.proposed import find, what

    found = asyncio.run(find(number))
    if as_json:
        print_json(asdict(found))
        return
    say(f"proposal   {found.proposal_id} ({found.state})")
    say(f"what       {found.kind}: {what(found)}")
    for name, value in found.terms.items():
        if not name.endswith("_micro") and value is not None:
            say(f"           {name}: {value}")
    say(f"proposed   {time_text(found.proposed_at)} UTC by {found.proposed_by}: {found.reason}")
    say(f"until      {time_text(found.expires_at)} UTC")
    if found.decided_by is not None:
        at = time_text(found.decided_at)
        say(f"decided    {at} UTC by {found.decided_by}: {found.decision}")
    if found.transaction_id is not None:
        say(f"booked     transaction {found.transaction_id}")


def approve(
    number: Number,
    reason: Annotated[str, typer.Option(help="Why it is right, for the audit log.")] = "",
    as_json: Json = False,
) -> None:
    """Book what was proposed, once. Whoever proposed it can not approve it."""
    from tollgate.output import credits_text, say
    from tollgate.proposed import tell_proposal

    done = _decide(number, reason, approves=True)
    tell_proposal(done.proposal, as_json=as_json)
    if done.balance_micro is not None and not as_json:
        say(f"balance {credits_text(done.balance_micro)}")


def reject(
    number: Number,
    reason: Annotated[str, typer.Option(help="Why not, for the proposer and the audit log.")],
    as_json: Json = False,
) -> None:
    """Book nothing, now or later. Whoever proposed it withdraws it so."""
    from tollgate.proposed import tell_proposal

    tell_proposal(_decide(number, reason, approves=False).proposal, as_json=as_json)


def _decide(number: int, reason: str, *, approves: bool) -> "Decided":
    from adapters.admin_acts import Admin
    from adapters.dual_control import Decided
    from adapters.dual_control import approve as book
    from adapters.dual_control import reject as dismiss
    from adapters.failures import Failure
    from adapters.reach import postgres
    from adapters.settings import load_settings
    from core.dual_control import ProposalRefusal
    from tollgate.arguments import actor

    admin = Admin(actor(), reason)

    async def work() -> Decided | ProposalRefusal:
        async with (
            postgres(load_settings(), "proposal") as connection,
            connection.transaction(isolation="read_committed"),
        ):
            return await (book if approves else dismiss)(connection, number, admin)

    done = asyncio.run(work())
    if isinstance(done, ProposalRefusal):
        raise Failure(f"proposal {number}: {done.meaning[:1].lower()}{done.meaning[1:]}")
    return done
