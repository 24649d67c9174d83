"""What `tollgate rerate` prints: the report of a run, per account, model and day, and the runs."""

import asyncio
from collections.abc import Iterator
from itertools import chain
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from adapters.rerate_runs import Group, Run
    from adapters.settings import Settings


def print_report(settings: "Settings", run: "Run", limit: int, *, as_json: bool) -> None:
    """Prints a run and its groups: all of them as JSON, the `limit` largest differences as a table.

    Raises Failure when ClickHouse, which has a what-if's lines, does not answer.
    """
    from tollgate.output import print_json_rows

    if as_json:
        groups = _groups(settings, run, None)
        first = [group for group in [next(groups, None)] if group]  # before anything is printed
        rows = (group._asdict() for group in chain(first, groups))
        print_json_rows({"run": _document(run)}, "groups", rows)
        return
    _print_groups(run, list(_groups(settings, run, limit + 1)), limit)
    _print_sum(run)


def _groups(settings: "Settings", run: "Run", groups_max: int | None) -> "Iterator[Group]":
    from adapters.rerate_lines import Lines, open_client
    from adapters.rerate_runs import RunKind

    if run.kind is RunKind.WHAT_IF:
        with open_client(settings) as client:
            yield from Lines(client, run.run_id, run.started_at).groups(groups_max)
    else:
        yield from asyncio.run(_booked(settings, run.run_id, groups_max))


async def _booked(settings: "Settings", run_id: int, groups_max: int | None) -> "list[Group]":
    from adapters.reach import postgres
    from adapters.rerate_runs import booked_groups

    async with postgres(settings, "rerate", unlimited=True) as connection:
        return await booked_groups(connection, run_id, groups_max)


def _document(run: "Run") -> dict[str, Any]:
    tally = run.tally
    return {
        "run_id": run.run_id,
        "kind": run.kind.value,
        "source": run.source.value,
        "from": run.since,
        "to": run.until,
        "account_ids": run.account_ids,
        "book": run.book.name,
        "price_version": run.book.price_version,
        "newest_version": run.book.newest_version,
        "reverts": run.reverts,
        "reverted_by": run.reverted_by,
        "actor": run.actor,
        "reason": run.reason,
        "started_at": run.started_at,
        "finished_at": run.finished_at,
        **{name: getattr(tally, name) for name in type(tally).__slots__},
        "difference_micro": tally.difference_micro,
    }


def _print_groups(run: "Run", groups: "list[Group]", limit: int) -> None:
    from tollgate.output import credits_text, print_table, say

    say(_title(run))
    rows = [
        (
            group.account_id,
            group.priced_as,
            str(group.day),
            group.events,
            group.changed,
            credits_text(group.old_micro),
            credits_text(group.new_micro),
            credits_text(group.difference_micro),
        )
        for group in groups[:limit]
        if group.changed
    ]
    if not rows:
        return
    print_table(
        ("account", "model or action", "day", "events", "changed", "old", "new", "difference"),
        rows,
    )
    if len(groups) > limit and groups[limit].changed:
        say(f"The {limit} largest differences; --limit shows more, --json all.")


def _title(run: "Run") -> str:
    from tollgate.output import time_text

    stretch = f"{time_text(run.since)} to {time_text(run.until)}"
    if run.reverts is not None:
        return f"Run {run.run_id} takes back run {run.reverts}: {stretch}"
    how = "applied" if run.kind.value == "apply" else f"what-if from the {run.source}"
    return f"Run {run.run_id}, {how}: {stretch}, prices: {run.book.name}"


def _print_sum(run: "Run") -> None:
    from tollgate.output import credits_text, say

    tally = run.tally
    parts = [f"{tally.events:,} events, {tally.changed:,} changed"]
    named = (
        (tally.unpriced, "without a price in this book (they stay as they are)"),
        (tally.voided, "voided"),
        (tally.uncharged, "not charged yet"),
        (tally.superseded, "corrected again since (they keep that)"),
    )
    parts += [f"{count:,} {what}" for count, what in named if count]
    say(f"{', '.join(parts)}.")
    say(
        f"Charged {credits_text(tally.old_micro)} credits, now {credits_text(tally.new_micro)}:"
        f" difference {credits_text(tally.difference_micro)}."
    )
    say(_state(run))
    for partition in run.extent.get("gone", ()):
        say(
            f"Partition {partition} no longer holds its oldest records: events of the stretch may"
            " be missing here, the ledger has them."
        )


def _state(run: "Run") -> str:
    from adapters.rerate_runs import RunKind

    if run.finished_at is None:
        on = f"Not finished: `tollgate rerate resume {run.run_id}` goes on"
        if run.kind is not RunKind.APPLY:
            return f"{on}."
        return f"{on}, `tollgate rerate revert {run.run_id}` takes back what it booked."
    if run.kind is RunKind.WHAT_IF:
        return "No balance was touched; --apply --reason books the differences."
    if run.reverted_by is not None:
        return f"Booked, and taken back by run {run.reverted_by}."
    if run.kind is RunKind.REVERT:
        return f"Booked: run {run.reverts} is taken back."
    return f"Booked as corrections; `tollgate rerate revert {run.run_id}` takes them back."


def print_runs(runs: list[dict[str, Any]], *, as_json: bool) -> None:
    """Prints the runs, newest first."""
    from tollgate.output import credits_text, print_json, print_table

    if as_json:
        print_json(runs)
        return
    print_table(
        (
            "run",
            "kind",
            "from (UTC)",
            "to (UTC)",
            "prices",
            "events",
            "changed",
            "difference",
            "state",
        ),
        [
            (
                run["run_id"],
                run["kind"],
                run["occurred_from"],
                run["occurred_to"],
                run["book"],
                run["events"],
                run["changed"],
                credits_text(run["new_micro"] - run["old_micro"]),
                _word(run),
            )
            for run in runs
        ],
    )


def _word(run: dict[str, Any]) -> str:
    if run["finished_at"] is None:
        return "not finished"
    if run["reverted_by"] is not None:
        return f"taken back by {run['reverted_by']}"
    return "done" if run["reverts"] is None else f"took back {run['reverts']}"
