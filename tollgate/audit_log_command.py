"""`tollgate audit-log`: who changed what, and whether the log itself was changed."""

import asyncio
import json
from typing import TYPE_CHECKING, Annotated, Any

import typer

if TYPE_CHECKING:
    from adapters.audit_chain import Anchor
    from core.audit import Result


def register(app: typer.Typer) -> None:
    """Adds `audit-log` and `audit-log verify`."""
    example = "Example: tollgate audit-log --subject acme --action adjust"
    group = typer.Typer(invoke_without_command=True, epilog=example)
    group.callback()(audit_log)
    group.command(
        "verify", epilog='Example: tollgate audit-log verify --anchor "$(cat last-anchor)"'
    )(verify)
    app.add_typer(group, name="audit-log")


def audit_log(
    context: typer.Context,
    subject: Annotated[
        str | None, typer.Option(help="What was changed: an account, a coupon, a key.")
    ] = None,
    by: Annotated[str | None, typer.Option("--actor", help="Who did it.")] = None,
    action: Annotated[str | None, typer.Option(help="For instance grant, adjust.")] = None,
    limit: Annotated[int, typer.Option(min=1, max=1_000, help="Acts of one page.")] = 50,
    before: Annotated[
        int | None, typer.Option(metavar="NUMBER", help="Older than the act of this number.")
    ] = None,
    as_json: Annotated[bool, typer.Option("--json", help="Report as JSON.")] = False,
) -> None:
    """Show what admins did, newest first: who, what, when, from what to what, and why."""
    if context.invoked_subcommand is not None:
        return
    from adapters.audit_log import list_acts
    from adapters.reach import postgres
    from adapters.settings import load_settings
    from tollgate.output import print_json, print_table, say

    async def read() -> list[dict[str, Any]]:
        async with postgres(load_settings(), "audit-log", unlimited=True) as connection:
            return await list_acts(
                connection,
                subject=subject,
                actor=by,
                action=action,
                below_id=before,
                acts_max=limit,
            )

    acts = asyncio.run(read())
    if as_json:
        print_json(acts)
        return
    if not acts:
        say("no acts")
        return
    print_table(
        ("no", "time (UTC)", "actor", "action", "subject", "change", "reason"),
        [_row(act) for act in acts],
    )
    if len(acts) == limit:
        say(f"older acts: --before {acts[-1]['audit_id']}")


def _row(act: dict[str, Any]) -> tuple[object, ...]:
    return (
        act["audit_id"],
        act["at"],
        act["actor"],
        act["action"],
        act["subject"],
        _change(act["before"] or {}, act["after"] or {}),
        act["reason"],
    )


def _change(before: dict[str, Any], after: dict[str, Any]) -> str:
    """Only what differs, as `name: from -> to`; what is new has no from."""
    parts = []
    for name in sorted(before.keys() | after.keys()):
        old, new = before.get(name), after.get(name)
        if old == new:
            continue
        parts.append(
            f"{name}: {json.dumps(old)} -> {json.dumps(new)}"
            if name in before
            else f"{name}: {json.dumps(new)}"
        )
    return ", ".join(parts)


def verify(
    anchors: Annotated[
        list[str] | None,
        typer.Option(
            "--anchor",
            metavar="NUMBER:HASH",
            help="What an earlier run printed: that act must be there as it was. May be repeated.",
        ),
    ] = None,
    as_json: Annotated[bool, typer.Option("--json", help="Report as JSON.")] = False,
) -> None:
    """Check that no row of the audit log was changed, taken out or put in; name those that were.

    Prints an anchor. Kept outside of the database, it shows later that the log was neither written
    anew nor cut off before it. Exit 1 on any finding.
    """
    from adapters.audit_chain import check_chain, parse_anchor
    from adapters.reach import postgres
    from adapters.settings import load_settings
    from tollgate.output import print_json

    held = [parse_anchor(text) for text in anchors or ()]

    async def check() -> "tuple[Result, Anchor]":
        async with postgres(load_settings(), "audit-log", unlimited=True) as connection:
            return await check_chain(connection, held)

    result, anchor = asyncio.run(check())
    if as_json:
        print_json(
            {
                "intact": not result.found,
                "acts": result.compared,
                "anchor": str(anchor),
                "findings": [
                    {"subject": each.subject, "expected": each.expected, "found": each.found}
                    for each in result.findings
                ],
            }
        )
    else:
        _print_chain(result, anchor)
    if result.found:
        raise typer.Exit(1)


def _print_chain(result: "Result", anchor: "Anchor") -> None:
    from tollgate.output import print_table, say

    if result.found:
        print_table(
            ("where", "expected", "found"),
            [(each.subject, each.expected, each.found) for each in result.findings],
        )
        say(f"NOT intact: {result.found:,} findings in {result.compared:,} acts")
        return
    say(f"intact: {result.compared:,} acts in one chain")
    say(f"anchor: {anchor}")
