"""The purge: rows that keep no promise any more, a few thousand a transaction.

Not among them: charges, which are the claims of the events and the ledger at once, and batch
outcomes, by which `tollgate verify` accounts for every offset; both tables refuse a DELETE.
"""

from collections.abc import AsyncGenerator
from dataclasses import dataclass

from adapters.jobs import add_figures
from adapters.postgres import Connection
from adapters.queries import load

SQL = load("purge")
ROWS_MAX = 5_000


@dataclass(frozen=True, slots=True)
class Keep:
    """How many days things are kept."""

    key_days: int
    run_days: int


async def preview(connection: Connection, keep: Keep) -> dict[str, int]:
    """What a purge would remove now; changes nothing."""
    row = await connection.fetchrow(SQL.preview, keep.key_days, keep.run_days)
    assert row is not None  # noqa: S101 - SELECT without FROM gives one row
    return dict(row)


async def purge(
    connection: Connection, run_id: int, keep: Keep
) -> AsyncGenerator[dict[str, int], None]:
    """Removes what is older; yields what each transaction removed. Harmless beside itself."""
    plan = (("keys", SQL.purge_keys, keep.key_days), ("runs", SQL.purge_runs, keep.run_days))
    for name, statement, days in plan:
        removed = ROWS_MAX
        while removed == ROWS_MAX:
            async with connection.transaction(isolation="read_committed"):
                removed = await connection.fetchval(statement, days, ROWS_MAX)
                figures = {name: removed}
                await add_figures(connection, run_id, figures)
            yield figures
