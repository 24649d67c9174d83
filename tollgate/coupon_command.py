"""`tollgate coupon create | list | disable | redeem`."""

import asyncio
from typing import TYPE_CHECKING, Annotated, Any

import typer

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable

    from adapters.coupons import NewCoupon
    from adapters.idempotency import Reply
    from adapters.postgres import Connection

Code = Annotated[str, typer.Argument(metavar="CODE", help="3 to 64 of A-Z, 0-9, _ and -.")]
Reason = Annotated[str, typer.Option(help="Why, for the audit log.")]
Json = Annotated[bool, typer.Option("--json", help="Report as JSON.")]


def register(app: typer.Typer) -> None:
    """Adds `coupon create`, `list`, `disable` and `redeem`."""
    group = typer.Typer(
        help="Make coupons, look at them, withdraw and redeem them.",
        no_args_is_help=True,
        epilog="Example: tollgate coupon create WELCOME100 --credits 100 --uses 10",
    )
    group.command(
        "create", epilog="Example: tollgate coupon create WELCOME100 --credits 100 --uses 10"
    )(create)
    group.command("list", epilog="Example: tollgate coupon list --usable")(show)
    group.command("disable", epilog="Example: tollgate coupon disable WELCOME100")(disable)
    group.command("redeem", epilog="Example: tollgate coupon redeem WELCOME100 acme")(redeem)
    app.add_typer(group, name="coupon")


def create(
    code: Code,
    credits_: Annotated[
        str | None, typer.Option("--credits", metavar="CREDITS", help="A fixed amount.")
    ] = None,
    percent: Annotated[
        str | None, typer.Option(metavar="PERCENT", help="Of a purchase, at most 1000.")
    ] = None,
    uses: Annotated[
        int | None, typer.Option(min=1, help="Uses in all. Without it: no limit.")
    ] = None,
    account_uses: Annotated[int, typer.Option(min=1, help="Uses of one account.")] = 1,
    days: Annotated[
        int | None, typer.Option(min=1, help="What it gives lives so long. Without it: for ever.")
    ] = None,
    expires: Annotated[str, typer.Option(help="Until when the code holds (UTC).")] = "",
    reason: Reason = "",
    as_json: Json = False,
) -> None:
    """Make a coupon: an amount of credits, or a percentage of a purchase.

    What can give more than the limit of dual control is a proposal, which waits for another admin.
    """
    from dataclasses import asdict

    from adapters.admin_acts import Admin
    from adapters.coupons import NewCoupon
    from adapters.dual_control import make_coupon_or_propose, policy_of
    from adapters.settings import load_settings
    from core.coupons import CouponKind
    from tollgate.arguments import actor, parse_credits, parse_time
    from tollgate.output import print_json, say
    from tollgate.proposed import tell_proposal

    if (credits_ is None) == (percent is None):
        raise typer.BadParameter("either --credits or --percent")
    coupon = NewCoupon(
        code=code,
        kind=CouponKind.FIXED if percent is None else CouponKind.PERCENTAGE,
        actor=actor(),
        amount_micro=0 if credits_ is None else parse_credits(credits_),
        percent_micro=0 if percent is None else parse_credits(percent),
        uses_max=uses,
        account_uses_max=account_uses,
        grant_days=days,
        expires_at=parse_time(expires) if expires else None,
    )
    admin, policy = Admin(coupon.actor, reason), policy_of(load_settings())
    proposal = _in_transaction(lambda c: make_coupon_or_propose(c, coupon, admin, policy))
    if proposal is not None:
        tell_proposal(proposal, as_json=as_json)
    elif as_json:
        print_json(asdict(coupon))
    else:
        say(f"coupon {code}: {_worth(asdict(coupon))}, {_limits(coupon)}")


def _limits(coupon: "NewCoupon") -> str:
    uses = coupon.uses_max
    times = "any number of uses" if uses is None else f"{uses} use{'s' if uses > 1 else ''}"
    return f"{times} in all, {coupon.account_uses_max} by one account"


def _worth(coupon: dict[str, Any]) -> str:
    from tollgate.output import credits_text

    if coupon["percent_micro"]:
        return f"{credits_text(coupon['percent_micro'])} % of a purchase"
    return f"{credits_text(coupon['amount_micro'])} credits"


