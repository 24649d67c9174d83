"""`tollgate lag`: what waits, and where."""

import asyncio
from typing import TYPE_CHECKING, Annotated

import typer

if TYPE_CHECKING:
    from adapters.lag import Lag, StreamLag


def register(app: typer.Typer) -> None:
    """Adds `lag`."""
    app.command("lag", epilog="Example: tollgate lag --json")(lag)


def lag(
    as_json: Annotated[bool, typer.Option("--json", help="Report as JSON.")] = False,
) -> None:
    """Show how far the rater is behind Kafka and the warehouse behind PostgreSQL."""
    from dataclasses import asdict

    from adapters.lag import read_lag
    from adapters.reach import postgres
    from adapters.settings import load_settings
    from tollgate.output import print_json

    settings = load_settings()

    async def read() -> "Lag":
        async with postgres(settings, "lag", unlimited=True) as connection:
            return await read_lag(connection, settings)

    found = asyncio.run(read())
    if as_json:
        print_json({**asdict(found), "records": found.records})
    else:
        _print(found)


def _print(found: "Lag") -> None:
    from tollgate.output import print_table, say

    print_table(
        ("partition", "first", "end", "position", "epoch", "lag", "moved (UTC)"),
        [
            (
                part.partition,
                part.first_offset,
                part.end_offset,
                part.position,
                part.epoch,
                part.lag,
                part.moved_at,
            )
            for part in found.partitions
        ],
        title=found.topic,
    )
    say(f"rater       {found.records:,} records wait")
    say(f"warehouse   {_waiting(found.charges, 'charges')}")
    say(f"            {_waiting(found.credit_transactions, 'credit transactions')}")
    say(f"            {_waiting(found.corrections, 'corrections')}")
    say(f"prices      {found.parked:,} events wait for one")
    say(f"usage.dead  {found.dead_letters_unpublished:,} dead letters wait to be published")


def _waiting(stream: "StreamLag", noun: str) -> str:
    age = f", the oldest for {stream.behind_seconds:.1f} s" if stream.waiting else ""
    return f"{stream.waiting:,} {noun} wait{age}"
