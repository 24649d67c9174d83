"""What one batch does to the ledger, on real PostgreSQL."""

import asyncio
import functools
import json
from datetime import datetime, timedelta

import pytest

from adapters.failures import Halt
from adapters.ledger import PositionMoved
from adapters.price_store import publish
from adapters.settings import Settings
from consumers.batch import BatchLoop
from tests.batches import NOW, Desk, desk, usage


async def _double_prices(bench: Desk, effective_from: datetime) -> None:
    document = json.loads(await bench.value("SELECT document FROM price_version"))
    document["currencies"] = {"USD": [{"credits": "2"}]}
    await publish(bench.connection, document, effective_from, "tests", correction=True)


WELCOME = 1_000_000_000
GPT_4O = 3_750


async def test_an_event_is_charged_to_a_new_account_and_every_offset_is_booked(
    settings: Settings,
) -> None:
    async with desk(settings) as bench:
        await bench.open()
        figures = await bench.apply(usage("e1"), usage("e2"), b"{", usage("e3", "other"))
        assert (figures.charged, figures.duplicate, dict(figures.dead)) == (3, 0, {"bad_json": 1})
        assert figures.accounts_created == 2
        balance = "SELECT balance_micro FROM account WHERE account_id = $1"
        assert await bench.value(balance, "acct") == WELCOME - 2 * GPT_4O
        assert await bench.value(balance, "other") == WELCOME - GPT_4O
        assert await bench.value("SELECT next_offset FROM stream_position") == 4
        assert await bench.value("SELECT payload FROM dead_letter") == b"{"
        after = "SELECT array_agg(balance_after_micro ORDER BY \"offset\") FROM charge WHERE account_id = 'acct'"  # noqa: E501
        assert await bench.value(after) == [WELCOME - GPT_4O, WELCOME - 2 * GPT_4O]


async def test_a_batch_that_is_applied_again_changes_not_one_byte(settings: Settings) -> None:
    async with desk(settings) as bench:
        await bench.open()
        await bench.apply(usage("e1"), usage("e2"), b"{")
        before = await bench.state()
        figures = await bench.apply(usage("e1"), usage("e2"), b"{")
        assert (figures.charged, figures.duplicate, sum(figures.dead.values())) == (0, 0, 0)
        assert await bench.state() == before


async def test_a_batch_that_overlaps_what_is_applied_is_refused_whole(settings: Settings) -> None:
    async with desk(settings) as bench:
        await bench.open()
        await bench.apply(usage("e1"), usage("e2"))
        before = await bench.state()
        with pytest.raises(PositionMoved):
            await bench.apply(usage("e2"), usage("e3"), first=1)
        with pytest.raises(PositionMoved):
            await bench.apply(usage("e9"), first=7)
        with pytest.raises(PositionMoved, match="epoch"):
            await bench.rater.apply(bench.runs(usage("e3"), first=2), epoch=2)
        assert await bench.state() == before


async def test_duplicates_are_not_charged_and_another_payload_is_a_conflict(
    settings: Settings,
) -> None:
    async with desk(settings) as bench:
        await bench.open()
        first = usage("e1")
        retried = first | {"time": (NOW - timedelta(seconds=9)).isoformat()}
        dearer = usage("e1", tokens={"input": 9_999})
        same_batch = await bench.apply(first, retried, dearer)
        assert (same_batch.charged, same_batch.duplicate) == (1, 1)
        assert dict(same_batch.dead) == {"dup_mismatch": 1}
        later = await bench.apply(retried, dearer, usage("e1", "other"), first=3)
        assert (later.charged, later.duplicate, dict(later.dead)) == (1, 1, {"dup_mismatch": 1})
        assert await bench.value("SELECT sum(amount_micro) FROM charge") == 2 * GPT_4O


async def test_a_duplicate_keeps_the_price_that_was_charged(settings: Settings) -> None:
    async with desk(settings) as bench:
        await bench.open()
        await bench.apply(usage("e1"))
        await _double_prices(bench, NOW - timedelta(days=1))
        figures = await bench.apply(usage("e1"), usage("e2"), first=1)
        assert (figures.charged, figures.duplicate) == (1, 1)
        rows = await bench.connection.fetch(
            "SELECT event_id, amount_micro, price_version FROM charge ORDER BY event_id"
        )
        assert [tuple(row) for row in rows] == [("e1", GPT_4O, 1), ("e2", 2 * GPT_4O, 2)]


