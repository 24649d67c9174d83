"""How far each stage is behind, from Kafka's ends and PostgreSQL's positions."""

from dataclasses import dataclass
from datetime import datetime

from adapters.failures import Failure
from adapters.postgres import Connection
from adapters.queries import load
from adapters.settings import Settings
from adapters.topics import offsets
from schemas.topics import USAGE_EVENTS

SQL = load("lag")


@dataclass(frozen=True, slots=True)
class PartitionLag:
    """One partition: what Kafka holds and what was applied.

    `position` and `epoch` are None for a partition that no rater has ever had. `lag` is negative
    when the topic is not the one that was applied: the rater halts on it.
    """

    partition: int
    first_offset: int
    end_offset: int
    position: int | None
    epoch: int | None
    moved_at: datetime | None
    lag: int


@dataclass(frozen=True, slots=True)
class StreamLag:
    """Rows of a ledger stream that are not in ClickHouse, and the age of the oldest of them."""

    waiting: int
    behind_seconds: float


@dataclass(frozen=True, slots=True)
class Lag:
    """Everything that waits, at one moment."""

    topic: str
    partitions: tuple[PartitionLag, ...]
    charges: StreamLag
    credit_transactions: StreamLag
    corrections: StreamLag
    dead_letters_unpublished: int
    parked: int

    @property
    def records(self) -> int:
        """Records of the topic that wait for the rater, over all partitions."""
        return sum(max(0, part.lag) for part in self.partitions)


async def read_lag(connection: Connection, settings: Settings) -> Lag:
    """Asks Kafka and PostgreSQL, Kafka first: a lag can be a little too small, never too large.

    Raises Failure when the topic is missing or Kafka does not answer.
    """
    topic = settings.topic_prefix + USAGE_EVENTS.name
    log = await offsets(settings, topic)
    if not log:
        raise Failure(f"topic {topic} does not exist: run `tollgate migrate`")
    stands = {row["partition"]: row for row in await connection.fetch(SQL.read_stands, topic)}
    partitions = []
    for partition in sorted(log.keys() | stands.keys()):
        beginning, end = log.get(partition, (0, 0))
        stand = stands.get(partition)
        position = None if stand is None else stand["next_offset"]
        partitions.append(
            PartitionLag(
                partition=partition,
                first_offset=beginning,
                end_offset=end,
                position=position,
                epoch=None if stand is None else stand["epoch"],
                moved_at=None if stand is None else stand["updated_at"],
                lag=end - (beginning if position is None else position),
            )
        )
    charges = await connection.fetchrow(SQL.count_unshipped, topic)
    credit_rows = await connection.fetchrow(SQL.count_unshipped_credits)
    corrections = await connection.fetchrow(SQL.count_unshipped_corrections)
    unpublished = await connection.fetchval(SQL.count_unpublished)
    parked = await connection.fetchval(SQL.count_parked)
    return Lag(
        topic,
        tuple(partitions),
        StreamLag(**dict(charges or {})),
        StreamLag(**dict(credit_rows or {})),
        StreamLag(**dict(corrections or {})),
        unpublished,
        parked,
    )
