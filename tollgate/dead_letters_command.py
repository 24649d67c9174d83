"""`tollgate dead-letters list | show | requeue`: what could not be charged, and its way back."""

import asyncio
from collections.abc import Callable, Coroutine
from typing import TYPE_CHECKING, Annotated, Any, TypeVar

import typer

from schemas.reasons import Reason

if TYPE_CHECKING:
    from adapters.dead_letters import Selection, Waiting
    from adapters.postgres import Connection
    from adapters.settings import Settings

Result = TypeVar("Result")

TIMES = "a UTC time, or how long ago: 2h, 7d."
Reasons = Annotated[
    list[Reason] | None, typer.Option("--reason", help="Only these reasons; may be repeated.")
]
Account = Annotated[str | None, typer.Option(help="Only of this account.")]
Since = Annotated[str | None, typer.Option(help=f"Not before this: {TIMES}")]
Until = Annotated[str | None, typer.Option(help=f"Before this: {TIMES}")]
Model = Annotated[
    list[str] | None,
    typer.Option("--model", help="Only of these, as provider/model or action; may be repeated."),
]
Json = Annotated[bool, typer.Option("--json", help="Report as JSON.")]


def register(app: typer.Typer) -> None:
    """Adds `dead-letters list`, `show` and `requeue`."""
    group = typer.Typer(
        help="Records that could not be charged: look at them, send them again.",
        no_args_is_help=True,
        epilog="Example: tollgate dead-letters list --reason unpriced --since 2h",
    )
    group.command("list", epilog="Example: tollgate dead-letters list --since 2h")(list_)
    group.command("show", epilog="Example: tollgate dead-letters show 17")(show)
    group.command(
        "requeue", epilog="Example: tollgate dead-letters requeue --reason unpriced --dry-run"
    )(requeue)
    app.add_typer(group, name="dead-letters")


def list_(
    reason: Reasons = None,
    account: Account = None,
    model: Model = None,
    since: Since = None,
    until: Until = None,
    waiting: Annotated[
        bool, typer.Option("--waiting", help="Only those that were never sent again.")
    ] = False,
    below: Annotated[
        int | None, typer.Option(help="Only ids below this one: the next page.")
    ] = None,
    limit: Annotated[int, typer.Option(min=1, max=10_000, help="At most so many.")] = 20,
    as_json: Json = False,
) -> None:
    """List dead letters, newest first, after a count of all of them by reason."""
    from adapters.dead_letters import list_letters, summary

    selection = _selection(None, reason, account, model, (since, until))

    async def read(connection: "Connection", _: "Settings") -> tuple[list[Any], list[Any]]:
        letters = await list_letters(
            connection, selection, only_waiting=waiting, below_id=below, letters_max=limit
        )
        return await summary(connection), letters

    counts, letters = _with_postgres(read)
    if as_json:
        from tollgate.output import print_json

        print_json({"by_reason": counts, "letters": letters})
    else:
        _print_list(counts, letters)


def show(
    letter: Annotated[int, typer.Argument(metavar="ID", help="The id that `list` shows.")],
    as_json: Json = False,
) -> None:
    """Show one dead letter with the bytes of the record, as text where they are text."""
    from adapters.dead_letters import read_letter
    from tollgate.output import print_json, say

    async def read(connection: "Connection", _: "Settings") -> dict[str, Any]:
        return await read_letter(connection, letter)

    found = _with_postgres(read)
    shown = {**found, "meaning": Reason(found["reason"]).meaning}
    for field in ("key", "payload"):
        raw = found[field]
        shown[field] = None if raw is None else raw.decode("utf-8", errors="backslashreplace")
    if as_json:
        print_json(shown)
        return
    for name, value in shown.items():
        say(f"{name:<15} {'-' if value is None else value}")


