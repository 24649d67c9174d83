"""Charges to correct: a rater on real PostgreSQL, and what must hold after every step."""

import json
from datetime import timedelta
from typing import Any

from adapters.charges import Request
from adapters.price_store import publish
from adapters.queries import load
from tests.batches import NOW, Desk, usage

VERIFY = load("verify")
# All of the ledger but the offsets: those are the rater's.
_CHECKS = (
    "balance_findings", "grant_findings", "draw_findings", "hold_findings", "correction_findings",
    "correction_credit_findings", "counter_findings", "spend_findings", "coupon_findings",
    "refresh_findings", "report_findings",
)  # fmt: skip


async def wrong(bench: Desk) -> list[Any]:
    """Every invariant of the ledger that does not hold; empty when the money is right."""
    found: list[Any] = []
    for name in _CHECKS:
        found += [(name, *row) for row in await bench.connection.fetch(getattr(VERIFY, name))]
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


async def count_scans(bench: Desk) -> None:
    """The default book with an action at 0.01 credits up to 10 units of a month, 0.005 above."""
    document = json.loads(await bench.value("SELECT document FROM price_version"))
    steps = [{"up_to": "10", "credits": "0.01"}, {"credits": "0.005"}]
    document["actions"]["page_scan"] = {"charge": "graduated", "steps": steps}
    start = NOW - timedelta(days=40)
    await publish(bench.connection, document, start, "tests", correction=True)


def scan(event_id: str, quantity: int) -> dict[str, object]:
    return usage(event_id, action="page_scan", quantity=quantity, model="", provider="", tokens={})
