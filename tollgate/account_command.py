"""`tollgate account show | history | create | set | adjust`: one account, as the ledger has it."""

import asyncio
from typing import TYPE_CHECKING, Annotated, Any

import typer

from tollgate.account_history import Account, Json, history, print_account

if TYPE_CHECKING:
    from adapters.accounts import GrantRequest
    from adapters.idempotency import Reply
    from adapters.settings import Settings

Reason = Annotated[str, typer.Option(help="Why, for the audit log.")]
Key = Annotated[str | None, typer.Option(help="Running it again with the same key does it once.")]


def register(app: typer.Typer) -> None:
    """Adds `account show`, `history`, `create`, `set` and `adjust`."""
    group = typer.Typer(
        help="Look at an account, create it, change its terms or its balance.",
        no_args_is_help=True,
        epilog="Example: tollgate account show acme",
    )
    group.command("show", epilog="Example: tollgate account show acme --entries 20")(show)
    group.command("create", epilog="Example: tollgate account create acme --tier pro")(create)
    group.command(
        "history", epilog="Example: tollgate account history acme --type GRANT --since 30d"
    )(history)
    group.command("set", epilog="Example: tollgate account set acme --tier pro --monthly-cap 500")(
        change
    )
    group.command(
        "adjust",
        epilog="Example: tollgate account adjust acme -2.5 --reason 'charged twice by the shop'",
        context_settings={"ignore_unknown_options": True},  # so that -2.5 is an amount
    )(adjust)
    app.add_typer(group, name="account")


def show(
    account: Account,
    entries: Annotated[
        int, typer.Option(min=0, max=1_000, help="How many of the newest ledger entries.")
    ] = 10,
    grants_after: Annotated[
        int | None, typer.Option(min=1, help="Only grants that are burned after this one.")
    ] = None,
    as_json: Json = False,
) -> None:
    """Show balance, grants in the order they are burned, and the newest ledger entries."""
    from adapters.accounts import read_account
    from adapters.reach import postgres
    from adapters.settings import load_settings
    from tollgate.output import print_json

    settings = load_settings()

    async def read() -> dict[str, Any]:
        async with postgres(settings, "account", unlimited=True) as connection:
            return await read_account(
                connection, account, entries_max=entries, grants_after=grants_after
            )

    found = _with_limits(asyncio.run(read()), settings)
    if as_json:
        print_json(found)
    else:
        print_account(found)


def _with_limits(found: dict[str, Any], settings: "Settings") -> dict[str, Any]:
    """With what the account's tier allows, and the cap that counts."""
    from adapters.tier_limits import tier_limits

    limits = tier_limits(settings).of(found["tier"])
    return found | {
        "cap_micro": limits.cap_of(found["monthly_cap_micro"]),
        "minimum_micro": limits.minimum_micro,
        "open_holds_max": limits.open_holds_max,
    }


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
    from adapters.accounts import read_account
    from adapters.admin_acts import Admin, Terms, open_account
    from adapters.reach import postgres
    from adapters.settings import load_settings
    from tollgate.arguments import actor
    from tollgate.output import print_json

    settings = load_settings()
    gift = _welcome(settings, account) if welcome else None
    terms = Terms(tier=tier or settings.default_tier, demo=demo)

    async def book() -> dict[str, Any]:
        async with postgres(settings, "account") as connection:
            async with connection.transaction():
                await open_account(connection, account, terms, gift, Admin(actor()))
            return await read_account(connection, account, entries_max=1)

    found = _with_limits(asyncio.run(book()), settings)
    if as_json:
        print_json(found)
    else:
        print_account(found)


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
    monthly_cap: Annotated[
        str | None, typer.Option(metavar="CREDITS", help="The gate lets no month (UTC) cost more.")
    ] = None,
    no_cap: Annotated[
        bool, typer.Option("--no-cap", help="No cap of its own, but its tier's.")
    ] = False,
    reason: Reason = "",
    as_json: Json = False,
) -> None:
    """Change tier, demo mode or monthly cap, for charges and holds from now on."""
    from adapters.accounts import Row, read_account, unknown_account
    from adapters.admin_acts import Admin, Terms, set_terms
    from adapters.reach import postgres
    from adapters.settings import load_settings
    from tollgate.arguments import actor, parse_credits
    from tollgate.output import print_json

    if tier is None and demo is None and monthly_cap is None and not no_cap:
        raise typer.BadParameter("say what to change: --tier, --demo, --monthly-cap, --no-cap")
    if no_cap and monthly_cap is not None:
        raise typer.BadParameter("either --monthly-cap or --no-cap")
    cap_micro = None if monthly_cap is None else parse_credits(monthly_cap)
    terms = Terms(tier, demo, cap_micro, cap_given=no_cap or cap_micro is not None)

    async def book() -> Row:
        async with postgres(load_settings(), "account") as connection:
            async with connection.transaction():
                if not await set_terms(connection, account, terms, Admin(actor(), reason)):
                    raise unknown_account(account)
            return await read_account(connection, account, entries_max=0)

    found = asyncio.run(book())
    changed = {name: found[name] for name in ("account_id", "tier", "demo", "monthly_cap_micro")}
    if as_json:
        print_json(changed)
    else:
        _tell_terms(changed)


