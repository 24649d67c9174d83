"""The clock: asks for each job once in its interval.

A message's id is the job and the beginning of the interval, as `refresh:2026-11-21T09:00Z`, so
that two clocks, or one that starts again, ask for the same runs.
"""

import asyncio
import logging
from collections.abc import Callable, Mapping
from datetime import UTC, datetime
from typing import Final

from aiokafka.errors import KafkaError

from producers.connection import Link, RawRecord, new_producer
from schemas.job_names import JobName
from schemas.jobs import encode_job, new_job, slot_key

log = logging.getLogger(__name__)

SOURCE: Final = "clock"
TICK_SECONDS: Final = 0.5
RETRY_SECONDS: Final = 2.0


class Clock:
    """Sends what is due until told to stop; `interval_seconds` names the jobs that it asks for.

    When Kafka is away, what is due is sent once it is back; of a job whose interval has passed
    meanwhile, only the present one.
    """

    def __init__(
        self,
        bootstrap_servers: str,
        topic: str,
        interval_seconds: Mapping[JobName, int],
        on_sent: Callable[[str], None] = lambda _key: None,
    ) -> None:
        self._link = Link(
            lambda: new_producer(bootstrap_servers, client_id="tollgate-clock"), topic
        )
        self._interval_seconds = interval_seconds
        self._on_sent = on_sent
        self._sent: dict[JobName, str] = {}
        self._stopping = asyncio.Event()

    def stop(self) -> None:
        """Ends the clock after what is being sent."""
        self._stopping.set()

    async def run(self) -> None:
        """Ticks until `stop`."""
        try:
            while not self._stopping.is_set():
                await self._pause(await self.tick(datetime.now(UTC)))
        finally:
            await self._link.close(wait_seconds=5.0)

    async def tick(self, now: datetime) -> float:
        """Sends what is due at a moment and was not sent yet; returns the seconds to wait."""
        due = {
            name: slot_key(name, seconds, now) for name, seconds in self._interval_seconds.items()
        }
        for name, key in due.items():
            if self._sent.get(name) == key:
                continue
            records: list[RawRecord] = [
                (name.encode(), encode_job(new_job(name, key, SOURCE, now)))
            ]
            try:
                await self._link.send(records)
            except (KafkaError, OSError, TimeoutError) as error:
                log.warning("%s was not sent, again in %s s: %r", key, RETRY_SECONDS, error)
                return RETRY_SECONDS
            self._sent[name] = key
            self._on_sent(key)
        return TICK_SECONDS

    async def _pause(self, seconds: float) -> None:
        try:
            await asyncio.wait_for(self._stopping.wait(), seconds)
        except TimeoutError:
            return
