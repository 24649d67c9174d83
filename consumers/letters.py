"""What a rater does with dead letters beside its batches: publishes them, and looks whether those
without a price have one now.
"""

import asyncio
import time

import structlog
from aiokafka import AIOKafkaProducer
from aiokafka.errors import KafkaError

from adapters.dead_letters import publish_pending
from adapters.failures import Failure
from adapters.metrics import Metrics
from adapters.parked import Parked
from adapters.postgres import TRANSIENT, Pool
from adapters.publishing import open_producer
from adapters.settings import Settings
from consumers.prices import Prices
from core.rating import AccountFacts
from schemas.topics import USAGE_EVENTS

log = structlog.get_logger()

LOOK_SECONDS = 1.0
COUNT_SECONDS = 5.0
# After 200 letters: at most 4,000 a second, so that usage that comes in meanwhile is not held up.
PAUSE_SECONDS = 0.05


class Letters:
    """One task's work; see the module. Several raters may do it at once."""

    def __init__(self, settings: Settings, pool: Pool, prices: Prices, metrics: Metrics) -> None:
        self._settings = settings
        self._pool = pool
        self._prices = prices
        self._metrics = metrics
        self._topic = settings.topic_prefix + USAGE_EVENTS.name
        self._new_facts = AccountFacts(settings.default_tier, settings.default_demo)
        self._count_at = 0.0

    async def run(self, client_id: str) -> None:
        """Until it is cancelled. Nothing that Kafka or PostgreSQL does ends it: letters wait.

        After any error the producer is made anew: an idempotent one stays wedged after a gap in
        its sequence (reliability notes, A42).
        """
        while True:
            try:
                async with open_producer(self._settings, client_id) as producer:
                    while True:
                        await self._publish(producer)
                        tried = await self._retry(producer)
                        await asyncio.sleep(PAUSE_SECONDS if tried else LOOK_SECONDS)
            except (Failure, KafkaError, *TRANSIENT) as error:
                log.warning("dead letters stay as they are", error=repr(error))
                await asyncio.sleep(LOOK_SECONDS)

    async def _publish(self, producer: AIOKafkaProducer) -> None:
        """At least once, in the order they were booked; a letter is pending until it is acked."""
        async with self._pool.acquire(timeout=10) as connection:
            while published := await publish_pending(connection, producer, self._settings):
                self._metrics.dead_letters_published(published)

    async def _retry(self, producer: AIOKafkaProducer) -> int:
        """One transaction's worth of parked letters; returns how many it looked at."""
        async with self._pool.acquire(timeout=10) as connection:
            async with connection.transaction():
                parked = Parked(connection, self._topic)
                version, letters = await parked.claim()
                if letters:
                    tried = await parked.retry(
                        letters,
                        producer,
                        await self._prices.up_to(version, connection),
                        self._new_facts,
                    )
            if letters:
                self._metrics.parked_requeued(tried.requeued)
                log.info("unpriced events tried again", price_version=version,
                         requeued=tried.requeued, still_unpriced=tried.unpriced)  # fmt: skip
            if letters or time.monotonic() > self._count_at:
                self._metrics.parked(await Parked(connection, self._topic).waiting())
                self._count_at = time.monotonic() + COUNT_SECONDS
        return len(letters)
