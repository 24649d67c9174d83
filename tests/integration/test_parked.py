"""The parked letters as one transaction sees them: which, how many, by whom, and never half."""

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from datetime import timedelta

import asyncpg
import pytest
from aiokafka import AIOKafkaProducer
from aiokafka.errors import KafkaError

from adapters.dead_letters import Selection, requeue
from adapters.parked import LETTERS_MAX, Parked
from adapters.price_store import load_history
from adapters.publishing import open_producer
from adapters.settings import Settings
from core.rating import AccountFacts
from tests.batches import NOW, Desk, desk, usage
from tests.counted import publish_counted

FREE = AccountFacts("free", demo=False)
LETTERS = LETTERS_MAX + 50


@asynccontextmanager
async def parked_desk(settings: Settings) -> AsyncIterator[Desk]:
    """A desk with 250 letters that version 2 prices, and one that it does not."""
    async with desk(settings) as bench:
        await bench.open()
        waiting = [usage(f"e{n}", model="", tokens={}, action="brand_new") for n in range(LETTERS)]
        never = usage("never", provider="acme", model="new-2")
        await bench.apply(never, *waiting)
        await publish_counted(bench.connection, brand_new={"credits": "1"})
        yield bench


async def _tried(bench: Desk) -> list[tuple[int, bool, int]]:
    rows = await bench.connection.fetch(
        "SELECT tried_version, requeued_at IS NOT NULL AS sent, count(*) FROM dead_letter"
        " GROUP BY 1, 2 ORDER BY 1, 2"
    )
    return [tuple(row) for row in rows]


async def test_one_transaction_at_a_time_looks_after_the_letters(settings: Settings) -> None:
    async with parked_desk(settings) as bench:
        other = await asyncpg.connect(settings.postgres.get_secret_value())
        try:
            async with other.transaction(), bench.connection.transaction():
                version, letters = await Parked(other, bench.topic).claim()
                assert (version, len(letters)) == (2, LETTERS_MAX)
                assert letters[0].timestamp == round(NOW.timestamp() * 1000)
                assert await Parked(bench.connection, bench.topic).claim() == (0, [])
            async with bench.connection.transaction():
                _, letters = await Parked(bench.connection, bench.topic).claim()
                assert len(letters) == LETTERS_MAX
        finally:
            await other.close()


async def test_a_requeue_by_hand_at_the_same_time_keeps_its_letters(settings: Settings) -> None:
    async with parked_desk(settings) as bench:
        by_hand = await asyncpg.connect(settings.postgres.get_secret_value())
        try:
            async with by_hand.transaction(), bench.connection.transaction():
                held = "SELECT 1 FROM dead_letter WHERE dead_letter_id <= 60 FOR UPDATE"
                await by_hand.execute(held)
                _, letters = await Parked(bench.connection, bench.topic).claim()
                assert min(letter.dead_letter_id for letter in letters) == 61
        finally:
            await by_hand.close()


async def test_a_broker_that_does_not_acknowledge_leaves_every_letter_as_it_was(
    settings: Settings, topics: dict[str, str]
) -> None:
    async with parked_desk(settings) as bench:
        before = await _tried(bench)
        history = await load_history(bench.connection)
        parked = Parked(bench.connection, bench.topic)
        refusing = AIOKafkaProducer(bootstrap_servers=settings.kafka, max_request_size=10)
        await refusing.start()

        async def refused() -> None:
            async with bench.connection.transaction():
                _, letters = await parked.claim()
                await parked.retry(letters, refusing, history, FREE)

        try:
            with pytest.raises(KafkaError):
                await refused()
        finally:
            await refusing.stop()
        assert await _tried(bench) == before == [(1, False, LETTERS + 1)]
        assert bench.topic in topics.values()


async def test_each_letter_is_tried_once_with_each_version(
    settings: Settings, topics: dict[str, str]
) -> None:
    async with parked_desk(settings) as bench, open_producer(settings, "tests") as producer:
        history = await load_history(bench.connection)
        parked = Parked(bench.connection, bench.topic)
        done = []
        for _ in range(3):
            async with bench.connection.transaction():
                _, letters = await parked.claim()
                if letters:
                    tried = await parked.retry(letters, producer, history, FREE)
                    done.append((tried.requeued, tried.unpriced, tried.letters))
        assert done == [(199, 1, 200), (51, 0, 51)]
        assert await _tried(bench) == [(2, False, 1), (2, True, LETTERS)]
        assert await parked.waiting() == 1
        assert bench.topic in topics.values()


async def test_the_tier_of_the_account_counts(settings: Settings, topics: dict[str, str]) -> None:
    """Nobody prices a tier that the book does not know: the letter waits on."""
    async with parked_desk(settings) as bench, open_producer(settings, "tests") as producer:
        await bench.connection.execute("UPDATE account SET tier = 'unheard-of'")
        history = await load_history(bench.connection)
        parked = Parked(bench.connection, bench.topic)
        async with bench.connection.transaction():
            _, letters = await parked.claim()
            tried = await parked.retry(letters, producer, history, FREE)
        assert (tried.requeued, tried.unpriced) == (0, LETTERS_MAX)
        assert bench.topic in topics.values()


async def test_a_letter_is_as_old_as_the_rater_says_and_not_as_its_own_record(
    settings: Settings, topics: dict[str, str]
) -> None:
    """The copy of a letter that was requeued by hand dies again, for the time that it waited."""
    then = NOW - timedelta(days=40)
    old = usage("e1", model="", tokens={}, action="brand_new") | {"time": then.isoformat()}
    async with desk(settings) as bench, open_producer(settings, "tests") as producer:
        await bench.open()
        await bench.apply(old, appended_at=then)
        sent = [n async for n in requeue(bench.connection, producer, settings, Selection())]
        copied = await bench.apply(old, first=1)
        assert (sum(sent), dict(copied.dead)) == (1, {"unpriced": 1})
        await publish_counted(bench.connection, brand_new={"credits": "1"})
        parked = Parked(bench.connection, bench.topic)
        history = await load_history(bench.connection)
        async with bench.connection.transaction():
            _, letters = await parked.claim()
            tried = await parked.retry(letters, producer, history, FREE)
        assert (tried.requeued, tried.unpriced) == (1, 0)
        assert (await bench.apply(old, first=2)).charged == 1
        assert bench.topic in topics.values()
