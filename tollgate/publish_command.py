"""`tollgate publish`: usage events out of a file."""

from typing import TYPE_CHECKING, Annotated

import typer

if TYPE_CHECKING:
    from tollgate.publication import Report

File = Annotated[
    str, typer.Argument(metavar="FILE|-", help="JSON lines, CSV or a trace; -: stdin.")
]
Wanted = Annotated[
    str,
    typer.Option(
        "--format",
        metavar="provider-usage",
        help="JSON lines of what providers answered; otherwise the format is recognised.",
    ),
]
MapHost = Annotated[
    list[str] | None,
    typer.Option("--map-host", metavar="HOST=PROVIDER", help="Who answers at a host. Repeatable."),
]
Map = Annotated[
    list[str] | None,
    typer.Option("--map", metavar="FIELD=COLUMN", help="Our field is that column. Repeatable."),
]
Shift = Annotated[
    str,
    typer.Option(
        "--shift-to-now",
        metavar="last|first",
        help="Move all times so that the last event is now; or the first, sent at their own pace.",
    ),
]
Accounts = Annotated[
    int | None,
    typer.Option(min=1, max=1_000_000, help="Attribute rows without an account to that many."),
]
Models = Annotated[
    int | None, typer.Option(min=1, max=20, help="Attribute rows without a model to that many.")
]
Model = Annotated[str, typer.Option(metavar="PROVIDER/NAME", help="One model for every row.")]
MapModel = Annotated[
    list[str] | None,
    typer.Option("--map-model", metavar="NAME=PROVIDER/NAME", help="Rename a model. Repeatable."),
]
Seed = Annotated[int, typer.Option(min=0, help="Decides the attribution.")]
Name = Annotated[
    str, typer.Option(help="Instead of the file's name in the events' ids; needed for a rename.")
]
Rate = Annotated[float, typer.Option(min=0, help="Events a second; 0: as fast as possible.")]
DryRun = Annotated[bool, typer.Option("--dry-run", help="Read and check, publish nothing.")]
AsJson = Annotated[bool, typer.Option("--json", help="Report as JSON.")]


def register(app: typer.Typer) -> None:
    """Adds `publish`."""
    example = "Example: tollgate publish trace.csv --shift-to-now last --model openai/gpt-4o"
    app.command("publish", epilog=example)(publish)


def publish(
    file: File,
    wanted: Wanted = "",
    mapped: Map = None,
    shift_to_now: Shift = "",
    accounts: Accounts = None,
    models: Models = None,
    model: Model = "",
    map_model: MapModel = None,
    map_host: MapHost = None,
    seed: Seed = 0,
    name: Name = "",
    rate: Rate = 0.0,
    dry_run: DryRun = False,
    as_json: AsJson = False,
) -> None:
    """Publish the usage in a file: each row once, however often the command runs.

    JSON lines are CloudEvents or flat objects with our field names; a CSV needs these names in
    its header, or --map; the Azure LLM inference trace and ServeGen samples are recognised. With
    --format provider-usage the lines are recorded calls: host, request_model and the response or
    its usage, and each is published as what the provider bills for it. An event's id comes from
    the file's name and the row, unless the row has one.
    """
    from producers.trace_events import Attribution
    from producers.trace_rows import Format, UnreadableError, parse_mapping
    from tollgate.publication import Publication

    if shift_to_now not in {"", "last", "first"}:
        raise typer.BadParameter("--shift-to-now takes last or first")
    if wanted not in {"", "provider-usage"}:
        raise typer.BadParameter("--format takes provider-usage")
    if shift_to_now == "first" and rate:
        raise typer.BadParameter("--shift-to-now first has its own pace: leave --rate out")
    try:
        mapping = parse_mapping(mapped or [])
    except UnreadableError as error:
        raise typer.BadParameter(str(error)) from None
    attribution = Attribution(
        seed=seed,
        accounts=accounts or 0,
        models=models or 0,
        model=model,
        renamed=_pairs("--map-model", map_model or []),
        hosts=_pairs("--map-host", map_host or []),
    )
    publication = Publication(
        file=file,
        name=name,
        mapping=mapping,
        attribution=attribution,
        shift=shift_to_now,
        rate=rate,
        wanted=Format.PROVIDER_USAGE if wanted else None,
    )
    report = publication.run(dry_run=dry_run)
    _print(report, as_json=as_json)
    if report.refused:
        raise typer.Exit(1)


def _pairs(option: str, texts: list[str]) -> dict[str, str]:
    pairs = dict(text.partition("=")[::2] for text in texts)
    if not all(pairs.values()):
        right = "HOST=PROVIDER" if option == "--map-host" else "NAME=PROVIDER/NAME"
        raise typer.BadParameter(f"{option} takes {right}")
    return pairs


def _print(report: "Report", *, as_json: bool) -> None:
    from dataclasses import asdict

    from tollgate.output import print_json, print_table, remark, say

    if as_json:
        print_json(asdict(report))
        return
    done = f"in {report.seconds} s" if report.published else "nothing published"
    say(f"{report.file} ({report.format}): {report.events:,} events, {done}")
    rows: list[tuple[str, object]] = [
        ("rows refused", report.refused),
        ("accounts", report.accounts),
        ("input tokens", report.input_tokens),
        ("output tokens", report.output_tokens),
        ("first event", report.first_time),
        ("last event", report.last_time),
    ]
    print_table(["what is in it", ""], rows)
    for problem in report.problems:
        remark(f"row {problem.number}: {problem.problem}")
    if report.refused > len(report.problems):
        remark(f"and {report.refused - len(report.problems):,} more rows")
