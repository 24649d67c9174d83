"""Prices that count the month: exact whatever comes twice, in any order, from several workers."""

import asyncio
from collections import Counter
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from datetime import date, datetime, timedelta
from random import Random
from typing import Any

import asyncpg
import pytest

from adapters.ledger import SQL, BatchTransaction, Ledger
from adapters.queries import load
from adapters.settings import Settings
from tests.batches import NOW, Desk, desk, usage
from tests.counted import ACTIONS, month_micro, publish_counted

VERIFY = load("verify")
WELCOME = 1_000_000_000
LAST_MONTHS_END = NOW.replace(day=1, hour=0, minute=0, second=0) - timedelta(hours=1)
THIS_MONTH = NOW.replace(day=1).date()
LAST_MONTH = LAST_MONTHS_END.date().replace(day=1)
SUMS = """
SELECT account_id, action, date_trunc('month', occurred_at AT TIME ZONE 'UTC')::date AS month,
       sum(rated_micro)::bigint AS micro, sum(counter_units)::bigint AS units
FROM charge WHERE counter <> '' GROUP BY 1, 2, 3
"""


def counted(
    event_id: str, action: str, units: int, account_id: str = "acct", at: datetime = NOW
) -> dict[str, Any]:
    """An event of a counted action."""
    event = usage(event_id, account_id)
    data = {"action": action, "quantity": units}
    return event | {"data": data, "time": at.isoformat().replace("+00:00", "Z")}


@asynccontextmanager
async def counting_desk(settings: Settings, **changes: object) -> AsyncIterator[Desk]:
    """A desk whose price book has the counted actions."""
    async with desk(settings, **changes) as bench:
        await publish_counted(bench.connection)
        await bench.open([0, 1, 2])
        yield bench


async def _months_are_exact(bench: Desk, units: Counter[tuple[str, str, date]]) -> None:
    """Every month's charges, its counter, and every balance are what the definition says."""
    rows = await bench.connection.fetch(SUMS)
    found = {(r["account_id"], r["action"], r["month"]): (r["micro"], r["units"]) for r in rows}
    assert found == {key: (month_micro(key[1], n), n) for key, n in units.items()}
    kept = await bench.connection.fetch("SELECT * FROM usage_counter")
    assert {tuple(row)[:3]: row["units"] for row in kept} == {
        (account_id, f"action:{action}", month): n
        for (account_id, action, month), n in units.items()
    }
    await _ledger_is_sound(bench)


async def _ledger_is_sound(bench: Desk) -> None:
    for name in ("balance_findings", "grant_findings", "draw_findings"):
        assert await bench.connection.fetch(getattr(VERIFY, name)) == [], name


def _some_usage(chance: Random, count: int) -> list[dict[str, Any]]:
    """Usage of five accounts in two months, a tenth of it repeated."""
    events: list[dict[str, Any]] = []
    for n in range(count):
        if events and chance.random() < 0.1:
            events.append(chance.choice(events))
            continue
        month = NOW if chance.random() < 0.7 else LAST_MONTHS_END
        events.append(
            counted(
                f"e{n}", chance.choice(list(ACTIONS)), chance.choice([0, 1, 7, 60, 450]),
                f"acct-{chance.randrange(5)}", month - timedelta(seconds=chance.randrange(3_000)),
            )
        )  # fmt: skip
    return events


def _units(events: list[dict[str, Any]]) -> Counter[tuple[str, str, date]]:
    units: Counter[tuple[str, str, date]] = Counter()
    for event in {(e["subject"], e["id"]): e for e in events}.values():
        month = datetime.fromisoformat(event["time"]).date().replace(day=1)
        units[event["subject"], event["data"]["action"], month] += event["data"]["quantity"]
    return units


async def test_two_workers_and_every_event_twice_cost_what_the_month_costs(
    settings: Settings,
) -> None:
    """The same accounts in the partitions of both; then all of it once more, in another order."""
    chance = Random(36)
    events = _some_usage(chance, 1_500)
    async with counting_desk(settings) as one, desk(settings) as two:

        async def feed(bench: Desk, partition: int, part: list[dict[str, Any]]) -> None:
            for first in range(0, len(part), 40):
                await bench.apply(*part[first : first + 40], first=first, partition=partition)

        await asyncio.gather(feed(one, 0, events[::2]), feed(two, 1, events[1::2]))
        await _months_are_exact(one, _units(events))
        before = await one.value("SELECT json_agg(u ORDER BY u) FROM usage_counter AS u")
        chance.shuffle(events)
        await feed(two, 2, events)
        assert await one.value("SELECT json_agg(u ORDER BY u) FROM usage_counter AS u") == before
        await _months_are_exact(one, _units(events))