async def test_the_price_is_the_one_of_the_event_time(settings: Settings) -> None:
    async with desk(settings) as bench:
        await bench.open()
        await _double_prices(bench, NOW - timedelta(hours=1))
        old = usage("old") | {"time": (NOW - timedelta(hours=2)).isoformat()}
        await bench.apply(old, usage("new"))
        rows = await bench.connection.fetch("SELECT event_id, amount_micro FROM charge ORDER BY 1")
        assert [tuple(row) for row in rows] == [("new", 2 * GPT_4O), ("old", GPT_4O)]


async def test_a_tier_that_changed_since_the_last_batch_counts_at_once(settings: Settings) -> None:
    async with desk(settings) as bench:
        await bench.open()
        await bench.apply(usage("e1"))
        await bench.value("UPDATE account SET tier = 'pro' RETURNING 1")
        await bench.apply(usage("e2"), first=1)
        rows = await bench.connection.fetch("SELECT tier, amount_micro FROM charge ORDER BY 1")
        assert [tuple(row) for row in rows] == [("free", GPT_4O), ("pro", 2_500)]


async def test_a_demo_account_is_rated_and_marked_but_never_charged(settings: Settings) -> None:
    async with desk(settings, default_demo=True) as bench:
        await bench.open()
        await bench.apply(usage("e1"))
        row = await bench.connection.fetchrow("SELECT demo, rated_micro, amount_micro FROM charge")
        assert tuple(row) == (True, GPT_4O, 0)
        assert await bench.value("SELECT balance_micro FROM account") == WELCOME
        assert await bench.value("SELECT count(*) FROM grant_draw") == 0


async def test_an_unknown_account_is_a_dead_letter_when_none_may_be_created(
    settings: Settings,
) -> None:
    async with desk(settings, create_accounts=False) as bench:
        await bench.open()
        await bench.value(
            "INSERT INTO account (account_id, tier) VALUES ('known', 'free') RETURNING 1"
        )
        figures = await bench.apply(usage("e1"), usage("e2", "known"))
        assert (figures.charged, dict(figures.dead)) == (1, {"unknown_account": 1})
        overdraft = "SELECT overdraft_micro FROM account WHERE account_id = 'known'"
        assert await bench.value(overdraft) == GPT_4O


async def test_an_event_without_a_price_is_parked_with_its_name(settings: Settings) -> None:
    async with desk(settings) as bench:
        await bench.open()
        figures = await bench.apply(usage("e1", model="no-such-model"))
        assert dict(figures.dead) == {"unpriced": 1}
        detail = await bench.value("SELECT detail FROM dead_letter")
        assert "openai" in detail
        assert "no-such-model" in detail


async def test_an_event_that_names_its_hold_settles_it(settings: Settings) -> None:
    async with desk(settings) as bench:
        await bench.open()
        await bench.apply(usage("e0"), usage("f0", "foe"))
        await bench.connection.execute(
            "INSERT INTO credit_hold (hold_id, account_id, amount_micro) "
            "VALUES ('h1', 'acct', 50000), ('h2', 'acct', 70000);"
            "UPDATE account SET held_micro = 120000 WHERE account_id = 'acct'"
        )
        await bench.apply(
            usage("e1", hold_id="h1"),
            usage("e2", hold_id="h1"),
            usage("f1", "foe", hold_id="h2"),
            usage("e3", hold_id="no-such-hold"),
            first=2,
        )
        rows = await bench.connection.fetch(
            "SELECT hold_id, state, charged_micro FROM credit_hold ORDER BY 1"
        )
        assert [tuple(row) for row in rows] == [
            ("h1", "settled", 2 * GPT_4O),
            ("h2", "open", None),
        ]
        held = "SELECT held_micro FROM account WHERE account_id = $1"
        assert await bench.value(held, "acct") == 70_000
        assert await bench.value(held, "foe") == 0
        assert await bench.value("SELECT count(*) FROM charge") == 6


async def test_too_many_dead_letters_halt_the_rater_and_book_nothing(settings: Settings) -> None:
    async with desk(settings, dead_letter_window=10, dead_letter_share_max=0.5) as bench:
        await bench.open()
        await bench.apply(*[usage(f"e{n}") for n in range(10)])
        for first in (10, 14):
            await bench.apply(b"{", b"{", b"{", b"{", first=first)
        before = await bench.state()
        with pytest.raises(Halt, match=r"dead letters .*bad_json"):
            await bench.apply(b"{", b"{", b"{", b"{", first=18)
        assert await bench.state() == before
        async with desk(bench.settings) as restarted:
            with pytest.raises(Halt, match=r"dead letters .*bad_json"):
                await restarted.apply(b"{", b"{", b"{", first=18)
            await restarted.apply(*[usage(f"good{n}") for n in range(9)], b"{", first=18)


