"""A record that is sent again is as old as it was the first time, and only such a record is."""

from datetime import datetime, timedelta
from typing import Any

from adapters.settings import Settings
from tests.batches import NOW, Desk, desk, usage
from tests.counted import publish_counted

THEN = NOW - timedelta(days=40)
"""When the first copy was appended; the second is appended NOW."""
NEW_PRICE = {"credits": "0.5"}


def old(event_id: str, at: datetime = THEN, **data: Any) -> dict[str, Any]:
    """An event that is more than 35 days old now, of an action that no book knows yet."""
    event = usage(event_id, tokens={}, model="", provider="", **data)
    event["data"].setdefault("action", "brand_new")
    return event | {"time": at.isoformat().replace("+00:00", "Z")}


async def _outcomes(bench: Desk) -> list[tuple[int, str]]:
    """What became of each offset of partition 0."""
    rows = await bench.connection.fetch(
        "SELECT \"offset\", 'charged' AS what FROM charge UNION ALL"
        ' SELECT "offset", reason FROM dead_letter ORDER BY 1'
    )
    return [tuple(row) for row in rows]


async def test_a_parked_letter_is_charged_after_more_than_35_days(settings: Settings) -> None:
    async with desk(settings) as bench:
        await bench.open()
        await bench.apply(old("e1"), appended_at=THEN)
        await publish_counted(bench.connection, brand_new=NEW_PRICE)
        figures = await bench.apply(old("e1"), old("e2"), usage("e3"), first=1)
        assert (figures.charged, dict(figures.dead)) == (2, {"too_old": 1})
        assert await _outcomes(bench) == [
            (0, "unpriced"),
            (1, "charged"),
            (2, "too_old"),
            (3, "charged"),
        ]
        row = await bench.connection.fetchrow(
            "SELECT occurred_at, amount_micro FROM charge WHERE event_id = 'e1'"
        )
        assert tuple(row) == (THEN, 500_000)


async def test_other_bytes_of_the_same_event_are_not_that_old_record(settings: Settings) -> None:
    async with desk(settings) as bench:
        await bench.open()
        await bench.apply(old("e1"), appended_at=THEN)
        await publish_counted(bench.connection, brand_new=NEW_PRICE)
        dearer = old("e1", quantity=9)
        other_time = old("e1", at=THEN - timedelta(seconds=1))
        figures = await bench.apply(dearer, other_time, first=1)
        assert dict(figures.dead) == {"too_old": 2}


async def test_a_record_that_was_too_old_the_first_time_stays_so(settings: Settings) -> None:
    async with desk(settings) as bench:
        await bench.open()
        await publish_counted(bench.connection, brand_new=NEW_PRICE)
        for first in (0, 1):
            figures = await bench.apply(old("e1"), first=first)
            assert dict(figures.dead) == {"too_old": 1}


async def test_a_late_replay_of_what_was_charged_is_a_duplicate(settings: Settings) -> None:
    async with desk(settings) as bench:
        await bench.open()
        await publish_counted(bench.connection, brand_new=NEW_PRICE)
        await bench.apply(old("e1"), appended_at=THEN)
        figures = await bench.apply(old("e1"), old("e1", quantity=9), first=1)
        assert (figures.charged, figures.duplicate) == (0, 1)
        assert dict(figures.dead) == {"dup_mismatch": 1}


async def test_late_copies_keep_their_place_among_the_others(settings: Settings) -> None:
    """Balances follow the offsets, a saved record among ordinary ones included."""
    async with desk(settings) as bench:
        await bench.open()
        await bench.apply(old("e1"), appended_at=THEN)
        await publish_counted(bench.connection, brand_new=NEW_PRICE)
        await bench.apply(usage("a"), old("e1"), b"{", usage("b"), first=1)
        rows = await bench.connection.fetch(
            'SELECT event_id FROM charge ORDER BY balance_after_micro DESC, "offset"'
        )
        assert [row["event_id"] for row in rows] == ["a", "e1", "b"]


async def test_a_letter_knows_its_model_and_the_version_that_failed(settings: Settings) -> None:
    async with desk(settings) as bench:
        await bench.open()
        unknown = usage("e2", provider="acme", model="new-1")
        await bench.apply(old("e1"), unknown, b"{", first=0, appended_at=NOW)
        await bench.apply(usage("e3", provider="acme", model="new-1"), first=3)
        rows = await bench.connection.fetch(
            'SELECT reason, model, tried_version FROM dead_letter ORDER BY "offset"'
        )
        assert [tuple(row) for row in rows] == [
            ("too_old", "brand_new", 0),
            ("unpriced", "acme/new-1", 1),
            ("bad_json", None, 0),
            ("unpriced", "acme/new-1", 1),
        ]
