"""Reading a stretch of the topic for a run: the events as they were published.

What was charged is compared with the ledger by the place of its record, so each charge counts
once, wherever its duplicates are. Beside the charges there are the events that wait for a price.
Nothing is read beyond what the raters have applied: what comes after has no charge to compare with.
"""

from collections.abc import AsyncIterator, Mapping, Sequence
from datetime import datetime, timedelta
from typing import Any

from aiokafka import AIOKafkaConsumer, ConsumerRecord

from adapters.failures import Failure
from adapters.postgres import Connection
from adapters.replay_log import Bounds, Stretch, plan, read_stretches
from adapters.replay_log import Chunk as Polled
from adapters.rerate_ledger import Chunk, item_of, latest_after
from adapters.rerate_runs import SQL, Position, Run
from adapters.settings import Settings
from adapters.topics import offsets
from core.rating import AccountFacts
from core.recorded import Row, facts_of
from core.rerating import Item
from schemas.events import ANY_TIME, Rejected, TimeWindow, UsageEvent, decode
from schemas.topics import USAGE_EVENTS

Place = tuple[int, int]


async def find_extent(
    connection: Connection,
    consumer: AIOKafkaConsumer,
    settings: Settings,
    since: datetime,
    until: datetime,
) -> dict[str, Any] | None:
    """The offsets by partition that can hold the events of the stretch; None: there are none.

    `gone` are the partitions whose beginning is deleted by retention, so that events of the stretch
    may be missing. Raises Failure when the topic is missing or Kafka does not answer.
    """
    topic = settings.topic_prefix + USAGE_EVENTS.name
    rows = await connection.fetch(SQL.stream_positions, topic)
    epochs = {row["epoch"] for row in rows}
    if not rows:
        return None
    if len(epochs) > 1:
        raise Failure(f"{topic}: its partitions are in several epochs; a rater says what to do")
    applied = {row["partition"]: row["next_offset"] for row in rows}
    first = {row["partition"]: row["first_offset"] for row in rows}
    ahead = timedelta(milliseconds=TimeWindow().ahead_ms_max)
    late = await latest_after(connection, settings)
    bounds = Bounds(since=since - ahead, until=until + late)
    parts: dict[str, list[int]] = {}
    for stretch in await plan(settings, consumer, topic, bounds):
        to_offset = min(stretch.to_offset, applied.get(stretch.partition, 0))
        if stretch.from_offset < to_offset:
            parts[str(stretch.partition)] = [stretch.from_offset, to_offset]
    gone = [
        partition
        for partition, (beginning, _) in (await offsets(settings, topic)).items()
        if str(partition) in parts
        and parts[str(partition)][0] == beginning > first.get(partition, 0)
    ]
    if not parts:
        return None
    return {"epoch": epochs.pop(), "parts": parts, "gone": sorted(gone)}


def begin(extent: Mapping[str, Any]) -> Position:
    """Before the first record of each partition."""
    return {partition: bounds[0] for partition, bounds in extent["parts"].items()}


def steps_of(extent: Mapping[str, Any]) -> int:
    """How many records the whole extent is."""
    return sum(to_offset - from_offset for from_offset, to_offset in extent["parts"].values())


async def chunks(
    connection: Connection, consumer: AIOKafkaConsumer, settings: Settings, run: Run
) -> AsyncIterator[Chunk]:
    """The events of the run from its position on, each partition in its order.

    Raises Failure when Kafka does not go on.
    """
    topic = settings.topic_prefix + USAGE_EVENTS.name
    stretches = [
        Stretch(int(partition), bounds[0], bounds[1], run.position[partition])
        for partition, bounds in run.extent["parts"].items()
    ]
    position = dict(run.position)
    new_facts = AccountFacts(settings.default_tier, settings.default_demo)
    async for polled in read_stretches(consumer, topic, stretches):
        spans = {
            partition: (position[str(partition)], next_offset)
            for partition, next_offset in polled.next_offsets.items()
        }
        items = await _items(connection, run, topic, polled, spans, new_facts)
        position = position | {str(part): to_offset for part, (_, to_offset) in spans.items()}
        steps = sum(to_offset - from_offset for from_offset, to_offset in spans.values())
        yield Chunk(items, position, steps)


async def _items(
    connection: Connection,
    run: Run,
    topic: str,
    polled: Polled,
    spans: Mapping[int, tuple[int, int]],
    new_facts: AccountFacts,
) -> list[Item]:
    epoch = run.extent["epoch"]
    parts = list(spans)
    from_offsets = [span[0] for span in spans.values()]
    to_offsets = [span[1] for span in spans.values()]
    rows = await connection.fetch(
        SQL.charges_at, [epoch] * len(parts), parts, from_offsets, to_offsets,
        run.since, run.until, run.account_ids,
    )  # fmt: skip
    charged: dict[Place, Row] = {(row["partition"], row["offset"]): row for row in rows}
    letters = await connection.fetch(
        SQL.waiting_letters, topic, epoch, parts, from_offsets, to_offsets, run.account_ids
    )
    waiting = {(letter["partition"], letter["offset"]) for letter in letters}
    items = []
    uncharged: list[UsageEvent] = []
    for record in polled.records:
        place = (record.partition, record.offset)
        row = charged.get(place)
        if row is not None:
            items.append(_charged(record, row))
        elif place in waiting:
            event = _decoded(record)
            if isinstance(event, UsageEvent) and run.since <= event.time < run.until:
                uncharged.append(event)
    return items + await _uncharged(connection, uncharged, new_facts)


def _charged(record: ConsumerRecord, row: Row) -> Item:
    """The event as it was published, unless a correction says what is right instead."""
    event = _decoded(record)
    if row["sequence"] or isinstance(event, Rejected):
        return item_of(row)
    return Item(event, facts_of(row), row)


def _decoded(record: ConsumerRecord) -> UsageEvent | Rejected:
    return decode(record.value, record.key, record.timestamp, ANY_TIME)


async def _uncharged(
    connection: Connection, events: Sequence[UsageEvent], new_facts: AccountFacts
) -> list[Item]:
    if not events:
        return []
    account_ids = sorted({event.subject for event in events})
    rows = await connection.fetch(SQL.facts_of_accounts, account_ids)
    facts = {row["account_id"]: AccountFacts(row["tier"], row["demo"]) for row in rows}
    return [Item(event, facts.get(event.subject, new_facts), None) for event in events]
