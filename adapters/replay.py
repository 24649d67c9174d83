"""A replay: a stretch of a topic once more into usage.events, what the ledger lacks or everything.

It decides nothing about credits: the raters do, and each (account, event id) is charged once. So a
replay may be broken off, repeated, or run beside others; at worst it sends duplicates.
"""

import asyncio
import time
from collections import Counter
from collections.abc import AsyncIterator, Mapping, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass
from enum import StrEnum
from pathlib import Path

from aiokafka import AIOKafkaConsumer, AIOKafkaProducer
from aiokafka.errors import KafkaError

from adapters.dead_letters import SQL as LETTERS_SQL
from adapters.failures import Failure
from adapters.postgres import Connection
from adapters.publishing import open_producer
from adapters.replay_log import (
    CHUNK_RECORDS,
    Bounds,
    Chunk,
    Stretch,
    open_log,
    plan,
    read_stretches,
)
from adapters.replay_proof import Outcome, begin, conclude, read_positions, settle
from adapters.replay_records import Standpoint, Surveyor, original_in_letter, original_of
from adapters.replay_state import State, load_state, save_state
from adapters.settings import Settings
from adapters.topics import offsets
from core.replaying import Standing, is_sent
from schemas.events import VALUE_BYTES_MAX, TimeWindow
from schemas.topics import USAGE_DEAD, USAGE_EVENTS

OUTSTANDING_RECORDS_MAX = 100_000  # sent and not applied, while a replay waits for the raters
LOOK_SECONDS = 0.2
STALLED_SECONDS_MAX = 60.0
BATCH_BYTES_MAX = 128 * 1024
_SLICES_PER_SECOND = 5
_DAY_MS = 86_400_000


class Source(StrEnum):
    """The topics that hold usage events in their original bytes."""

    EVENTS = USAGE_EVENTS.name
    DEAD = USAGE_DEAD.name


@dataclass(frozen=True, slots=True)
class Request:
    """What is to be replayed, and how; `asked` is the same in words, to know it again by."""

    asked: dict[str, str]
    bounds: Bounds
    source: Source = Source.EVENTS
    everything: bool = False
    dry_run: bool = False
    wait: bool = False
    rate_per_second: int | None = None
    state_path: Path | None = None


