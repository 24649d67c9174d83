"""The next epoch of a stream: how it goes on after its topic was made anew or lost records.

An epoch is one life of a topic. Offsets mean something only within one, so a topic that was made
anew starts at its beginning in a new epoch, and what was charged before stays charged.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from enum import StrEnum
from typing import Any

from aiokafka import TopicPartition

from adapters.failures import Failure, Halt
from adapters.kafka import LastRecords, check_log
from adapters.ledger import Position
from adapters.postgres import Connection
from adapters.queries import load
from adapters.settings import Settings
from adapters.topics import offsets

SQL = load("streams")


class Finding(StrEnum):
    """What the rater would find in a partition: the same checks decide here and there."""

    CONTINUES = "continues"
    REMADE = "epoch"
    GAP = "gap"


@dataclass(frozen=True, slots=True)
class Start:
    """One partition: where it stood, what was found, and where the new epoch goes on.

    `records_lost` counts offsets between the old position and the log's beginning that can not be
    read any more; 0 where the topic was made anew, because those were other records.
    """

    partition: int
    old: Position
    finding: Finding
    next_offset: int
    records_lost: int


@dataclass(frozen=True, slots=True)
class NextEpoch:
    """What accepting would do to a topic; `epoch` is the number of the new one."""

    topic: str
    epoch: int
    starts: tuple[Start, ...]

    @property
    def needed(self) -> bool:
        """False when every partition simply continues: the rater does not halt on it."""
        return any(start.finding is not Finding.CONTINUES for start in self.starts)


async def plan_epoch(
    connection: Connection, settings: Settings, topic: str, *, remade: bool
) -> NextEpoch:
    """Looks at every partition as the rater does; changes nothing.

    One partition of another log means that the whole topic was made anew: all partitions go on at
    their beginning. `remade` says so where the records that would show it are gone. Raises Failure
    when the topic is missing or was never applied.
    """
    positions = _positions(await connection.fetch(SQL.read_positions, topic))
    log = await offsets(settings, topic)
    if not log:
        raise Failure(f"topic {topic} does not exist: run `tollgate migrate`")
    if not positions:
        raise Failure(f"nothing of {topic} was ever applied: there is no epoch to end")
    checker = LastRecords(settings, topic)
    found = {
        partition: await _look(checker, TopicPartition(topic, partition), position, log)
        for partition, position in positions.items()
    }
    if remade or Finding.REMADE in found.values():
        found = dict.fromkeys(found, Finding.REMADE)
    starts = [
        _start(partition, position, found[partition], log.get(partition, (0, 0))[0])
        for partition, position in positions.items()
    ]
    epoch = max(position.epoch for position in positions.values()) + 1
    return NextEpoch(topic, epoch, tuple(starts))


async def accept_epoch(connection: Connection, planned: NextEpoch) -> None:
    """Enters the new epoch, all partitions in one transaction.

    Raises Failure when a position moved since the plan was made; nothing is changed then.
    """
    async with connection.transaction():
        positions = _positions(await connection.fetch(SQL.lock_positions, planned.topic))
        if positions != {start.partition: start.old for start in planned.starts}:
            raise Failure(f"{planned.topic} moved meanwhile: stop the raters and look again")
        await connection.execute(
            SQL.begin_epoch,
            planned.topic,
            planned.epoch,
            [start.partition for start in planned.starts],
            [start.next_offset for start in planned.starts],
        )


async def _look(
    checker: LastRecords, place: TopicPartition, position: Position, log: dict[int, tuple[int, int]]
) -> Finding:
    if place.partition not in log:
        return Finding.REMADE
    try:
        check_log(place, position, *log[place.partition])
        await checker.check({place.partition: position})
    except Halt as halt:
        return Finding(halt.reason)
    return Finding.CONTINUES


def _start(partition: int, old: Position, finding: Finding, beginning: int) -> Start:
    if finding is Finding.CONTINUES:
        return Start(partition, old, finding, old.next_offset, 0)
    lost = max(0, beginning - old.next_offset) if finding is Finding.GAP else 0
    return Start(partition, old, finding, beginning, lost)


def _positions(rows: Sequence[Mapping[str, Any]]) -> dict[int, Position]:
    return {
        row["partition"]: Position(
            row["epoch"], row["next_offset"], row["first_offset"], row["last_digest"]
        )
        for row in rows
    }
