"""`tollgate load`: generated traffic with a known right answer."""

import asyncio
from typing import TYPE_CHECKING, Annotated, Any

import typer

if TYPE_CHECKING:
    from producers.load import LoadSpec

_SPAN_SECONDS = 3600.0
_EVENTS = 10_000

Events = Annotated[
    int | None, typer.Option(min=1, help="Records in all. Default: 10000, or by --duration.")
]
Duration = Annotated[
    float | None, typer.Option(min=0.1, help="Seconds; with --rate, instead of --events.")
]
Rate = Annotated[float, typer.Option(min=0, help="Mean records a second; 0: as fast as possible.")]
Span = Annotated[
    float, typer.Option(min=1, help="Seconds before now that the times fill, at rate 0.")
]
Accounts = Annotated[int, typer.Option(min=1, max=1_000_000, help="How many accounts.")]
Models = Annotated[int, typer.Option(min=1, max=20, help="How many real models.")]
Sizes = Annotated[str, typer.Option(help="Token sizes: mixed, chat, large, reasoning or image.")]
Hot = Annotated[
    float, typer.Option(min=0.001, max=0.999, help="Share of the busiest account, acct-00001.")
]
Duplicates = Annotated[
    float, typer.Option(min=0, max=1, help="Share of records sent a second time.")
]
Changed = Annotated[
    float, typer.Option(min=0, max=1, help="Share of the duplicates with another time.")
]
PoisonShare = Annotated[
    float, typer.Option(min=0, max=1, help="Share of records that must be dead letters.")
]
Steady = Annotated[bool, typer.Option("--steady", help="Even traffic, not a drifting rate.")]
Seed = Annotated[
    int | None,
    typer.Option(min=0, help="The same seed gives the same ids. Default: a new one each time."),
]
DryRun = Annotated[bool, typer.Option("--dry-run", help="Generate and count, publish nothing.")]
AsJson = Annotated[bool, typer.Option("--json", help="Report as JSON.")]


def register(app: typer.Typer) -> None:
    """Adds `load`."""
    example = "Example: tollgate load --events 100000 --duplicates 0.02 --poison 0.005 --seed 7"
    app.command("load", epilog=example)(load)


def load(
    events: Events = None,
    duration: Duration = None,
    rate: Rate = 0.0,
    span: Span = _SPAN_SECONDS,
    accounts: Accounts = 500,
    models: Models = 20,
    profile: Sizes = "mixed",
    hot_account: Hot = 0.4,
    duplicates: Duplicates = 0.0,
    changed_timestamps: Changed = 0.0,
    poison: PoisonShare = 0.0,
    steady: Steady = False,
    seed: Seed = None,
    dry_run: DryRun = False,
    as_json: AsJson = False,
) -> None:
    """Publish generated usage that looks like real traffic, and say what must come of it.

    Token sizes, bursts and the skew over accounts follow published traces. The manifest at the
    end is the right answer: unique events to charge, duplicates, and poison by its reason.
    """
    import secrets
    from datetime import UTC, datetime, timedelta

    from producers.load import LoadSpec
    from producers.load_shapes import Profile

    if profile not in list(Profile):
        raise typer.BadParameter(f"{profile!r} is not one of {', '.join(Profile)}")
    if duplicates + poison > 1:
        raise typer.BadParameter("--duplicates and --poison add up to more than 1")
    count = _count(events, duration, rate)
    span_seconds = count / rate if rate else span
    now = datetime.now(UTC)
    spec = LoadSpec(
        events=count,
        seed=secrets.randbits(48) if seed is None else seed,
        start=now if rate else now - timedelta(seconds=span_seconds),
        span_seconds=span_seconds,
        accounts=accounts,
        models=models,
        profile=Profile(profile),
        hot_share=hot_account,
        duplicates=duplicates,
        changed_timestamps=changed_timestamps,
        poison=poison,
        steady=steady,
    )
    _print(_run(spec, paced=bool(rate), dry_run=dry_run), as_json=as_json)


def _count(events: int | None, duration_seconds: float | None, rate: float) -> int:
    if duration_seconds is None:
        return events or _EVENTS
    if not rate or events is not None:
        raise typer.BadParameter("--duration goes with --rate and without --events")
    return max(1, round(duration_seconds * rate))


def _run(spec: "LoadSpec", *, paced: bool, dry_run: bool) -> dict[str, Any]:
    from adapters.settings import load_settings
    from producers.load import Load
    from tollgate.publishing import send_all

    generated = Load(spec)
    sent, seconds = 0, 0.0
    if dry_run:
        for _ in generated:
            pass
    else:
        sending = send_all(
            load_settings(), generated, paced=paced, label="publishing", total=spec.events
        )
        sent, seconds = asyncio.run(sending)
    manifest = generated.manifest.document()
    return {"seed": spec.seed, "published": sent, "seconds": round(seconds, 3), **manifest}


def _print(report: dict[str, Any], *, as_json: bool) -> None:
    from tollgate.output import print_json, print_table, say

    if as_json:
        print_json(report)
        return
    speed = f" in {report['seconds']} s" if report["published"] else ", nothing published"
    say(f"{report['records']:,} records{speed}; seed {report['seed']}")
    rows = [("unique events", report["unique"]), ("duplicates", report["duplicates"])]
    rows.append(("  of them with another time", report["changed_timestamps"]))
    rows += [(f"poison: {reason}", count) for reason, count in report["poison"].items()]
    rows.append(("input tokens", report["input_tokens"]))
    rows.append(("output tokens", report["output_tokens"]))
    print_table(["what must come of it", "count"], rows)