def _tell_terms(changed: dict[str, Any]) -> None:
    from tollgate.output import credits_text, say

    mode = "demo" if changed["demo"] else "charged"
    cap_micro = changed["monthly_cap_micro"]
    cap = "no cap of its own" if cap_micro is None else f"monthly cap {credits_text(cap_micro)}"
    say(f"{changed['account_id']}: tier {changed['tier']}, {mode}, {cap}")


def adjust(
    account: Account,
    amount: Annotated[
        str, typer.Argument(metavar="CREDITS", help="How many; with a minus they are taken.")
    ],
    reason: Reason,
    key: Key = None,
    as_json: Json = False,
) -> None:
    """Give or take credits, with a reason; what is taken beyond the balance becomes overdraft.

    Above the limit of dual control it is a proposal, which waits for another admin.
    """
    import json
    from dataclasses import asdict

    from adapters.accounts import unknown_account
    from adapters.adjustments import Adjusted, Adjustment
    from adapters.command_keys import once_by_command
    from adapters.dual_control import adjust_or_propose, policy_of
    from adapters.proposals import Proposal
    from adapters.reach import postgres
    from adapters.settings import load_settings
    from tollgate.arguments import actor, parse_credits
    from tollgate.output import credits_text, print_json, say
    from tollgate.proposed import tell_known

    sign = -1 if amount.startswith("-") else 1
    amount_micro = sign * parse_credits(amount.removeprefix("-"))
    adjustment = Adjustment(account, amount_micro, actor(), reason, key or "")
    asked = (account, amount_micro, reason)

    async def book() -> "Reply":
        settings = load_settings()
        async with postgres(settings, "account") as connection:

            async def work() -> str:
                done = await adjust_or_propose(connection, adjustment, policy_of(settings))
                if done is None:
                    raise unknown_account(account)
                if isinstance(done, Proposal):
                    return json.dumps({"proposal_id": done.proposal_id})
                return json.dumps(asdict(done))

            return await once_by_command(connection, key, "account adjust", asked, work)

    reply = asyncio.run(book())
    answer = json.loads(reply.text)
    if "proposal_id" in answer:
        tell_known(answer["proposal_id"], as_json=as_json)
        return
    adjusted = Adjusted(**answer)
    if as_json:
        print_json(asdict(adjusted) | {"repeated": reply.repeated})
        return
    moved = ("given" if sign > 0 else "taken") + (" before, with this key" * reply.repeated)
    say(
        f"{account}: {credits_text(abs(adjusted.amount_micro))} credits {moved}; "
        f"balance {credits_text(adjusted.balance_micro)}"
    )
