"""`tollgate bench`: the benchmark of a checkout, as a command."""

from typing import Annotated

import typer

Events = Annotated[int, typer.Option(min=1_000, help="Records of the main drain.")]
Repeats = Annotated[int, typer.Option(min=1, help="Main drains; the median counts.")]
Seconds = Annotated[float, typer.Option(min=1, help="Traffic for each measured latency.")]
AsJson = Annotated[bool, typer.Option("--json", help="Print as JSON, keep nothing.")]


def register(app: typer.Typer) -> None:
    """Adds `bench`."""
    app.command("bench", epilog="Example: tollgate bench --events 100000 --repeats 1")(bench)


def bench(
    events: Events = 300_000,
    repeats: Repeats = 3,
    seconds: Seconds = 40.0,
    as_json: AsJson = False,
) -> None:
    """Measure rate, latency and cost of the whole way on this machine, beside its limits.

    Starts a local stack of its own in a temporary directory, on free ports, and removes it. Writes
    bench/RESULTS.md. Takes about six minutes; anything else that runs meanwhile spoils it.
    """
    import subprocess
    import sys
    from pathlib import Path

    from adapters.failures import Failure

    checkout = Path(__file__).parents[1]
    if not (checkout / "bench" / "__main__.py").exists():
        raise Failure("the benchmark is part of a checkout, not of an installation")
    command = [sys.executable, "-m", "bench", "--events", str(events), "--repeats", str(repeats)]
    command += ["--seconds", str(seconds), *(["--json"] if as_json else [])]
    done = subprocess.run(command, cwd=checkout, check=False)  # noqa: S603 - our own command
    if done.returncode:
        raise typer.Exit(1)