def requeue(
    ids: Annotated[
        list[int] | None, typer.Argument(metavar="[ID]...", help="Only these; else all selected.")
    ] = None,
    reason: Reasons = None,
    account: Account = None,
    model: Model = None,
    since: Since = None,
    until: Until = None,
    event_since: Annotated[
        str | None, typer.Option(help=f"Only events of this time or later: {TIMES}")
    ] = None,
    event_until: Annotated[
        str | None, typer.Option(help=f"Only events from before this: {TIMES}")
    ] = None,
    everything: Annotated[
        bool, typer.Option("--all", help="All dead letters, when nothing else selects.")
    ] = False,
    dry_run: Annotated[bool, typer.Option(help="Say what would be sent, send nothing.")] = False,
    as_json: Json = False,
) -> None:
    """Send dead letters to usage.events again, with their own key and bytes.

    So each keeps its id and its time, by which it is priced. Each is sent once, however often this
    runs; an event that was charged meanwhile is a duplicate and charged no second time. Letters
    whose bytes were cut at 64 KiB are named and left.
    """
    selection = _selection(ids, reason, account, model, (since, until), (event_since, event_until))
    if selection.empty and not everything:
        raise typer.BadParameter("select by id, reason, account, model or time, or say --all")

    async def run(connection: "Connection", settings: "Settings") -> tuple[list[Any], int]:
        from adapters.dead_letters import count_waiting

        found = await count_waiting(connection, selection)
        sendable = sum(each.sendable for each in found)
        if dry_run or sendable == 0:
            return found, 0
        return found, await _send(connection, settings, selection, sendable)

    found, sent = _with_postgres(run)
    _report_requeue(found, sent, dry_run=dry_run, as_json=as_json)
    _refuse_unknown(ids, found)


async def _send(
    connection: "Connection", settings: "Settings", selection: "Selection", sendable: int
) -> int:
    from adapters.dead_letters import requeue as send_again
    from adapters.publishing import open_producer
    from tollgate.output import progress

    sent = 0
    async with open_producer(settings, "requeue") as producer:
        with progress("sent again", sendable) as steps:
            async for letters in send_again(connection, producer, settings, selection):
                sent += letters
                steps.advance(letters)
    return sent


def _report_requeue(found: "list[Waiting]", sent: int, *, dry_run: bool, as_json: bool) -> None:
    from tollgate.output import print_json, print_table, say

    if as_json:
        rows = [
            {
                "reason": each.reason,
                "sendable": each.sendable,
                "requeued_before": each.requeued,
                "truncated": each.truncated,
            }
            for each in found
        ]
        print_json({"dry_run": dry_run, "sent": sent, "by_reason": rows})
        return
    print_table(
        ("reason", "to send", "sent before", "cut, not sendable"),
        [(each.reason, each.sendable, each.requeued, each.truncated) for each in found],
    )
    sendable = sum(each.sendable for each in found)
    say(f"would send {sendable:,}" if dry_run else f"sent {sent:,}")


def _refuse_unknown(ids: list[int] | None, found: "list[Waiting]") -> None:
    from adapters.failures import Failure

    if ids is None:
        return
    missing = len(set(ids)) - sum(each.waiting + each.requeued for each in found)
    cut = sum(each.truncated for each in found)
    if missing:
        raise Failure(f"{missing} of the ids are no dead letters: see `tollgate dead-letters list`")
    if cut:
        raise Failure(
            f"{cut} of the letters hold only the first 64 KiB of their record: publish the "
            "original again from its source"
        )


def _selection(
    ids: list[int] | None,
    reasons: list[Reason] | None,
    account: str | None,
    models: list[str] | None,
    dead: tuple[str | None, str | None],
    event: tuple[str | None, str | None] = (None, None),
) -> "Selection":
    from adapters.dead_letters import Selection
    from tollgate.arguments import parse_time

    since, until, event_since, event_until = (
        None if text is None else parse_time(text) for text in dead + event
    )
    return Selection(
        ids=ids or None,
        reasons=reasons or None,
        account_id=account,
        since=since,
        until=until,
        models=models or None,
        event_since=event_since,
        event_until=event_until,
    )


def _with_postgres(work: "Callable[[Connection, Settings], Coroutine[Any, Any, Result]]") -> Result:
    from adapters.reach import postgres
    from adapters.settings import load_settings

    settings = load_settings()

    async def run() -> Result:
        async with postgres(settings, "dead-letters", unlimited=True) as connection:
            return await work(connection, settings)

    return asyncio.run(run())


def _print_list(counts: list[dict[str, Any]], letters: list[dict[str, Any]]) -> None:
    from tollgate.output import print_table

    print_table(
        ("reason", "letters", "sent again", "unpublished", "newest (UTC)", "example"),
        [
            (
                row["reason"],
                row["letters"],
                row["requeued"],
                row["unpublished"],
                row["newest_at"],
                str(row["newest_id"]),
            )
            for row in counts
        ],
        title="All dead letters, by reason",
    )
    print_table(
        ("id", "dead (UTC)", "reason", "account", "event", "model", "origin", "again", "detail"),
        [
            (
                str(row["dead_letter_id"]),
                row["dead_at"],
                row["reason"],
                row["account_id"],
                row["event_id"],
                row["model"],
                f"{row['topic']}/{row['partition']}@{row['offset']}",
                row["requeued_at"] is not None,
                row["detail"],
            )
            for row in letters
        ],
        title="Newest",
    )
