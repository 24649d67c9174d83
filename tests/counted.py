"""Counted prices with their definitions worked out here, with nothing of core/."""

import json
from collections.abc import Callable, Mapping
from datetime import UTC, datetime
from fractions import Fraction
from math import floor
from typing import Any

import asyncpg

from adapters.price_store import publish

ACTIONS: dict[str, dict[str, Any]] = {
    "counted_pages": {
        "charge": "graduated",
        "steps": [
            {"up_to": "1000", "credits": "0.01"},
            {"up_to": "5000", "credits": "0.007", "fee": "1"},
            {"credits": "0.003"},
        ],
    },
    "counted_calls": {
        "charge": "graduated",
        "steps": [{"up_to": "3000", "credits": "0.0000337"}, {"credits": "0.0000105"}],
    },
    "counted_exports": {"charge": "package", "credits": "2.5", "size": "100", "free_units": "50"},
    "counted_minutes": {
        "charge": "volume",
        "steps": [
            {"up_to": "500", "credits": "0.02"},
            {"up_to": "2000", "credits": "0.015"},
            {"credits": "0.01"},
        ],
    },
}
"""Rows of a price book that have no multipliers, so that a tier changes nothing."""


def _pages(n: int) -> Fraction:
    fee = 1_000_000 if n > 1_000 else 0
    middle = max(0, min(n, 5_000) - 1_000)
    return Fraction(min(n, 1_000) * 10_000 + fee + middle * 7_000 + max(0, n - 5_000) * 3_000)


def _calls(n: int) -> Fraction:
    return min(n, 3_000) * Fraction("33.7") + max(0, n - 3_000) * Fraction("10.5")


def _exports(n: int) -> Fraction:
    return Fraction((max(0, n - 50) + 99) // 100 * 2_500_000)


def _minutes(n: int) -> Fraction:
    return Fraction(n * (20_000 if n <= 500 else 15_000 if n <= 2_000 else 10_000))


_DEFINITIONS: Mapping[str, Callable[[int], Fraction]] = {
    "counted_pages": _pages,
    "counted_calls": _calls,
    "counted_exports": _exports,
    "counted_minutes": _minutes,
}


def month_micro(action: str, units: int) -> int:
    """What a month of so many units costs in all, rounded half up."""
    return floor(_DEFINITIONS[action](units) + Fraction(1, 2))


async def publish_counted(
    connection: "asyncpg.Connection[asyncpg.Record]", **actions: dict[str, Any]
) -> int:
    """The newest book with the counted actions (or those given), in force since 2026 began."""
    text = await connection.fetchval(
        "SELECT document FROM price_version ORDER BY price_version DESC LIMIT 1"
    )
    document = json.loads(text)
    document["actions"] |= actions or ACTIONS
    start = datetime(2026, 1, 1, tzinfo=UTC)
    return await publish(connection, document, start, "tests", correction=True)
