"""`tollgate audit-log`: who changed what."""

import asyncio
import json
from typing import Annotated, Any

import typer


def register(app: typer.Typer) -> None:
    """Adds `audit-log`."""
    example = "Example: tollgate audit-log --subject acme --action adjust"
    app.command("audit-log", epilog=example)(audit_log)


def audit_log(
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