def show(
    usable: Annotated[bool, typer.Option("--usable", help="Only those that hold now.")] = False,
    limit: Annotated[int, typer.Option(min=1, max=10_000, help="At most so many.")] = 50,
    before: Annotated[str, typer.Option(help="The cursor that the page before printed.")] = "",
    as_json: Json = False,
) -> None:
    """List the newest coupons with their uses."""
    from adapters.coupons import list_coupons
    from adapters.history import Page, read_cursor
    from tollgate.output import print_json, print_table, say

    cursor = read_cursor(before) if before else None
    page: Page = _in_transaction(
        lambda c: list_coupons(c, usable=usable, coupons_max=limit, before=cursor)
    )
    if as_json:
        print_json({"coupons": page.entries, "next": page.next})
    elif not page.entries:
        say("no coupons")
    else:
        print_table(
            ("code", "gives", "uses", "of", "an account", "lives", "expires (UTC)", "disabled"),
            [_row(coupon) for coupon in page.entries],
        )
        if page.following is not None:
            say(f"older coupons: --before {page.following}")


def _row(coupon: dict[str, Any]) -> tuple[object, ...]:
    days = coupon["grant_days"]
    return (
        coupon["code"],
        _worth(coupon),
        coupon["uses"],
        coupon["uses_max"],
        coupon["account_uses_max"],
        "for ever" if days is None else f"{days} days",
        coupon["expires_at"],
        coupon["disabled_at"],
    )


def disable(code: Code, reason: Reason = "", as_json: Json = False) -> None:
    """Withdraw a coupon: nobody can use it any more. What was redeemed stays."""
    from adapters.admin_acts import Admin, withdraw_coupon
    from tollgate.arguments import actor
    from tollgate.output import print_json, say

    _in_transaction(lambda c: withdraw_coupon(c, code, Admin(actor(), reason)))
    if as_json:
        print_json({"code": code, "usable": False})
    else:
        say(f"coupon {code}: withdrawn")


def redeem(
    code: Code,
    account: Annotated[str, typer.Argument(metavar="ACCOUNT", help="Who gets the credits.")],
    reason: Reason = "",
    key: Annotated[
        str | None, typer.Option(help="Running it again with the same key does it once.")
    ] = None,
    as_json: Json = False,
) -> None:
    """Redeem a coupon of a fixed amount for an account."""
    import json
    from dataclasses import asdict, replace

    from adapters.accounts import Granted, unknown_account
    from adapters.admin_acts import Admin, redeem_for
    from adapters.command_keys import once_by_command
    from adapters.failures import Failure
    from core.coupons import CouponRefusal
    from tollgate.arguments import actor
    from tollgate.output import credits_text, print_json, say

    async def book(connection: "Connection") -> "Reply":
        async def work() -> str:
            done = await redeem_for(connection, code, account, Admin(actor(), reason, key or ""))
            if done is None:
                raise unknown_account(account)
            if isinstance(done, CouponRefusal):
                raise Failure(f"{code}: {done.meaning.lower()}")
            return json.dumps(asdict(done.granted))

        asked = (code, account, reason)
        return await once_by_command(connection, key, "coupon redeem", asked, work)

    reply = _on_a_connection(book)
    given = replace(Granted(**json.loads(reply.text)), repeated=reply.repeated)
    if as_json:
        print_json({"code": code, "account_id": account, **asdict(given)})
        return
    before = " before, with this key" if reply.repeated else ""
    say(
        f"{account}: {credits_text(given.amount_micro)} credits by coupon {code}{before}; "
        f"balance {credits_text(given.balance_after_micro)}"
    )


def _in_transaction(work: "Callable[[Connection], Awaitable[Any]]") -> Any:
    async def within(connection: "Connection") -> Any:
        async with connection.transaction():
            return await work(connection)

    return _on_a_connection(within)


def _on_a_connection(work: "Callable[[Connection], Awaitable[Any]]") -> Any:
    from adapters.reach import postgres
    from adapters.settings import load_settings

    async def run() -> Any:
        async with postgres(load_settings(), "coupon") as connection:
            return await work(connection)

    return asyncio.run(run())
