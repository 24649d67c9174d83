"""Accounts as the API shows them. Reads only, and nothing is decided by what is read here."""

from dataclasses import dataclass
from datetime import datetime
from typing import Any

from adapters.history import Cursor, Page, page_of
from adapters.postgres import Connection
from adapters.proposals import count_pending
from adapters.queries import load

SQL = load("account_view")
GATE = load("gate")

Row = dict[str, Any]


@dataclass(frozen=True, slots=True)
class Profile:
    """An account at `as_of`. Available is what can be promised, without regard to the cap."""

    account_id: str
    tier: str
    demo: bool
    balance_micro: int
    overdraft_micro: int
    held_micro: int
    monthly_cap_micro: int | None
    created_at: datetime
    spent_micro: int
    over_micro: int
    open_holds: int
    as_of: datetime

    @property
    def available_micro(self) -> int:
        """The balance without what is reserved and what has expired."""
        return self.balance_micro - self.held_micro - self.over_micro


async def read_profile(connection: Connection, account_id: str) -> Profile | None:
    """The account as of now; None when there is no such account."""
    row = await connection.fetchrow(SQL.read_profile, account_id)
    return None if row is None else Profile(**row)


async def list_grants(
    connection: Connection, account_id: str, rows_max: int, after_id: int | None = None
) -> list[Row]:
    """What can still be drawn, in the order in which it is; `after_id` ended the page before."""
    rows = await connection.fetch(SQL.grants_page, account_id, after_id, rows_max)
    return [dict(row) for row in rows]


async def list_holds(
    connection: Connection,
    account_id: str,
    *,
    only_open: bool,
    rows_max: int,
    before: Cursor | None = None,
) -> Page:
    """The newest holds first, a page of them."""
    place = (None, None) if before is None else (before.at, before.place)
    rows = await connection.fetch(SQL.holds_page, account_id, only_open, *place, rows_max + 1)
    return page_of(rows, rows_max, "created_at", "hold_id")


async def list_open_holds(
    connection: Connection, rows_max: int, after: Cursor | None = None
) -> Page:
    """The open holds of all accounts, those first that nobody touched for longest."""
    place = (None, None) if after is None else (after.at, after.place)
    rows = await connection.fetch(SQL.open_holds_page, *place, rows_max + 1)
    return page_of(rows, rows_max, "touched_at", "hold_id")


async def read_hold(connection: Connection, account_id: str, hold_id: str) -> Row | None:
    """One hold of the account; None when it has none of that id."""
    row = await connection.fetchrow(GATE.read_hold, hold_id, account_id)
    return None if row is None else dict(row)


async def read_figures(connection: Connection) -> Row:
    """Figures over all accounts as of one moment, by tier and in all, and by status since then."""
    async with connection.transaction(isolation="repeatable_read", readonly=True):
        tiers = await connection.fetch(SQL.tier_figures)
        holds = await connection.fetchrow(SQL.hold_figures)
        coupons = await connection.fetchrow(SQL.coupon_figures)
        entries = await connection.fetchrow(SQL.status_figures)
        pending = await count_pending(connection)
    assert holds is not None  # noqa: S101 - an aggregate is one row
    assert coupons is not None  # noqa: S101 - the same
    assert entries is not None  # noqa: S101 - the same
    figures = {**dict(holds), **dict(coupons), "entries": dict(entries)}
    figures["pending_proposals"] = pending
    return {"tiers": [_whole(row) for row in tiers], **figures}


def _whole(row: Any) -> Row:
    """A sum of 64-bit integers comes as a decimal without a fraction."""
    return {name: int(value) if name != "tier" else value for name, value in row.items()}
