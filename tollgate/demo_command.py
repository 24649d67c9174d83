"""`tollgate demo`: the main job on this machine, from events to verified balances and rows."""

import asyncio
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

if TYPE_CHECKING:
    from adapters.settings import Settings
    from stack.local import Stack

Events = Annotated[int, typer.Option(min=1_000, max=10_000_000, help="Records to generate.")]
Accounts = Annotated[int, typer.Option(min=2, max=1_000_000, help="Accounts that use them.")]
Raters = Annotated[int, typer.Option(min=1, max=8, help="Rater processes.")]
Trace = Annotated[
    Path | None,
    typer.Option(exists=True, dir_okay=False, help="Publish this trace instead of generated load."),
]
Seed = Annotated[int | None, typer.Option(min=0, help="Repeats a run. Default: a new one.")]
Keep = Annotated[bool, typer.Option("--keep", help="Leave the stack running afterwards.")]
AsJson = Annotated[bool, typer.Option("--json", help="Report as JSON.")]


def register(app: typer.Typer) -> None:
    """Adds `demo`."""
    app.command("demo", epilog="Example: tollgate demo --events 200000 --keep")(demo)


def demo(
    events: Events = 100_000,
    accounts: Accounts = 500,
    raters: Raters = 2,
    trace: Trace = None,
    seed: Seed = None,
    keep: Keep = False,
    as_json: AsJson = False,
) -> None:
    """Start everything, publish events with duplicates and poison, and verify every credit.

    Uses the local stack of this directory and leaves its data there. Exit code 1 when an outcome
    differs from what was published, or `verify` finds a difference.
    """
    from adapters.settings import load_settings
    from tollgate.demo_summary import print_summary
    from tollgate.output import print_json, remark

    home = load_settings().home
    stack, started = _start_stack(home)
    try:
        remark("migrating: PostgreSQL, ClickHouse, topics, the price book")
        _run_command("migrate")
        settings = load_settings(home=home)
        feed = _feed_of(trace, events, accounts, seed)
        report = asyncio.run(_run(settings, feed, raters))
    finally:
        if started and not keep:
            stack.down()
    if as_json:
        print_json(report)
    else:
        print_summary(report)
    as_it_should = report["as_expected"] and report["credits"]["settled"]
    if not as_it_should or not report["verify"]["exact"]:
        raise typer.Exit(1)


def _start_stack(home: Path) -> "tuple[Stack, bool]":
    from stack.local import Stack
    from stack.ports import Name, Ports, port_from_environment
    from tollgate.output import remark

    stack = Stack(home, Ports(*(port_from_environment(name) for name in Name)))
    remark(f"starting Kafka, PostgreSQL and ClickHouse's engine in {home}")
    return stack, bool(stack.up())


def _run_command(*arguments: str) -> dict[str, Any]:
    from tollgate.demo_workers import Command

    return Command(*arguments).result()


def _feed_of(trace: Path | None, events: int, accounts: int, seed: int | None) -> list[str]:
    """The command that publishes, as a person would type it."""
    chosen = [] if seed is None else ["--seed", str(seed)]
    if trace is not None:
        return [
            "publish", str(trace), "--shift-to-now", "last", "--accounts", str(accounts),
            "--models", "20", "--map-model", "m-large=openai/gpt-4o",
            "--map-model", "deepseek-r1=deepseek/deepseek-reasoner", *chosen,
        ]  # fmt: skip
    return [
        "load", "--events", str(events), "--accounts", str(accounts), "--models", "20",
        "--duplicates", "0.02", "--changed-timestamps", "0.5", "--poison", "0.005",
        "--hot-account", "0.4", *chosen,
    ]  # fmt: skip


async def _run(settings: "Settings", feed: list[str], raters: int) -> dict[str, Any]:
    from adapters.postgres import connect
    from tollgate.demo_run import Run

    connection = await connect(settings, application_name="demo", unlimited=True)
    try:
        return await Run(settings, connection, feed, raters).report()
    finally:
        await connection.close()
