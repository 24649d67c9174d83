"""`tollgate explain`: why one event cost what it cost, or why it was not charged."""

import asyncio
from typing import TYPE_CHECKING, Annotated, Any

import typer

if TYPE_CHECKING:
    from adapters.explain import Told

_USAGE = ("action", "provider", "model", "power_level", "service_tier", "quantity", "own_key")


def register(app: typer.Typer) -> None:
    """Adds `explain`."""
    app.command("explain", epilog="Example: tollgate explain job-17 --account acme")(explain)


def explain(
    event_id: Annotated[str, typer.Argument(metavar="EVENT_ID", help="The id of the event.")],
    account: Annotated[
        str | None, typer.Option(help="Its account: needed when several use the id, and faster.")
    ] = None,
    as_json: Annotated[bool, typer.Option("--json", help="Report as JSON.")] = False,
) -> None:
    """Show how the price of an event came about, and whether it is what was charged.

    Priced again from what the ledger recorded, under the version that the charge names, as of its
    latest correction. For an event that was not charged: why not.
    """
    from adapters.explain import explain_charge, letters
    from adapters.reach import postgres
    from adapters.settings import load_settings
    from tollgate.output import print_json

    async def read() -> "tuple[Told | None, list[dict[str, Any]]]":
        async with postgres(load_settings(), "explain", unlimited=True) as connection:
            told = await explain_charge(connection, event_id, account)
            return told, [] if told else await letters(connection, event_id, account)

    told, refused = asyncio.run(read())
    if as_json:
        print_json(_as_json(told) if told else {"charged": False, "letters": refused})
    elif told:
        _print(told)
    else:
        _print_letters(event_id, refused)


def _as_json(told: "Told") -> dict[str, Any]:
    from schemas.reasons import Rejected

    charge, answer = told.charge, told.answer
    explanation = None if isinstance(answer, Rejected) else answer.as_json()
    return {
        "charged": True,
        "account_id": charge["account_id"],
        "event_id": charge["event_id"],
        "occurred_at": charge["occurred_at"],
        **{name: charge[name] for name in _USAGE},
        "tier": charge["tier"],
        "demo": charge["demo"],
        "corrections": charge["sequence"],
        "voided": charge["voided"],
        "rated_micro": charge["rated_micro"],
        "amount_micro": charge["amount_micro"],
        "equal": told.equal,
        "remark": told.remark,
        "explanation": explanation,
    }


def _print(told: "Told") -> None:
    from schemas.reasons import Rejected
    from tollgate.explanation import print_explanation
    from tollgate.output import credits_text, say, time_text

    charge = told.charge
    about = f"{charge['provider']}/{charge['model']}" if charge["model"] else charge["action"]
    say(f"event       {charge['event_id']} of {charge['account_id']} (tier {charge['tier']})")
    say(f"usage       {about} at {time_text(charge['occurred_at'])} UTC")
    if charge["sequence"]:
        say(f"corrected   {charge['sequence']} times: `tollgate charge show` has each")
    if not isinstance(told.answer, Rejected):
        print_explanation(told.answer)
    demo = ", demo: nothing is taken" if charge["demo"] else ""
    say(f"charged     {credits_text(charge['amount_micro'])} credits{demo}")
    if told.equal:
        say("this is the price in the ledger")
    else:
        say(f"the ledger's price is {credits_text(charge['rated_micro'])}: {told.remark}")


def _print_letters(event_id: str, refused: list[dict[str, Any]]) -> None:
    from tollgate.output import say, time_text

    say(f"event       {event_id} was not charged")
    for letter in refused:
        again = letter["requeued_at"]
        then = f", sent again {time_text(again)}" if again else ""
        say(f"refused     {time_text(letter['dead_at'])} UTC: {letter['reason']}{then}")
        say(f"            {letter['meaning']}")
        say(f"detail      {letter['detail']}")
        if letter["tried_version"]:
            say(f"tried       with every price version up to {letter['tried_version']}")
        say(f"record      `tollgate dead-letters show {letter['dead_letter_id']}`")
