"""Usage whose price counts the month, and what the ledger must hold after it."""

import json
from collections import Counter
from datetime import UTC, date, datetime, timedelta
from random import Random
from typing import Any

from adapters.audit import audit
from adapters.settings import Settings
from tests.counted import ACTIONS, month_micro
from tests.faults.traffic import Identity, Sent
from tests.faults.verdict import Verdict

Month = tuple[str, str, date]  # account, action, first day of the month

CHARGED = "SELECT account_id, event_id FROM charge"
SUMS = """
SELECT account_id, action, date_trunc('month', occurred_at AT TIME ZONE 'UTC')::date AS month,
       sum(rated_micro)::bigint AS micro, sum(amount_micro)::bigint AS amount_micro
FROM charge GROUP BY 1, 2, 3
"""


class CountedTraffic:
    """Seeded usage of counted actions in two months; `units` is what each month's count must be."""

    def __init__(self, seed: int, *, accounts: int = 6, duplicates: float = 0.1) -> None:
        self._rng = Random(seed)
        self._names = [f"acct-{n}" for n in range(accounts)]
        self._duplicates = duplicates
        self._now = datetime.now(UTC)
        self._recent: list[dict[str, Any]] = []
        self.units: Counter[Month] = Counter()
        self.identities: set[Identity] = set()
        self.published = 0

    def records(self, count: int) -> list[Sent]:
        """The next records; about one in ten is an earlier event once more."""
        self.published += count
        return [self._one() for _ in range(count)]

    def _one(self) -> Sent:
        if self._recent and self._rng.random() < self._duplicates:
            return _sent(self._rng.choice(self._recent))
        account_id, event_id = self._rng.choice(self._names), f"e-{len(self.identities):07d}"
        action, units = self._rng.choice(list(ACTIONS)), self._rng.choice([1, 1, 2, 13, 40])
        when = self._now - timedelta(seconds=self._rng.random() * 3_000)
        if self._rng.random() < 0.2:
            midnight = self._now.replace(day=1, hour=0, minute=0, second=0, microsecond=0)
            when = midnight - timedelta(seconds=1 + self._rng.random() * 3_000)
        event = {
            "specversion": "1.0",
            "id": event_id,
            "source": "tests/faults",
            "type": "tollgate.usage.v1",
            "subject": account_id,
            "time": when.isoformat().replace("+00:00", "Z"),
            "data": {"action": action, "quantity": units},
        }
        self.identities.add((account_id, event_id))
        self.units[account_id, action, when.date().replace(day=1)] += units
        self._recent = [*self._recent[-2_000:], event]
        return _sent(event)


def _sent(event: dict[str, Any]) -> Sent:
    return event["subject"].encode(), json.dumps(event).encode()


async def counted_findings(
    settings: Settings, verdict: Verdict, traffic: CountedTraffic
) -> list[str]:
    """What is wrong in the ledger: events, months, counters, and what the product's audit says."""
    rows = await verdict.fetch(CHARGED)
    times = Counter((row["account_id"], row["event_id"]) for row in rows)
    months = {
        (row["account_id"], row["action"], row["month"]): row["micro"]
        for row in await verdict.fetch(SUMS)
    }
    kept = {
        (row["account_id"], row["counter"].partition(":")[2], row["month"]): row["units"]
        for row in await verdict.fetch("SELECT * FROM usage_counter")
    }
    wanted = {key: month_micro(key[1], units) for key, units in traffic.units.items()}
    found = {
        "lost": sorted(traffic.identities - set(times)),
        "doubled": sorted(name for name, n in times.items() if n > 1),
        "months": sorted(key for key in wanted if months.get(key) != wanted[key]),
        "counters": sorted(key for key in traffic.units if kept.get(key) != traffic.units[key]),
        "audit": [str(f) for result in (await audit(settings)).results for f in result.findings],
    }
    return [f"{what}: {len(items)}, as {items[:3]}" for what, items in found.items() if items]
