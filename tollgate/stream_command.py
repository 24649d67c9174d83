"""`tollgate stream accept-epoch`: the way on after a topic was made anew or lost records."""

import asyncio
from typing import TYPE_CHECKING, Annotated

import typer

if TYPE_CHECKING:
    from adapters.settings import Settings
    from adapters.streams import NextEpoch


def register(app: typer.Typer) -> None:
    """Adds `stream accept-epoch`."""
    group = typer.Typer(
        help="Positions and epochs of the usage events.",
        no_args_is_help=True,
        epilog="Example: tollgate stream accept-epoch",
    )
    example = "Example: tollgate stream accept-epoch --yes"
    group.callback()(_stream)
    group.command("accept-epoch", epilog=example)(accept_epoch)
    app.add_typer(group, name="stream")


def _stream() -> None:
    """Positions and epochs of the usage events."""


def accept_epoch(
    yes: Annotated[bool, typer.Option("--yes", help="Do it without asking.")] = False,
    remade: Annotated[
        bool,
        typer.Option("--remade", help="The topic was made anew, even if that can not be seen."),
    ] = False,
    dry_run: Annotated[bool, typer.Option(help="Say what would change, change nothing.")] = False,
    as_json: Annotated[bool, typer.Option("--json", help="Report as JSON; needs --yes.")] = False,
) -> None:
    """Go on after the rater halted with the reason epoch or gap.

    A topic that was made anew is read from its beginning, in a new epoch; a partition that lost
    records goes on at its first one. Everything charged before stays charged. Start the raters
    again afterwards.
    """
    from dataclasses import asdict

    from adapters.failures import Failure
    from adapters.settings import load_settings
    from tollgate.output import print_json, say

    if as_json and not (yes or dry_run):
        raise typer.BadParameter("--json can not ask: add --yes or --dry-run")
    settings = load_settings()
    planned = asyncio.run(_plan(settings, remade=remade))
    if not as_json:
        _print(planned)
    if not planned.needed:
        raise Failure(
            f"{planned.topic} goes on where PostgreSQL stands, there is nothing to accept; "
            "--remade says otherwise"
        )
    if not dry_run:
        if not yes:
            typer.confirm(f"Begin epoch {planned.epoch} of {planned.topic}?", abort=True)
        asyncio.run(_accept(settings, planned))
    if as_json:
        print_json({**asdict(planned), "accepted": not dry_run})
    elif not dry_run:
        say(f"{planned.topic} is in epoch {planned.epoch}: start the raters again")


async def _plan(settings: "Settings", *, remade: bool) -> "NextEpoch":
    from adapters.reach import postgres
    from adapters.streams import plan_epoch
    from schemas.topics import USAGE_EVENTS

    topic = settings.topic_prefix + USAGE_EVENTS.name
    async with postgres(settings, "stream") as connection:
        return await plan_epoch(connection, settings, topic, remade=remade)


async def _accept(settings: "Settings", planned: "NextEpoch") -> None:
    from adapters.reach import postgres
    from adapters.streams import accept_epoch

    async with postgres(settings, "stream") as connection:
        await accept_epoch(connection, planned)


def _print(planned: "NextEpoch") -> None:
    from tollgate.output import print_table

    print_table(
        ("partition", "found", "epoch", "position", "new epoch", "goes on at", "records lost"),
        [
            (
                start.partition,
                start.finding.value,
                start.old.epoch,
                start.old.next_offset,
                planned.epoch,
                start.next_offset,
                start.records_lost,
            )
            for start in planned.starts
        ],
        title=planned.topic,
    )
