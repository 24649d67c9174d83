"""From the records of a batch to events and dead letters, before any transaction."""

import asyncio
from collections.abc import Iterable, Sequence
from dataclasses import replace
from typing import TypeVar

from aiokafka import ConsumerRecord

from adapters.bounded_records import Oversized, Undecompressed
from adapters.ledger import Ledger
from adapters.settings import Settings
from core.batch import Dead, Entry, SourceRecord, read, read_again
from schemas.events import VALUE_BYTES_MAX, Reason, Rejected, TimeWindow
from schemas.usage import priced_as

Item = TypeVar("Item")

CHUNK_RECORDS = 500
_DAY_MS = 86_400_000
_ANY_AGE_MS = 10**15
_REFUSED = "PostgreSQL refuses this record; see the log of the rater"
_BOMB = Rejected(Reason.TOO_LARGE, "its compressed batch grows beyond 8 MiB", None, None)


def time_window(settings: Settings) -> TimeWindow:
    """How old an event may be when it is appended."""
    return TimeWindow(age_ms_max=settings.event_age_days_max * _DAY_MS)


class Reader:
    """Decodes records in chunks, between which the event loop turns."""

    def __init__(self, ledger: Ledger, window: TimeWindow) -> None:
        self._ledger = ledger
        self._window = window
        self._any_age = replace(window, age_ms_max=_ANY_AGE_MS)

    async def read(self, records: Sequence[ConsumerRecord]) -> tuple[list[Entry], list[Dead]]:
        """Every record in one of two lists, each in the order of the argument."""
        entries: list[Entry] = []
        dead = [Dead(record, _too_large(record)) for record in records if _is_too_large(record)]
        if dead:
            records = [record for record in records if not _is_too_large(record)]
        for chunk in chunks(records):
            some_entries, some_dead = read(chunk, self._window)
            entries += some_entries
            dead += some_dead
            await asyncio.sleep(0)
        old = [item for item in dead if item.rejected.reason is Reason.TOO_OLD]
        if old:
            saved = await self._read_old(old)
            order = {_place(record): n for n, record in enumerate(records)}
            entries = sorted([*entries, *saved], key=lambda entry: order[_place(entry.record)])
            kept = {_place(entry.record) for entry in saved}
            dead = [item for item in dead if _place(item.record) not in kept]
        return entries, dead

    def refuse(self, records: Iterable[ConsumerRecord]) -> list[Dead]:
        """What PostgreSQL refused as dead letters, with account and event where those are known."""
        return [Dead(record, self._refused(record)) for record in records]

    def _refused(self, record: ConsumerRecord) -> Rejected:
        found = None if _is_too_large(record) else read_again(record, None, self._any_age)
        if not isinstance(found, Entry):
            return Rejected(Reason.UNPROCESSABLE, _REFUSED, None, None)
        event = found.event
        usage = priced_as(event.data)
        return Rejected(Reason.UNPROCESSABLE, _REFUSED, event.subject, event.id, usage)

    async def _read_old(self, old: Sequence[Dead]) -> list[Entry]:
        """Those that are only late copies: of a charged event, or of an earlier dead letter.

        A parked, requeued or replayed record is appended anew; it is as old as it was at first.
        """
        saved: list[Entry] = []
        for chunk in chunks(old):
            for item, seen in zip(chunk, await self._ledger.first_seen(chunk), strict=True):
                if seen.charged:
                    again = read_again(item.record, None, self._any_age)
                elif seen.appended_at is not None:
                    again = read_again(item.record, seen.appended_at, self._window)
                else:
                    continue
                if isinstance(again, Entry):
                    saved.append(again)
        return saved


def chunks(items: Sequence[Item]) -> Iterable[Sequence[Item]]:
    """Parts small enough for the event loop to wait for one of them."""
    return (items[start : start + CHUNK_RECORDS] for start in range(0, len(items), CHUNK_RECORDS))


def _place(record: SourceRecord) -> tuple[int, int]:
    return record.partition, record.offset


def _is_too_large(record: ConsumerRecord) -> bool:
    return isinstance(record, Undecompressed | Oversized)


def _too_large(record: ConsumerRecord) -> Rejected:
    if isinstance(record, Oversized):
        detail = f"{record.value_bytes} bytes are more than {VALUE_BYTES_MAX}"
        return Rejected(Reason.TOO_LARGE, detail, None, None)
    return _BOMB
