"""`tollgate charge show | void | amend`: one charge, and how it is corrected."""

import asyncio
import json
from typing import TYPE_CHECKING, Annotated, Any

import typer

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable

    from adapters.charges import Answer, Request
    from adapters.postgres import Connection

Account = Annotated[str, typer.Argument(metavar="ACCOUNT", help="The account that was charged.")]
Event = Annotated[str, typer.Argument(metavar="EVENT_ID", help="The id of the usage event.")]
Reason = Annotated[str, typer.Option(help="Why, for the ledger.")]
Key = Annotated[str | None, typer.Option(help="Running it again with the same key does it once.")]
Json = Annotated[bool, typer.Option("--json", help="Report as JSON.")]

_METERS = (
    "input_tokens", "cache_read_tokens", "cache_write_tokens", "output_tokens", "reasoning_tokens",
)  # fmt: skip


def register(app: typer.Typer) -> None:
    """Adds `charge show`, `charge void` and `charge amend`."""
    group = typer.Typer(
        help="Look at a charge, void it, amend it.",
        no_args_is_help=True,
        epilog="Example: tollgate charge show acme job-17",
    )
    group.command("show", epilog="Example: tollgate charge show acme job-17")(show)
    group.command(
        "void",
        epilog="Example: tollgate charge void acme job-17 --reason 'sent by a test' --key case-311",
    )(void)
    group.command(
        "amend",
        epilog="Example: tollgate charge amend acme job-17 "
        """--data '{"tokens": {"output": 120}}' --reason 'counted twice' --key case-312""",
    )(amend)
    app.add_typer(group, name="charge")


def show(account: Account, event_id: Event, as_json: Json = False) -> None:
    """Show a charge, its corrections, and what it costs now."""
    from adapters.charges import read_charge
    from adapters.reach import postgres
    from adapters.settings import load_settings
    from tollgate.output import print_json

    async def read() -> dict[str, Any]:
        async with postgres(load_settings(), "charge") as connection:
            return await read_charge(connection, account, event_id)

    found = asyncio.run(read())
    if as_json:
        print_json(found)
    else:
        _print(found)


def void(
    account: Account, event_id: Event, reason: Reason, key: Key = None, as_json: Json = False
) -> None:
    """Make a charge count for nothing; the account gets back what it cost."""
    from adapters.charges import void as book

    _correct(_request(account, event_id, reason, key), book, as_json=as_json)


def amend(
    account: Account,
    event_id: Event,
    data: Annotated[
        str,
        typer.Option(
            metavar="JSON", help="The fields of `data` that were wrong; null: the default."
        ),
    ],
    reason: Reason,
    key: Key = None,
    as_json: Json = False,
) -> None:
    """Replace what was recorded by what is right; the account pays or gets the difference.

    The event keeps its identity and time, and is priced by the version in force at its time.
    """
    from adapters.charges import amend as book

    try:
        patch = json.loads(data)
    except ValueError as error:
        raise typer.BadParameter(f"--data is no JSON: {error}") from None
    if not isinstance(patch, dict):
        raise typer.BadParameter('--data is one JSON object, like {"quantity": 3}')
    _correct(
        _request(account, event_id, reason, key),
        lambda connection, request: book(connection, request, patch),
        as_json=as_json,
    )


def _request(account: str, event_id: str, reason: str, key: str | None) -> "Request":
    from adapters.charges import Request
    from tollgate.arguments import actor

    return Request(account, event_id, actor=actor(), reason=reason, key=key)


def _correct(
    request: "Request",
    work: "Callable[[Connection, Request], Awaitable[Answer]]",
    *,
    as_json: bool,
) -> None:
    from dataclasses import asdict

    from adapters.reach import postgres
    from adapters.settings import load_settings
    from tollgate.output import print_json

    async def book() -> "Answer":
        async with postgres(load_settings(), "charge") as connection:
            return await work(connection, request)

    answer = asyncio.run(book())
    if as_json:
        print_json(asdict(answer))
    else:
        _tell(answer)


def _tell(answer: "Answer") -> None:
    from tollgate.output import credits_text, say

    name = f"{answer.account_id} {answer.event_id}"
    state = "void" if answer.voided else "charged"
    if not answer.changed:
        say(
            f"{name}: nothing to change, it is {state}: {credits_text(answer.amount_micro)} credits"
        )
        return
    moved = answer.amount_change_micro
    done = f"{credits_text(abs(moved))} credits {'given back' if moved < 0 else 'charged'}"
    done = done if moved else "no credits moved"
    if answer.moved_micro:
        done += f", {credits_text(answer.moved_micro)} moved to another charge of the month"
    balance = (
        ""
        if answer.balance_after_micro is None
        else f"; balance {credits_text(answer.balance_after_micro)}"
    )
    when = " before, with this key" if answer.repeated else ""
    say(f"{name}: correction {answer.sequence}, {done}{when}{balance}")


def _print(found: dict[str, Any]) -> None:
    from tollgate.output import credits_text, print_table, say, time_text

    charge, now = found["charge"], found["now"]
    demo = ", demo: never charged" if charge["demo"] else ""
    say(f"charge     {charge['event_id']} of {charge['account_id']} (tier {charge['tier']}{demo})")
    used, posted = time_text(charge["occurred_at"]), time_text(charge["posted_at"])
    say(f"used at    {used} UTC, posted {posted}")
    say(f"charged    {_price(charge)}")
    for correction in found["corrections"]:
        say(f"corrected  {_price(correction)} ({correction['kind']} {correction['sequence']})")
    say(
        f"now        {'void, ' if now['voided'] else ''}{credits_text(now['amount_micro'])} credits"
    )
    states = [("charged", charge), *((row["kind"], row) for row in found["corrections"])]
    print_table(
        ("state", "action", "model", "tokens", "quantity", "level", "version"),
        [_usage_row(name, row) for name, row in states],
        title="What it says was used",
    )
    if found["corrections"]:
        print_table(
            ("no", "time (UTC)", "kind", "run", "credits", "balance", "by", "reason"),
            [_correction_row(row) for row in found["corrections"]],
            title="Corrections",
        )


def _price(row: dict[str, Any]) -> str:
    from tollgate.output import credits_text

    rated = (
        ""
        if row["rated_micro"] == row["amount_micro"]
        else (f", rated {credits_text(row['rated_micro'])}")
    )
    return f"{credits_text(row['amount_micro'])} credits by {row['rule']}{rated}"


def _usage_row(name: str, row: dict[str, Any]) -> tuple[object, ...]:
    tokens = [f"{meter.removesuffix('_tokens')} {row[meter]}" for meter in _METERS if row[meter]]
    model = f"{row['provider']}/{row['model']}" if row["provider"] else row["model"]
    level = row["power_level"] + (
        "" if row["service_tier"] == "standard" else f", {row['service_tier']}"
    )
    rare = [row["other_meters"]] if row["other_meters"] else []
    return (
        name, row["action"], model, ", ".join(tokens + rare) or "-", row["quantity"], level,
        row["price_version"],
    )  # fmt: skip


def _correction_row(row: dict[str, Any]) -> tuple[object, ...]:
    from tollgate.output import credits_text

    balance = row["balance_after_micro"]
    return (
        row["sequence"],
        row["created_at"],
        row["kind"],
        row["run_id"],
        credits_text(-row["amount_change_micro"]),
        "-" if balance is None else credits_text(balance),
        row["actor"],
        row["reason"],
    )
