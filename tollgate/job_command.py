"""`tollgate job`: asks for one run of a job, or does it here; `tollgate jobs`: what runs did."""

import asyncio
from typing import TYPE_CHECKING, Annotated, Any

import typer

from schemas.job_names import JobName

if TYPE_CHECKING:
    from adapters.jobs import Ended, Figures
    from adapters.settings import Settings
    from schemas.jobs import Job

# PostgreSQL keeps figures in no order of ours: what was looked at, what came of it, amounts.
_ORDER = (
    "enrolled", "accounts", "examined", "grants", "refreshed", "reconciled", "failed", "refused",
    "waiting", "unpriced", "replaced", "checks", "compared", "findings", "over", "keys", "runs",
    "amount_micro", "replaced_micro", "charged_micro", "freed_micro", "returned_micro",
    "reserved_micro", "expired_micro",
)  # fmt: skip


def register(app: typer.Typer) -> None:
    """Adds `job` and `jobs`."""
    app.command("job", epilog="Example: tollgate job refresh --dry-run")(job)
    app.command("jobs", epilog="Example: tollgate jobs --job reconcile --limit 5")(jobs)


def job(
    name: Annotated[JobName, typer.Argument(help="Which job.", show_default=False)],
    dry_run: Annotated[
        bool, typer.Option("--dry-run", help="Report what it would do, here; change nothing.")
    ] = False,
    now: Annotated[
        bool, typer.Option("--now", help="Do it here and report; else a scheduler is asked.")
    ] = False,
    key: Annotated[
        str | None,
        typer.Option(help="Of the run: the same key is done once.", show_default="a new one"),
    ] = None,
    as_json: Annotated[bool, typer.Option("--json", help="Report as JSON.")] = False,
) -> None:
    """Ask the schedulers for one run of a job, or do it here with --now.

    A run is done once for its key. `tollgate jobs` shows what became of it.
    """
    from adapters.logs import configure_logs
    from adapters.settings import load_settings
    from tollgate.output import print_json, say

    settings = load_settings()
    asked = _job(name, key, dry_run=dry_run)
    if not (now or dry_run):
        from adapters.job_stream import ask

        asyncio.run(ask(settings, asked))
        if as_json:
            print_json({"job": name, "key": asked.id, "state": "asked"})
        else:
            say(f"{name} is asked for as {asked.id}")
        return
    configure_logs(settings.model_copy(update={"log_level": "error"}), stage="job")
    ended = asyncio.run(_do(settings, asked))
    _report(asked, ended, as_json=as_json)


def _job(name: JobName, key: str | None, *, dry_run: bool) -> "Job":
    from datetime import UTC, datetime

    from pydantic import ValidationError

    from schemas.jobs import new_job
    from tollgate.arguments import actor

    moment = datetime.now(UTC)
    own = f"{name}:hand:{moment:%Y-%m-%dT%H:%M:%S.%f}Z"
    try:
        return new_job(name, key or own, actor(), moment, dry_run=dry_run)
    except ValidationError as error:
        raise typer.BadParameter(f"--key: {error.errors()[0]['msg']}") from None


async def _do(settings: "Settings", asked: "Job") -> "Ended | None":
    from adapters.failures import Failure
    from adapters.jobs import Busy, patient
    from adapters.reach import postgres
    from consumers.jobs import Workshop
    from tollgate.output import progress

    with progress(asked.data.job) as steps:

        def note(figures: "Figures") -> None:
            if figures:  # none: an audit that is at work
                steps.advance(figures.get("accounts", figures.get("examined", 1)))

        try:
            async with postgres(patient(settings), "job") as connection:
                return await Workshop(settings).run(connection, asked, note)
        except Busy:
            raise Failure(f"a scheduler is at work on {asked.id}") from None


def _report(asked: "Job", ended: "Ended | None", *, as_json: bool) -> None:
    from adapters.failures import Failure
    from tollgate.output import print_json, say

    if ended is not None and ended.error:
        raise Failure(f"{asked.data.job} failed: {ended.error}")
    state = "done before" if ended is None else "done"
    if as_json:
        figures = {} if ended is None else ended.figures
        seconds = None if ended is None else round(ended.duration_seconds, 3)
        document = {"job": asked.data.job, "key": asked.id, "dry_run": asked.data.dry_run}
        print_json({**document, "state": state, "duration_seconds": seconds, "figures": figures})
        return
    if ended is None:
        say(f"{asked.id} was done before: nothing is done again")
        return
    what = "would do" if asked.data.dry_run else "did"
    say(f"{asked.data.job} {what} in {ended.duration_seconds:.3f} s: {figures_text(ended.figures)}")


def figures_text(figures: "Figures") -> str:
    """The figures on one line, amounts in credits."""
    from tollgate.output import credits_text

    known = {name: place for place, name in enumerate(_ORDER)}
    shown = [
        f"{name.removesuffix('_micro').replace('_', ' ')} "
        f"{credits_text(amount) if name.endswith('_micro') else f'{amount:,}'}"
        for name, amount in sorted(
            figures.items(), key=lambda figure: (known.get(figure[0], len(known)), figure[0])
        )
    ]
    return ", ".join(shown) or "nothing"


def jobs(
    job: Annotated[JobName | None, typer.Option(help="Only this job.")] = None,
    limit: Annotated[int, typer.Option(min=1, max=1_000, help="How many.")] = 20,
    as_json: Annotated[bool, typer.Option("--json", help="Report as JSON.")] = False,
) -> None:
    """List the newest runs of jobs: who asked, what they did, how long they took."""
    from adapters.jobs import list_runs
    from adapters.reach import postgres
    from adapters.settings import load_settings
    from tollgate.output import print_json, print_table

    async def read() -> list[dict[str, Any]]:
        async with postgres(load_settings(), "jobs") as connection:
            return await list_runs(connection, job, limit)

    rows = asyncio.run(read())
    if as_json:
        print_json(rows)
        return
    print_table(
        ("key", "asked by", "state", "started", "seconds", "figures"),
        (
            (
                row["job_key"],
                row["requested_by"],
                f"{row['state']}{' (dry run)' if row['dry_run'] else ''}",
                row["started_at"],
                f"{row['duration_seconds']:.3f}",
                row["error"] or figures_text(row["figures"]),
            )
            for row in rows
        ),
    )
