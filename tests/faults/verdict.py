"""What a fault test ends with: every event charged once, every offset booked, both stores equal.

Works out everything from the events that were published; then asks the product's own audit, which
must agree.
"""

import asyncio
from collections import Counter
from collections.abc import Awaitable, Callable, Mapping, Sequence
from contextlib import closing

import asyncpg

from adapters import clickhouse
from adapters.audit import audit
from adapters.settings import Settings
from adapters.topics import offsets
from schemas.topics import USAGE_EVENTS
from tests.faults.traffic import Identity
from tests.faults.waiting import eventually

CHARGED = "SELECT account_id, event_id, amount_micro FROM charge"
BALANCES = """
SELECT account_id, balance_micro, overdraft_micro,
       (SELECT coalesce(sum(remaining_micro), 0)::bigint FROM credit_grant AS g
        WHERE g.account_id = a.account_id) AS granted_micro
FROM account AS a
"""
OUTCOMES = """
SELECT epoch, partition, from_offset, to_offset, charged, duplicate, dead
FROM batch_outcome WHERE topic = $1 ORDER BY epoch, partition, from_offset
"""
POSITIONS = """
SELECT partition, epoch, next_offset, first_offset FROM stream_position WHERE topic = $1
"""


class Verdict:
    """Looks at the stores of one test; `topic` is the real name of the usage topic.

    `complaints` is what the workers have to say: it ends the message of whatever did not happen.
    """

    def __init__(self, settings: Settings, complaints: Callable[[], str]) -> None:
        self._settings = settings
        self._complaints = complaints
        self.topic = settings.topic_prefix + USAGE_EVENTS.name

    async def fetch(self, statement: str, *arguments: object) -> list[asyncpg.Record]:
        """Rows from PostgreSQL, over a connection of its own."""
        connection = await asyncpg.connect(self._settings.postgres.get_secret_value(), timeout=60)
        try:
            rows: list[asyncpg.Record] = await connection.fetch(statement, *arguments)
        finally:
            await connection.close()
        return rows

    async def applied(self) -> int:
        """Offsets applied so far, over all partitions."""
        rows = await self._positions()
        return sum(row["next_offset"] for row in rows)

    async def watch_positions(self, until: Callable[[], bool]) -> int:
        """Looks at the positions again and again: none goes back. Returns its looks."""
        looks = 0
        before: dict[int, int] = {}
        while not until():
            stands = {row["partition"]: row["next_offset"] for row in await self._positions()}
            back = {
                p: (offset, stands.get(p)) for p, offset in before.items() if stands[p] < offset
            }
            assert not back, f"positions went back: {back}"
            before = stands
            looks += 1
            await asyncio.sleep(0.1)
        return looks

    async def _positions(self) -> list[asyncpg.Record]:
        return await self.fetch(POSITIONS, self.topic)

    async def charges(self) -> int:
        """Charges in PostgreSQL."""
        [row] = await self.fetch("SELECT count(*) AS n FROM charge")
        return int(row["n"])

    async def until(self, enough: Callable[[int], bool], seconds_max: float) -> None:
        """Waits until the number of charges is as wished; raises TimeoutError."""

        async def seen() -> bool:
            return enough(await self.charges())

        async def found() -> str:
            return f"{await self.charges()} charges"

        await self._wait(seen, seconds_max, "enough charges", found)

    async def drained(self, seconds_max: float) -> None:
        """Waits until the rater stands at the end of every partition; raises TimeoutError."""

        async def at_the_end() -> bool:
            places = await self._places()
            return bool(places) and all(end == stands for _, end, stands in places.values())

        async def found() -> str:
            places = (await self._places()).items()
            return ", ".join(f"{p}: log {b} to {e}, applied to {at}" for p, (b, e, at) in places)

        await self._wait(at_the_end, seconds_max, "everything is applied", found)

    async def _places(self) -> dict[int, tuple[int, int, int]]:
        """Of each partition: where its log begins and ends, and how far it was applied."""
        log = await offsets(self._settings, self.topic)
        stands = {row["partition"]: row["next_offset"] for row in await self._positions()}
        return {p: (begin, end, stands.get(p, 0)) for p, (begin, end) in log.items()}

    async def _wait(
        self,
        check: Callable[[], Awaitable[bool]],
        seconds_max: float,
        what: str,
        found: Callable[[], Awaitable[str]],
    ) -> None:
        try:
            await eventually(check, seconds_max, what)
        except TimeoutError as error:
            raise TimeoutError(f"{error}\n{await found()}\n{self._complaints()}") from None

    async def copied(self, seconds_max: float) -> None:
        """Waits until ClickHouse has all that PostgreSQL has; raises TimeoutError."""

        async def all_there() -> bool:
            report = await audit(self._settings)
            return report.waiting.total == 0

        async def found() -> str:
            return str((await audit(self._settings)).waiting)

        await self._wait(all_there, seconds_max, "everything is copied", found)

    def clickhouse(self, query: str) -> int:
        """One number from ClickHouse."""
        with closing(clickhouse.connect(self._settings)) as client:
            return int(client.query(query).result_rows[0][0])

    async def ledger_findings(self, expected: Mapping[Identity, int]) -> list[str]:
        """What is wrong in PostgreSQL, compared with the events that were published."""
        rows = await self.fetch(CHARGED)
        times = Counter((row["account_id"], row["event_id"]) for row in rows)
        amounts = {(row["account_id"], row["event_id"]): row["amount_micro"] for row in rows}
        lost, foreign = expected.keys() - amounts.keys(), amounts.keys() - expected.keys()
        wrong = [
            name for name in expected.keys() & amounts.keys() if expected[name] != amounts[name]
        ]
        found: dict[str, Sequence[object]] = {
            "lost": sorted(lost),
            "not published": sorted(foreign),
            "doubled": sorted(name for name, n in times.items() if n > 1),
            "wrong amount": sorted(wrong),
            "drift": await self._drift(expected),
            "offsets": await self._unbooked(),
        }
        return [f"{what}: {len(items)}, as {items[:3]}" for what, items in found.items() if items]

    async def _drift(self, expected: Mapping[Identity, int]) -> list[str]:
        totals: Counter[str] = Counter()
        for (account_id, _), amount_micro in expected.items():
            totals[account_id] += amount_micro
        welcome = self._settings.welcome_credits_micro
        return [
            f"{account_id} has {balance}, should have {welcome - totals[account_id]}"
            for account_id, balance, overdraft, granted in await self.fetch(BALANCES)
            if not balance == welcome - totals[account_id] == granted - overdraft
        ]

    async def _unbooked(self) -> list[str]:
        """Offsets booked twice or never, and positions that do not end where the bookings do."""
        wrong = []
        ends: dict[tuple[int, int], int] = {}
        for epoch, partition, start, end, *booked in await self.fetch(OUTCOMES, self.topic):
            before = ends.get((epoch, partition), start)
            if before != start:
                wrong.append(f"epoch {epoch} partition {partition}: {before} then {start}")
            if sum(booked) != end - start:
                wrong.append(f"epoch {epoch} partition {partition}: {booked} for {start} to {end}")
            ends[epoch, partition] = end
        for row in await self._positions():
            end = ends.get((row["epoch"], row["partition"]), row["first_offset"])
            if end != row["next_offset"]:
                wrong.append(f"partition {row['partition']} stands at {row['next_offset']}, {end}")
        return wrong

    async def copy_findings(self) -> list[str]:
        """What is wrong in ClickHouse, and what the product's own audit finds anywhere."""
        [row] = await self.fetch("SELECT count(*) AS n, sum(amount_micro)::bigint AS s FROM charge")
        raw = self.clickhouse("SELECT count() FROM charge")
        final = self.clickhouse("SELECT count() FROM charge FINAL")
        total = self.clickhouse("SELECT sum(toInt128(amount_micro)) FROM charge FINAL")
        by_day = self.clickhouse("SELECT sum(amount_micro) FROM charge_by_day")
        report = await audit(self._settings)
        checks = {
            "rows in ClickHouse, FINAL": (row["n"], final),
            "raw rows in ClickHouse": (row["n"], raw),
            "sum in ClickHouse": (row["s"] or 0, total),
            "roll-up by day": (row["s"] or 0, by_day),
        }
        findings = [
            f"{what}: {found}, not {want}"
            for what, (want, found) in checks.items()
            if want != found
        ]
        return findings + [str(finding) for result in report.results for finding in result.findings]
