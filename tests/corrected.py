"""Charges to correct: a rater on real PostgreSQL, and what must hold after every step."""

from typing import Any

from adapters.charges import Request
from adapters.queries import load
from tests.batches import Desk

VERIFY = load("verify")
_UNDRAWN = ("balance_findings", "grant_findings", "draw_findings", "hold_findings")
# As core.corrections counts: what a charge adds to its month in its state in force.
_COUNTERS = """
SELECT account_id, counter, month, sum(units) FROM (
    SELECT account_id, counter, month, -units AS units FROM usage_counter
    UNION ALL
    SELECT charge.account_id, coalesce(latest.counter, charge.counter),
           date_trunc('month', charge.occurred_at AT TIME ZONE 'UTC')::date,
           coalesce(latest.counter_units, charge.counter_units)
    FROM charge LEFT JOIN LATERAL (
        SELECT * FROM charge_correction AS c
        WHERE c.account_id = charge.account_id AND c.event_id = charge.event_id
        ORDER BY sequence DESC LIMIT 1
    ) AS latest ON true
) AS counted (account_id, counter, month, units)
WHERE counter <> '' GROUP BY 1, 2, 3 HAVING sum(units) <> 0
"""
_CHANGES = """
SELECT correction.account_id, correction.event_id, sequence FROM (
    SELECT c.*, lag(c.rated_micro, 1, charge.rated_micro) OVER chain AS rated_before,
           lag(c.amount_micro, 1, charge.amount_micro) OVER chain AS amount_before,
           lag(c.sequence, 1, 0) OVER chain AS sequence_before
    FROM charge_correction AS c JOIN charge USING (account_id, event_id)
    WINDOW chain AS (PARTITION BY c.account_id, c.event_id ORDER BY c.sequence)
) AS correction LEFT JOIN credit_transaction AS entry USING (transaction_id)
WHERE correction.rated_micro - rated_before <> rated_change_micro
   OR correction.amount_micro - amount_before <> amount_change_micro
   OR sequence <> sequence_before + 1
   OR coalesce(entry.amount_micro, 0) <> -amount_change_micro
   OR entry.type <> 'CORRECTION' OR entry.event_id <> correction.event_id
"""


async def wrong(bench: Desk) -> list[Any]:
    """Every invariant of the ledger that does not hold; empty when the money is right."""
    found: list[Any] = []
    for name in _UNDRAWN:
        found += [(name, *row) for row in await bench.connection.fetch(getattr(VERIFY, name))]
    found += [("counters", *row) for row in await bench.connection.fetch(_COUNTERS)]
    found += [("changes", *row) for row in await bench.connection.fetch(_CHANGES)]
    return found


def request(event_id: str, account_id: str = "acct", key: str | None = None) -> Request:
    """A correction by the tests."""
    return Request(account_id, event_id, actor="tests", reason="a test", key=key)


async def ledger(bench: Desk) -> list[Any]:
    """Everything that a correction can change, to compare before and after."""
    tables = ("charge_correction", "usage_counter")
    return [
        *await bench.state(),
        *[
            await bench.value(f"SELECT json_agg(t ORDER BY t) FROM {table} t")  # noqa: S608
            for table in tables
        ],
    ]