class Replay:
    """One run; `open_replay` makes it. Drive `catch_up`, `run` and `finish`, in this order."""

    def __init__(
        self, settings: Settings, connection: Connection, request: Request, state: State
    ) -> None:
        self.request = request
        self.state = state
        self._settings = settings
        self._connection = connection
        self._events = settings.topic_prefix + USAGE_EVENTS.name
        self._read_topic = settings.topic_prefix + request.source.value

    async def catch_up(self) -> AsyncIterator[int]:
        """Waits until the raters have applied what is in usage.events now; yields what is left.

        Then notes where the ledger stands, which `finish` compares with. Only for a replay that
        waits. Raises Failure when the raters do not move for a minute.
        """
        if not self.request.wait or self.state.proof is not None:
            return
        ends = {part: end for part, (_, end) in (await self._log()).items()}
        patience = _Patience()
        while waiting := await self._unapplied(ends):
            yield patience.look(waiting)
            await asyncio.sleep(LOOK_SECONDS)
        self.state.proof = await begin(self._connection, self._events)

    async def run(self, consumer: AIOKafkaConsumer) -> AsyncIterator[int]:
        """Reads, compares, sends; yields how many offsets were dealt with, chunk by chunk.

        A chunk is dealt with when all replicas acknowledged what was sent of it. Raises Failure
        when Kafka does not acknowledge: the state stands at the chunk before.
        """
        if not self.state.left:
            return
        surveyor = await self._surveyor()
        stretches = self.state.stretches
        if self.request.dry_run:
            async for chunk in read_stretches(consumer, self._read_topic, stretches):
                self._choose(await self._look(surveyor, chunk))
                yield self._advance(chunk)
            return
        # Before anything is sent: a run after a crash must not take what this one sent for its own.
        self._save()
        # A slow replay takes a second's worth at a time: no more is sent again after a crash.
        records_max = min(CHUNK_RECORDS, self.request.rate_per_second or CHUNK_RECORDS)
        async with open_producer(self._settings, "replay", BATCH_BYTES_MAX) as producer:
            pace = _Pace(self.request.rate_per_second)
            async for chunk in read_stretches(consumer, self._read_topic, stretches, records_max):
                chosen = self._choose(await self._look(surveyor, chunk))
                await self._send(producer, chosen, pace)
                await self._mark(chosen)
                done = self._advance(chunk)
                self._save()
                yield done
                await self._hold_back()

    async def finish(self) -> AsyncIterator[int]:
        """Waits until the raters have applied all that was sent; yields what is left."""
        proof = self.state.proof
        if proof is None:
            return
        patience = _Patience()
        while True:
            await settle(self._connection, self._events, proof)
            self._save()
            if not proof.waiting:
                return
            yield patience.look(proof.waiting)
            await asyncio.sleep(LOOK_SECONDS)

    async def outcome(self) -> Outcome | None:
        """What became of it; None for a replay that did not wait."""
        if self.state.proof is None:
            return None
        return await conclude(self._connection, self._events, self.state.proof)

    async def _log(self) -> dict[int, tuple[int, int]]:
        return await offsets(self._settings, self._events)

    async def _unapplied(self, ends: Mapping[int, int]) -> int:
        positions = await read_positions(self._connection, self._events)
        stands = {part: position.next_offset for part, position in positions.items()}
        return sum(max(0, end - stands.get(part, 0)) for part, end in ends.items())

    async def _surveyor(self) -> Surveyor:
        window = TimeWindow(age_ms_max=self._settings.event_age_days_max * _DAY_MS)
        positions = await read_positions(self._connection, self._events)
        return Surveyor(self._connection, self._events, window, positions)

    async def _look(self, surveyor: Surveyor, chunk: Chunk) -> list[Standpoint]:
        tally = self.state.tally
        original = original_of if self.request.source is Source.EVENTS else original_in_letter
        originals = [original(record) for record in chunk.records]
        whole = [each for each in originals if each is not None]
        if len(whole) < len(originals):
            tally.saw(Standing.CUT, len(originals) - len(whole))
        found = await surveyor.survey(whole)
        for standing, count in Counter(each.standing for each in found).items():
            tally.saw(standing, count)
        tally.could_not_read(Counter(each.reason.value for each in found if each.reason))
        return found

    def _choose(self, found: Sequence[Standpoint]) -> list[Standpoint]:
        """What is sent of a chunk; without `everything` one copy of each event."""
        tally, everything = self.state.tally, self.request.everything
        chosen: list[Standpoint] = []
        seen: set[tuple[str, str] | None] = set()
        for each in found:
            if not is_sent(each.standing, everything=everything):
                continue
            if each.too_late:
                tally.held_back += 1
            elif each.identity in seen and not everything:
                tally.repeated += 1
            else:
                seen.add(each.identity)
                chosen.append(each)
        tally.to_send += len(chosen)
        return chosen

    async def _send(
        self, producer: AIOKafkaProducer, chosen: Sequence[Standpoint], pace: "_Pace"
    ) -> None:
        for start in range(0, len(chosen), pace.slice_records):
            part = chosen[start : start + pace.slice_records]
            try:
                acks = [
                    await producer.send(
                        self._events,
                        key=each.original.key,
                        value=each.original.value,
                        headers=list(each.original.headers),
                    )
                    for each in part
                ]
                places = await asyncio.gather(*acks)
            except KafkaError as error:
                raise Failure(
                    f"{self._events} did not acknowledge ({type(error).__name__}): run the same "
                    "command again"
                ) from None
            if self.state.proof is not None:
                self.state.proof.sent((place.partition, place.offset) for place in places)
            self.state.tally.sent += len(part)
            await pace.sent(len(part))

    async def _mark(self, chosen: Sequence[Standpoint]) -> None:
        """After the acknowledgement, so that a crash between sends a letter twice, never not."""
        again = {Standing.DEAD, Standing.PARKED}
        ids = [each.letter_id for each in chosen if each.standing in again]
        if ids:
            await self._connection.execute(LETTERS_SQL.mark_requeued, ids)

    def _advance(self, chunk: Chunk) -> int:
        for gap in chunk.gaps:
            self.state.tally.gap(gap)
        done = 0
        for stretch in self.state.stretches:
            reached = chunk.next_offsets.get(stretch.partition, stretch.next_offset)
            done += reached - stretch.next_offset
            stretch.next_offset = reached
        return done

    def _save(self) -> None:
        if self.request.state_path is not None:
            save_state(self.request.state_path, self.state)

    async def _hold_back(self) -> None:
        """A replay that will look at every record it sent keeps no more than so many in mind."""
        proof = self.state.proof
        if proof is None:
            return
        patience = _Patience()
        while proof.waiting > OUTSTANDING_RECORDS_MAX:
            await settle(self._connection, self._events, proof)
            patience.look(proof.waiting)
            await asyncio.sleep(LOOK_SECONDS)


@asynccontextmanager
async def open_replay(
    settings: Settings, connection: Connection, request: Request
) -> AsyncIterator[tuple[Replay, AIOKafkaConsumer]]:
    """Plans the replay, or takes up the one that the state file keeps.

    Raises Failure when the topic or a partition is missing, or the file is of another replay.
    """
    topic = settings.topic_prefix + request.source.value
    # A letter holds its record as base64 and more.
    bytes_max = VALUE_BYTES_MAX if request.source is Source.EVENTS else USAGE_DEAD.max_message_bytes
    path = request.state_path
    state = None if path is None else load_state(path, request.asked)
    async with open_log(settings, bytes_max) as consumer:
        if state is None:
            stretches: list[Stretch] = await plan(settings, consumer, topic, request.bounds)
            state = State(request.asked, stretches)
        yield Replay(settings, connection, request, state), consumer


class _Pace:
    """Sends no faster than asked for, in slices small enough to be even."""

    def __init__(self, rate_per_second: int | None) -> None:
        self._rate = rate_per_second
        self._began = time.monotonic()
        self._sent = 0
        self.slice_records = CHUNK_RECORDS
        if rate_per_second is not None:
            wanted = max(1, rate_per_second // _SLICES_PER_SECOND)
            self.slice_records = min(CHUNK_RECORDS, wanted)

    async def sent(self, records: int) -> None:
        """Waits until the next slice may go."""
        if self._rate is None:
            return
        self._sent += records
        due = self._began + self._sent / self._rate
        await asyncio.sleep(max(0.0, due - time.monotonic()))


class _Patience:
    """Gives up on raters that do not move for a minute."""

    def __init__(self) -> None:
        self._left: int | None = None
        self._moved_at = time.monotonic()

    def look(self, left: int) -> int:
        """Returns what is left; raises Failure when it has been the same for too long."""
        now = time.monotonic()
        if left != self._left:
            self._left, self._moved_at = left, now
        elif now - self._moved_at > STALLED_SECONDS_MAX:
            raise Failure(
                f"the raters do not move: {left:,} records wait. Is `tollgate run rater` running?"
            )
        return left
