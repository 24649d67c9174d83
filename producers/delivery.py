"""Delivery: what runs in the client's background thread, between the buffer and Kafka.

One batch at a time, every acknowledgement awaited. On any error the producer is closed and made
anew and what was not acknowledged is sent again, for ever: duplicates have the same id and are
charged once. With a spill, events go to disk while Kafka is away, oldest first in and out.
"""

import asyncio
import contextlib
import logging
import random
import time
from dataclasses import dataclass, field
from typing import Final

from aiokafka.errors import MessageSizeTooLargeError

from producers.buffer import Buffer, Record
from producers.connection import Link
from producers.notices import Notices
from producers.spill import Segment, Spill
from producers.stats import Cause, Tally, Undelivered

BATCH_RECORDS_MAX: Final = 2_000
# How often the thread looks for events: soon after the last ones, seldom when the app is idle.
LOOK_SECONDS_MIN: Final = 0.005
LOOK_SECONDS_MAX: Final = 0.05
BACK_OFF_SECONDS_MIN: Final = 0.1
BACK_OFF_SECONDS_MAX: Final = 5.0
# A batch in flight for longer is copied to the spill: the app may die before Kafka is back.
SPILL_AFTER_SECONDS: Final = 2.0
SPILL_EVERY_SECONDS: Final = 0.1

log = logging.getLogger("tollgate.producers")


@dataclass(slots=True)
class Batch:
    """Records on their way; those of a segment stay on disk until all are acknowledged."""

    records: list[Record]
    segment: Segment | None = None
    alone: bool = False
    """send one by one, to find the record that is too large"""
    copied: bool = False
    """the spill has its own copy and answers for it from now on"""
    taken_at: float = field(default_factory=time.monotonic)


class Delivery:
    """Moves events from the buffer to Kafka until it is stopped; trouble is retried, not raised."""

    def __init__(
        self,
        link: Link,
        *,
        buffer: Buffer,
        tally: Tally,
        spill: Spill | None,
        notices: Notices,
    ) -> None:
        self._link = link
        self._buffer = buffer
        self._tally = tally
        self._spill = spill
        self._notices = notices
        self._batch: Batch | None = None
        self._away = False
        self._stop = asyncio.Event()
        self._stop_seconds = 0.0

    def stop(self, flush_seconds: float) -> None:
        """Ends `run` after everything is delivered, or after the time; called in the loop."""
        self._stop_seconds = flush_seconds
        self._stop.set()

    async def run(self) -> None:
        """Delivers until stopped. Then what is undelivered goes to the spill, or counts as failed.

        Whatever the end, nothing is left uncounted.
        """
        tasks = [asyncio.create_task(self._deliver_forever())]
        if self._spill is not None:
            self._tally.move(recovered=self._spill.events, spilled=self._spill.events)
            tasks.append(asyncio.create_task(self._spill_forever(self._spill)))
        await self._stop.wait()
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(self._stop_seconds):
                await self._drained()
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
        self._leave_behind()
        await self._link.close(wait_seconds=0.5 if self._away else 2.0)
        self._notices.pass_on()

    async def _deliver_forever(self) -> None:
        back_off_seconds = BACK_OFF_SECONDS_MIN
        look_seconds = LOOK_SECONDS_MIN
        while True:
            batch = self._batch = self._batch or self._next()
            if batch is None:
                await asyncio.sleep(look_seconds)
                look_seconds = min(2 * look_seconds, LOOK_SECONDS_MAX)
                continue
            look_seconds = LOOK_SECONDS_MIN
            try:
                await self._send(batch)
            except MessageSizeTooLargeError as error:
                if batch.alone:
                    self._give_up(batch, str(error))
                batch.alone = True
            except Exception as error:  # noqa: BLE001 - every trouble has one answer: again
                self._gone(error)
                await asyncio.sleep(back_off_seconds * random.uniform(0.5, 1.0))  # noqa: S311
                back_off_seconds = min(2 * back_off_seconds, BACK_OFF_SECONDS_MAX)
            else:
                back_off_seconds = BACK_OFF_SECONDS_MIN
                self._back()
            if batch.copied or not batch.records:
                self._done(batch)

    def _next(self) -> Batch | None:
        segment = self._spill.oldest() if self._spill else None
        if segment is not None:
            return Batch(segment.records(), segment)
        records = self._buffer.take(BATCH_RECORDS_MAX)
        return Batch(records) if records else None

    def _done(self, batch: Batch) -> None:
        if self._spill is not None and batch.segment is not None:
            self._spill.remove(batch.segment)
        self._batch = None

    async def _send(self, batch: Batch) -> None:
        while batch.records and not batch.copied:
            some = batch.records[: 1 if batch.alone else BATCH_RECORDS_MAX]
            count = len(some)
            try:
                await self._link.send(some)
            finally:
                if not batch.copied:
                    batch.records[:count] = some
                    self._count(batch, "delivered", count - len(some))

    def _give_up(self, batch: Batch, detail: str) -> None:
        key, value = batch.records.pop(0)
        self._count(batch, "failed", 1)
        self._notices.tell(Undelivered(Cause.FAILED, detail, key.decode(), "", value))

    def _count(self, batch: Batch, outcome: str, events: int) -> None:
        place = "buffered" if batch.segment is None else "spilled"
        self._tally.move(**{outcome: events, place: -events})

    def _gone(self, error: Exception) -> None:
        if not self._away:
            log.warning("Kafka takes no usage events, trying again: %r", error)
        self._away = True

    def _back(self) -> None:
        if self._away:
            log.info("Kafka takes usage events again")
        self._away = False

    async def _spill_forever(self, spill: Spill) -> None:
        while True:
            await asyncio.sleep(SPILL_EVERY_SECONDS)
            batch = self._batch
            late = batch is not None and time.monotonic() - batch.taken_at > SPILL_AFTER_SECONDS
            if self._away or late or spill.events or self._buffer.half_full:
                self._move_to(spill)

    def _move_to(self, spill: Spill) -> None:
        """Everything in memory goes to disk in order, as far as there is room."""
        try:
            if not self._copy_batch(spill):
                return
            while records := self._buffer.take(BATCH_RECORDS_MAX):
                stored = 0
                try:
                    stored = spill.append(records)
                finally:
                    self._buffer.put_back(records[stored:])
                    self._tally.move(buffered=-stored, spilled=stored)
                if stored < len(records):
                    return
        except OSError as error:
            if not self._away:
                log.warning("the spill cannot be written: %s", error)

    def _copy_batch(self, spill: Spill) -> bool:
        """True when nothing in flight is older than what may be spilled next."""
        batch = self._batch
        if batch is None or batch.segment is not None or batch.copied or not batch.records:
            return True
        if not spill.fits(batch.records):
            return False
        spill.append(batch.records)
        batch.copied = True
        self._tally.move(buffered=-len(batch.records), spilled=len(batch.records))
        return True

    async def _drained(self) -> None:
        while self._batch is not None or self._buffer or (self._spill and self._spill.events):
            if self._away and self._spill and not self._buffer:
                return  # it is safe on disk, and nobody waits for an absent Kafka at exit
            await asyncio.sleep(0.005)

    def _leave_behind(self) -> None:
        if self._spill is not None:
            self._move_to(self._spill)
            self._spill.close()
        batch = self._batch
        left = [] if batch is None or batch.segment or batch.copied else batch.records
        left += self._buffer.take(len(self._buffer))
        for key, value in left:
            detail = "closed before Kafka acknowledged it"
            self._notices.tell(Undelivered(Cause.FAILED, detail, key.decode(), "", value))
        self._tally.move(failed=len(left), buffered=-len(left))