async def test_a_user_who_publishes_nonsense_halts_nobody(settings: Settings) -> None:
    async with desk(settings, dead_letter_window=10, dead_letter_share_max=0.5) as bench:
        await bench.open()
        await bench.apply(*[usage(f"e{n}") for n in range(10)])
        for first in (10, 20, 30):
            lies = [usage(f"user:{first + n}", model="no-such-model") for n in range(10)]
            await bench.apply(*lies, first=first)
        assert await bench.value("SELECT count(*) FROM dead_letter") == 30
        async with desk(bench.settings) as restarted:
            await restarted.apply(usage("e10"), b"{", b"{", first=40)
            with pytest.raises(Halt, match=r"dead letters .*bad_json"):
                await restarted.apply(*[b"{"] * 10, first=43)


async def test_an_unpublished_price_book_stops_the_rater_instead_of_killing_events(
    settings: Settings,
) -> None:
    async with desk(settings) as bench:
        await bench.open()
        await bench.connection.execute(
            "ALTER TABLE price_version DISABLE TRIGGER ALL; DELETE FROM price_version"
        )
        with pytest.raises(Halt, match="no price book"):
            await bench.apply(usage("e1"))


async def test_two_raters_that_share_accounts_lose_and_double_nothing(settings: Settings) -> None:
    async with desk(settings) as one, desk(settings) as two:
        await one.open([0, 1])

        async def feed(bench: Desk, partition: int) -> None:
            for n in range(20):
                events = [usage(f"p{partition}-{n}-{i}", f"acct-{(n + i) % 7}") for i in range(30)]
                await bench.apply(*events, usage(f"both-{n}"), first=n * 31, partition=partition)

        await asyncio.gather(feed(one, 0), feed(two, 1))
        assert await one.value("SELECT count(*) FROM charge") == 20 * 60 + 20
        assert await one.value("SELECT sum(duplicate) FROM batch_outcome") == 20
        drift = await one.value(
            "SELECT count(*) FROM account WHERE balance_micro <> $1 - ("
            "SELECT sum(amount_micro) FROM charge WHERE charge.account_id = account.account_id)",
            WELCOME,
        )
        assert drift == 0


@pytest.mark.parametrize("place", [0, 3, 6])
async def test_a_record_that_postgresql_refuses_is_found_and_the_rest_flows(
    settings: Settings, place: int
) -> None:
    async with desk(settings) as bench:
        await bench.open()
        await bench.connection.execute(
            "CREATE FUNCTION refuse_evil() RETURNS trigger LANGUAGE plpgsql AS $$ BEGIN "
            "IF NEW.event_id = 'evil' THEN RAISE EXCEPTION USING ERRCODE = '22000'; END IF; "
            "RETURN NEW; END $$;"
            "CREATE TRIGGER evil BEFORE INSERT ON charge "
            "FOR EACH ROW EXECUTE FUNCTION refuse_evil()"
        )
        events = [usage(f"e{n}") for n in range(7)]
        events[place] = usage("evil")
        apply = functools.partial(bench.rater.apply, epoch=1)
        loop = BatchLoop(None, apply, print, 5.0, print)  # type: ignore[arg-type]
        await loop._apply_with_retries(bench.runs(*events))
        assert await bench.value("SELECT count(*) FROM charge") == 6
        row = await bench.connection.fetchrow('SELECT reason, "offset" FROM dead_letter')
        assert tuple(row) == ("unprocessable", place)
        assert await bench.value("SELECT next_offset FROM stream_position") == 7


async def test_a_charge_that_no_balance_can_hold_is_found_and_the_rest_flows(
    settings: Settings,
) -> None:
    """COPY writes the balance after the charge: what does not fit fails here, not in PostgreSQL."""
    lowest = -(2**63)
    async with desk(settings) as bench:
        await bench.open()
        await bench.apply(usage("e0"))
        emptied = "UPDATE account SET balance_micro = $1, overdraft_micro = $2"
        await bench.connection.execute(emptied, lowest + 100, -(lowest + 100))
        apply = functools.partial(bench.rater.apply, epoch=1)
        loop = BatchLoop(None, apply, print, 5.0, print)  # type: ignore[arg-type]
        await loop._apply_with_retries(bench.runs(usage("e1"), usage("e2", "neighbour"), first=1))
        assert await bench.value("SELECT count(*) FROM charge WHERE event_id = 'e2'") == 1
        row = await bench.connection.fetchrow('SELECT reason, "offset" FROM dead_letter')
        assert tuple(row) == ("unprocessable", 1)
        balance = "SELECT balance_micro FROM account WHERE account_id = 'acct'"
        assert await bench.value(balance) == lowest + 100
        assert await bench.value("SELECT next_offset FROM stream_position") == 3
