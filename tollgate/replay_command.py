"""`tollgate replay`: a stretch of the topic once more into the raters; nothing is charged twice."""

import asyncio
import time
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from schemas.topics import USAGE_EVENTS

if TYPE_CHECKING:
    from adapters.replay import Replay, Request, Source
    from adapters.replay_log import Bounds
    from adapters.replay_proof import Outcome
    from adapters.replay_state import State

TIMES = "a UTC time, or how long ago: 2h, 7d."


def register(app: typer.Typer) -> None:
    """Adds the command."""
    app.command("replay", epilog="Example: tollgate replay --from 7d --dry-run")(replay)


def replay(
    topic: Annotated[
        str, typer.Option(help="usage.events, or usage.dead for the bytes in dead letters.")
    ] = USAGE_EVENTS.name,
    partition: Annotated[
        list[int] | None, typer.Option("--partition", min=0, help="Only these; may be repeated.")
    ] = None,
    from_offset: Annotated[
        int | None, typer.Option(min=0, help="From this offset on; needs one --partition.")
    ] = None,
    to_offset: Annotated[
        int | None, typer.Option(min=0, help="Up to before this offset; needs one --partition.")
    ] = None,
    since: Annotated[
        str | None, typer.Option("--from", help=f"Appended to Kafka not before this: {TIMES}")
    ] = None,
    until: Annotated[
        str | None, typer.Option("--to", help=f"Appended to Kafka before this: {TIMES}")
    ] = None,
    everything: Annotated[
        bool, typer.Option("--everything", help="Send what was charged already, too.")
    ] = False,
    rate: Annotated[
        int | None, typer.Option(min=1, help="At most so many records a second.")
    ] = None,
    state: Annotated[
        Path | None,
        typer.Option(help="Keep in this file how far it is; the same command goes on from there."),
    ] = None,
    wait: Annotated[
        bool, typer.Option("--wait", help="Wait for the raters and say what became of it.")
    ] = False,
    dry_run: Annotated[bool, typer.Option(help="Say what would be sent, send nothing.")] = False,
    as_json: Annotated[bool, typer.Option("--json", help="Report as JSON.")] = False,
) -> None:
    """Send records of a topic to the raters again: by default what the ledger does not have.

    Reads up to where the topic ends now. Each record keeps its key, bytes and headers, and the
    raters charge an event once, at the price of its own time: a replay never charges twice.
    """
    by_offset = from_offset is not None or to_offset is not None
    if by_offset and (len(partition or ()) != 1 or since is not None or until is not None):
        raise typer.BadParameter("offsets need exactly one --partition, and no times")
    if dry_run and (state is not None or wait):
        raise typer.BadParameter("--dry-run sends nothing: it needs no --state and no --wait")
    from adapters.replay import Request

    request = Request(
        source=_source(topic),
        bounds=_bounds(partition, (from_offset, to_offset), (since, until)),
        everything=everything,
        dry_run=dry_run,
        wait=wait,
        rate_per_second=rate,
        state_path=state,
        asked={
            "--topic": topic,
            "--partition": ",".join(map(str, sorted(partition or ()))),
            "--from-offset": "" if from_offset is None else str(from_offset),
            "--to-offset": "" if to_offset is None else str(to_offset),
            "--from": since or "",
            "--to": until or "",
            "--everything": str(everything),
            "--wait": str(wait),
        },
    )
    _run(request, as_json=as_json)


def _source(topic: str) -> "Source":
    from adapters.replay import Source

    try:
        return Source(topic)
    except ValueError:
        raise typer.BadParameter(f"--topic is one of {', '.join(Source)}") from None


def _bounds(
    partitions: list[int] | None,
    from_to_offset: tuple[int | None, int | None],
    from_to_time: tuple[str | None, str | None],
) -> "Bounds":
    from adapters.replay_log import Bounds
    from tollgate.arguments import parse_time

    since, until = (None if text is None else parse_time(text) for text in from_to_time)
    return Bounds(partitions or None, *from_to_offset, since=since, until=until)


def _run(request: "Request", *, as_json: bool) -> None:
    from adapters.logs import configure_logs
    from adapters.reach import postgres
    from adapters.replay import open_replay
    from adapters.settings import load_settings

    settings = load_settings()
    configure_logs(settings, stage="replay")

    async def work() -> tuple["Replay", "Outcome | None", float]:
        async with (
            postgres(settings, "replay", unlimited=True) as connection,
            open_replay(settings, connection, request) as (replaying, consumer),
        ):
            try:
                seconds = await _drive(replaying, consumer)
            except BaseException:
                _tell_where(request, replaying.state)
                raise
            return replaying, await replaying.outcome(), seconds

    replaying, outcome, seconds = asyncio.run(work())
    if as_json:
        from tollgate.output import print_json

        print_json(_document(request, replaying.state, outcome, seconds))
    else:
        _print(request, replaying.state, seconds)
        _print_outcome(outcome)


