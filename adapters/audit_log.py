"""The audit log: who changed what, when, from what to what, and why. Append-only."""

import json
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from adapters.postgres import Connection
from adapters.queries import load

SQL = load("audit_log")


@dataclass(frozen=True, slots=True)
class Act:
    """An action of an admin; `before` and `after` hold only what it can change, and no secret."""

    actor: str
    action: str
    subject: str
    before: Mapping[str, Any] | None = None
    after: Mapping[str, Any] | None = None
    reason: str = ""
    request_id: str = ""


async def note(connection: Connection, act: Act) -> int:
    """Writes the act down, in the transaction that does it; returns its number."""
    audit_id: int = await connection.fetchval(
        SQL.note,
        act.actor,
        act.action,
        act.subject,
        _json(act.before),
        _json(act.after),
        act.reason,
        act.request_id,
    )
    return audit_id


async def list_acts(
    connection: Connection,
    *,
    subject: str | None = None,
    actor: str | None = None,
    action: str | None = None,
    below_id: int | None = None,
    acts_max: int = 50,
) -> list[dict[str, Any]]:
    """The newest acts first; `below_id` is the last one of the page before."""
    rows = await connection.fetch(SQL.list_audit, subject, actor, action, below_id, acts_max)
    return [
        {**dict(row), "before": _read(row["before"]), "after": _read(row["after"])} for row in rows
    ]


def _json(values: Mapping[str, Any] | None) -> str | None:
    return None if values is None else json.dumps(values, sort_keys=True, default=str)


def _read(text: str | None) -> Any:
    return None if text is None else json.loads(text)