async def test_events_of_one_batch_count_on_from_one_another(settings: Settings) -> None:
    async with counting_desk(settings) as bench:
        await bench.apply(
            counted("e1", "counted_pages", 900),
            counted("e2", "counted_pages", 200),
            counted("e2", "counted_pages", 200),
            counted("e3", "counted_pages", 10, at=LAST_MONTHS_END),
        )
        rows = await bench.connection.fetch(
            "SELECT event_id, counter, counter_before, counter_units, rated_micro FROM charge"
            " ORDER BY 1"
        )
        name = "action:counted_pages"
        assert [tuple(row) for row in rows] == [
            ("e1", name, 0, 900, 9_000_000),
            ("e2", name, 900, 200, 1_000_000 + 1_000_000 + 700_000),
            ("e3", name, 0, 10, 100_000),
        ]
        kept = "SELECT month, units FROM usage_counter ORDER BY 1"
        assert [tuple(row) for row in await bench.connection.fetch(kept)] == [
            (LAST_MONTH, 10),
            (THIS_MONTH, 1_100),
        ]


async def test_what_is_not_charged_is_not_counted(settings: Settings) -> None:
    async with counting_desk(settings, create_accounts=False) as bench:
        await bench.value("INSERT INTO account (account_id, tier) VALUES ('acct', 'free')")
        figures = await bench.apply(
            counted("e1", "counted_calls", 10),
            counted("e1", "counted_calls", 11),
            counted("e2", "counted_calls", 12, "nobody"),
            counted("e3", "counted_calls", 0),
        )
        assert figures.charged == 2
        assert dict(figures.dead) == {"dup_mismatch": 1, "unknown_account": 1}
        rows = await bench.connection.fetch("SELECT account_id, units FROM usage_counter")
        assert [tuple(row) for row in rows] == [("acct", 10)]
        letters = await bench.connection.fetch("SELECT model FROM dead_letter")
        assert [row["model"] for row in letters] == ["counted_calls", "counted_calls"]


async def test_a_volume_price_that_falls_gives_back(settings: Settings) -> None:
    """500 minutes cost 10 credits; the 501st makes all of them cost 0.015: 7.515 in all."""
    async with counting_desk(settings, welcome_credits_micro=4_000_000) as bench:
        await bench.apply(counted("e1", "counted_minutes", 500))
        state = "SELECT balance_micro, overdraft_micro FROM account"
        assert tuple(await bench.connection.fetchrow(state)) == (-6_000_000, 6_000_000)
        await bench.apply(counted("e2", "counted_minutes", 1), first=1)
        assert tuple(await bench.connection.fetchrow(state)) == (-3_515_000, 3_515_000)
        await bench.apply(counted("e3", "counted_minutes", 1_499), first=2)
        await bench.apply(counted("e4", "counted_minutes", 1), first=3)
        assert await bench.value("SELECT amount_micro FROM charge WHERE event_id = 'e4'") == (
            2_001 * 10_000 - 2_000 * 15_000
        )
        assert tuple(await bench.connection.fetchrow(state)) == (-16_010_000, 16_010_000)
        await _ledger_is_sound(bench)


async def test_what_is_given_back_beyond_the_overdraft_is_a_grant(settings: Settings) -> None:
    async with counting_desk(settings) as bench:
        await bench.apply(counted("e1", "counted_minutes", 500))
        await bench.apply(counted("e2", "counted_minutes", 1), first=1)
        row = await bench.connection.fetchrow(
            "SELECT source, granted_by, amount_micro, remaining_micro, expires_at FROM credit_grant"
            " WHERE source <> 'welcome'"
        )
        assert tuple(row) == ("given_back", "rater", 2_485_000, 2_485_000, None)
        assert await bench.value("SELECT balance_micro FROM account") == WELCOME - 7_515_000
        await _ledger_is_sound(bench)


async def test_a_batch_whose_charges_come_to_nothing_moves_no_balance(settings: Settings) -> None:
    async with counting_desk(settings) as bench:
        await publish_counted(bench.connection, one_off={"credits": "2.485"})
        await bench.apply(counted("e1", "counted_minutes", 500))
        before = await bench.value("SELECT json_agg(a) FROM account AS a")
        await bench.apply(counted("e2", "counted_minutes", 1), counted("e3", "one_off", 1), first=1)
        assert await bench.value("SELECT sum(amount_micro) FROM charge") == 10_000_000
        assert await bench.value("SELECT json_agg(a) FROM account AS a") == before
        assert await bench.value("SELECT count(*) FROM credit_grant") == 1
        await _ledger_is_sound(bench)


async def test_a_demo_account_is_counted_and_never_charged(settings: Settings) -> None:
    async with counting_desk(settings, default_demo=True) as bench:
        await bench.apply(
            counted("e1", "counted_minutes", 500), counted("e2", "counted_minutes", 1)
        )
        rows = await bench.connection.fetch(
            "SELECT rated_micro, amount_micro FROM charge ORDER BY 1"
        )
        assert [tuple(row) for row in rows] == [(-2_485_000, 0), (10_000_000, 0)]
        assert await bench.value("SELECT units FROM usage_counter") == 501
        assert await bench.value("SELECT balance_micro FROM account") == WELCOME