async def _drive(replaying: "Replay", consumer: Any) -> float:
    """Everything in order, with a bar for each long part; returns the seconds of the sending."""
    from tollgate.output import progress

    left: int | None = None
    with progress("waiting for the raters") as steps:
        async for now in replaying.catch_up():
            steps.advance((left or now) - now)
            left = now
    began = time.monotonic()
    with progress("replayed", replaying.state.left) as steps:
        async for done in replaying.run(consumer):
            steps.advance(done)
    seconds = time.monotonic() - began
    left = None
    with progress("waiting for the raters") as steps:
        async for now in replaying.finish():
            steps.advance((left or now) - now)
            left = now
    return seconds


def _tell_where(request: "Request", state: "State") -> None:
    from tollgate.output import remark

    if request.dry_run:
        return
    where = f"the next offset of each partition is {state.stands_at()}"
    on = "from the beginning" if request.state_path is None else "from there"
    remark(f"stopped after sending {state.tally.sent:,}: {where}. The same command goes on {on}")


def _document(
    request: "Request", state: "State", outcome: "Outcome | None", seconds: float
) -> dict[str, Any]:
    tally = state.tally
    document: dict[str, Any] = {
        "topic": request.source.value,
        "dry_run": request.dry_run,
        "resumed": state.resumed,
        "stretches": [asdict(stretch) for stretch in state.stretches],
        **{name: count for name, count in asdict(tally).items() if name != "missing"},
        "missing": {
            partition: {"offsets": count, "first": first, "last": last}
            for partition, (count, first, last) in tally.missing.items()
        },
        "seconds": round(seconds, 3),
        "outcome": None,
    }
    if outcome is not None:
        document["outcome"] = {
            **asdict(outcome),
            "balances_identical": outcome.balances_identical,
        }
    return document


def _print(request: "Request", state: "State", seconds: float) -> None:
    from core.replaying import Standing
    from tollgate.output import print_table, say

    tally = state.tally
    print_table(
        ("records", "standing", "meaning"),
        [
            (tally.standings[standing.value], standing.value, standing.meaning)
            for standing in Standing
            if standing.value in tally.standings
        ],
        title=f"{tally.read:,} records of {request.source.value}",
    )
    if tally.unreadable:
        said = ", ".join(f"{reason} {count:,}" for reason, count in tally.unreadable.items())
        say(f"not readable: {said}")
    for partition, (count, first, last) in sorted(tally.missing.items()):
        say(
            f"partition {partition}: {count:,} offsets between {first} and {last} hold no record "
            "(deleted by retention, compacted away, or markers of transactions)"
        )
    if tally.held_back:
        say(
            f"{tally.held_back:,} were held back: appended now they would be too old. Raise "
            "TOLLGATE_EVENT_AGE_DAYS_MAX, here and for the raters, to send them"
        )
    if tally.repeated:
        say(f"{tally.repeated:,} were further copies of events that were sent")
    verb, count = ("would send", tally.to_send) if request.dry_run else ("sent", tally.sent)
    read_per_second = f"{tally.read / seconds:,.0f} records/s" if seconds else "nothing to read"
    say(f"{verb} {count:,} to {USAGE_EVENTS.name} in {seconds:,.1f} s ({read_per_second} read)")


def _print_outcome(outcome: "Outcome | None") -> None:
    from tollgate.output import say

    if outcome is None:
        return
    charges = "zero" if not outcome.charged else f"{outcome.charged:,}"
    say(
        f"{charges} new charges came of it; {outcome.duplicate:,} duplicates, "
        f"{outcome.dead:,} dead letters"
    )
    if outcome.others:
        say(
            f"{outcome.others:,} other records were applied meanwhile, with "
            f"{outcome.charged_in_all - outcome.charged:,} charges: balances may have moved by them"
        )
    accounts = f"{outcome.after.accounts:,} accounts and {outcome.after.grants:,} grants"
    if outcome.balances_identical:
        say(f"balances of {accounts} are the same to the byte, SHA-256 {outcome.after.sha256}")
    elif outcome.charged or outcome.others:
        say(f"balances of {accounts} moved")
    else:
        say(
            f"balances of {accounts} moved, though nothing was charged: grants, holds or "
            "corrections were booked meanwhile"
        )
