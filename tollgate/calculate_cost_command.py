"""`tollgate calculate-cost`: what a described usage costs, by the code that charges."""

import asyncio
from typing import TYPE_CHECKING, Annotated, Any

import typer

if TYPE_CHECKING:
    from core.explain import Explanation
    from schemas.reasons import Rejected
    from schemas.usage import UsageEvent

_NOBODY = "nobody"


def register(app: typer.Typer) -> None:
    """Adds `calculate-cost`."""
    app.command(
        "calculate-cost",
        epilog="Example: tollgate calculate-cost --model gpt-4o --input 1000 --tier free",
    )(calculate_cost)


def calculate_cost(
    model: Annotated[str, typer.Option(help="The model, as an event names it.")] = "",
    provider: Annotated[str, typer.Option(help="Who sells it.")] = "",
    input_tokens: Annotated[int, typer.Option("--input", min=0, help="Input tokens in all.")] = 0,
    output_tokens: Annotated[
        int, typer.Option("--output", min=0, help="Output tokens in all.")
    ] = 0,
    tokens: Annotated[
        list[str] | None,
        typer.Option(metavar="KIND=N", help="Tokens of a kind within them: cache_read=800."),
    ] = None,
    action: Annotated[str, typer.Option(help="The action, for work without tokens.")] = "",
    quantity: Annotated[int, typer.Option(min=0, help="How many units.")] = 1,
    unit: Annotated[str, typer.Option(help="What the quantity counts: seconds, images.")] = "",
    power_level: Annotated[str, typer.Option(help="eco, balanced or precision.")] = "balanced",
    service_tier: Annotated[
        str, typer.Option(help="standard, batch, flex, priority or fast.")
    ] = "standard",
    own_key: Annotated[bool, typer.Option(help="On the account's own provider key.")] = False,
    billed: Annotated[
        str | None, typer.Option(metavar="AMOUNT[ CURRENCY]", help="The provider's own bill.")
    ] = None,
    tier: Annotated[
        str | None, typer.Option(help="The account's tier; else that of new accounts.")
    ] = None,
    account: Annotated[
        str | None, typer.Option(help="An account: its tier, and what it used this month.")
    ] = None,
    used: Annotated[
        int | None, typer.Option(min=0, help="Units used before in the month, for counted prices.")
    ] = None,
    at: Annotated[
        str | None, typer.Option(help="When: a UTC time, or how long ago: 2h. Else now.")
    ] = None,
    version: Annotated[int | None, typer.Option(help="Under this price version.")] = None,
    as_json: Annotated[bool, typer.Option("--json", help="Report as JSON.")] = False,
) -> None:
    """Show what a usage would cost, and how the price comes about. Nothing is charged.

    The same code prices real events, so the figure is what such an event would be charged at that
    time. A price that depends on the month takes --used, or what --account has used so far.
    """
    event = _event(
        account or _NOBODY,
        at,
        {
            "model": model,
            "provider": provider,
            "tokens": {"input": input_tokens, "output": output_tokens} | _kinds(tokens or []),
            "quantity": quantity,
            "unit": unit,
            "power_level": power_level,
            "service_tier": service_tier,
            "own_key": own_key,
        }
        | ({"action": action} if action else {})
        | ({} if billed is None else {"billed": _bill(billed)}),
    )
    found = asyncio.run(_priced(event, account, tier, version, used))
    _report(found, as_json=as_json)


async def _priced(
    event: "UsageEvent",
    account: str | None,
    tier: str | None,
    version: int | None,
    used: int | None,
) -> "Explanation | Rejected":
    from adapters.explain import cost, facts
    from adapters.reach import postgres
    from adapters.settings import load_settings
    from core.rating import AccountFacts

    settings = load_settings()
    async with postgres(settings, "calculate-cost") as connection:
        known: AccountFacts
        if account is None or tier is not None:
            known = AccountFacts(tier or settings.default_tier, demo=False)
        else:
            known = await facts(connection, account)
        return await cost(connection, event, known, price_version=version, counted_units=used)


def _report(found: "Explanation | Rejected", *, as_json: bool) -> None:
    from adapters.failures import Failure
    from schemas.reasons import Rejected
    from tollgate.explanation import print_explanation
    from tollgate.output import print_json

    if isinstance(found, Rejected):
        raise Failure(f"it would not be charged ({found.reason}): {found.detail}")
    if as_json:
        print_json(found.as_json())
    else:
        print_explanation(found)


def _kinds(options: list[str]) -> dict[str, int]:
    counts = {}
    for option in options:
        kind, equals, count = option.partition("=")
        if not equals or not count.isdecimal():
            raise typer.BadParameter(f"--tokens {option!r} is not like cache_read=800")
        counts[kind] = int(count)
    return counts


def _bill(text: str) -> dict[str, str]:
    amount, _, currency = text.strip().partition(" ")
    return {"amount": amount} | ({"currency": currency} if currency else {})


def _event(account: str, at: str | None, data: dict[str, Any]) -> "UsageEvent":
    """The usage as an event, by the same validation; what breaks a limit is a usage error."""
    from datetime import UTC, datetime

    from pydantic import TypeAdapter, ValidationError

    from schemas.usage import EVENT_TYPE, UsageEvent
    from tollgate.arguments import parse_time

    when = datetime.now(UTC) if at is None else parse_time(at)
    described = {
        "specversion": "1.0",
        "id": "calculate-cost",
        "source": "calculate-cost",
        "type": EVENT_TYPE,
        "subject": account,
        "time": when.isoformat().replace("+00:00", "Z"),
        "data": data,
    }
    try:
        return TypeAdapter(UsageEvent).validate_python(described, strict=False)
    except ValidationError as error:
        first = error.errors()[0]
        place = ".".join(str(part) for part in first["loc"])
        raise typer.BadParameter(f"{place}: {first['msg']}") from None