async def test_a_new_version_prices_on_from_where_the_counter_stands(settings: Settings) -> None:
    async with counting_desk(settings) as bench:
        await bench.apply(counted("e1", "counted_pages", 900))
        dearer = {"charge": "graduated", "steps": [{"up_to": "950", "credits": "1"},
                                                   {"credits": "2"}]}  # fmt: skip
        await publish_counted(bench.connection, counted_pages=dearer)
        await bench.apply(counted("e2", "counted_pages", 100), first=1)
        row = await bench.connection.fetchrow(
            "SELECT price_version, counter_before, rated_micro FROM charge WHERE event_id = 'e2'"
        )
        assert tuple(row) == (3, 900, 150_000_000)


async def test_a_counter_that_is_full_is_a_dead_letter_and_stays(settings: Settings) -> None:
    async with counting_desk(settings) as bench:
        await bench.apply(counted("e1", "counted_calls", 5))
        await bench.value("UPDATE usage_counter SET units = 999999999999999999 RETURNING 1")
        figures = await bench.apply(counted("e2", "counted_calls", 5), first=1)
        assert dict(figures.dead) == {"unprocessable": 1}
        assert await bench.value("SELECT units FROM usage_counter") == 999999999999999999


async def test_the_rarer_columns_of_a_charge_are_filled(settings: Settings) -> None:
    async with counting_desk(settings) as bench:
        billed = {"amount": "0.000001234567", "currency": "EUR"}
        tokens = {"input": 900, "output": 90, "image_output": 40, "video_input": 30}
        model = {"provider": "google", "model": "gemini-2.5-flash-image"}
        await bench.apply(
            usage("plain"),
            usage("billed", billed=billed),
            counted("counted", "counted_exports", 60),
            usage("media", **model, tokens=tokens),
        )
        rows = await bench.connection.fetch(
            "SELECT event_id, service_tier, billed_currency, billed_pico, counter, other_meters"
            " FROM charge ORDER BY 1"
        )
        wanted = [
            ("billed", "standard", "EUR", 1_234_567, "", ""),
            ("counted", "standard", "", 0, "action:counted_exports", ""),
            ("plain", "standard", "", 0, "", ""),
        ]
        found = [tuple(row) for row in rows if row["event_id"] != "media"]
        assert found == wanted


class Listening(Ledger):
    """A ledger that notes which statements its transactions run."""

    said: list[str]

    @asynccontextmanager
    async def transaction(self) -> AsyncIterator[BatchTransaction]:
        """As the ledger's."""
        names = {getattr(SQL, name): name for name in SQL.names()}
        async with super().transaction() as transaction:
            connection = transaction.connection
            with connection.query_logger(lambda query: self.said.append(names[query.query])):
                yield transaction


@pytest.mark.parametrize("with_counters", [True, False])
async def test_only_counted_events_cost_a_round_trip_more(
    settings: Settings, monkeypatch: pytest.MonkeyPatch, *, with_counters: bool
) -> None:
    async with counting_desk(settings) as bench:
        await bench.apply(usage("first"))
        listening = Listening(bench.ledger._pool, bench.topic, settings.event_age_days_max)
        listening.said = []
        monkeypatch.setattr(bench.rater, "_ledger", listening)
        extra = [counted("counted", "counted_pages", 3)] if with_counters else []
        await bench.apply(usage("e1"), usage("e2"), *extra, first=1)
    steps = [
        "lock_positions", "newest_price_version", "lock_accounts", "find_claims", "read_counters",
        "next_batch_id", "add_to_counters", "burn_down", "book_outcomes", "move_positions",
    ]  # fmt: skip
    plain = [step for step in steps if "counters" not in step]
    assert listening.said == (steps if with_counters else plain)


async def test_a_batch_reads_what_an_earlier_transaction_of_the_account_counted(
    settings: Settings,
) -> None:
    """It waits for the account's lock first, and looks at the counter then."""
    async with counting_desk(settings) as one, desk(settings) as two:
        await one.apply(counted("e0", "counted_calls", 1))
        dsn = settings.postgres.get_secret_value()
        other = await asyncpg.connect(dsn)
        held = other.transaction()
        await held.start()
        await other.fetch(SQL.lock_accounts, ["acct"])
        late = asyncio.create_task(two.apply(counted("e1", "counted_calls", 2), partition=1))
        await asyncio.sleep(0.3)
        assert not late.done()
        key = ["acct"], ["action:counted_calls"], [THIS_MONTH]
        await other.execute(SQL.add_to_counters, *key, [40])
        await held.commit()
        await other.close()
        await late
        assert await one.value("SELECT max(counter_before) FROM charge") == 41
