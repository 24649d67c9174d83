"""Hands batches of records straight to a rater on real PostgreSQL, as the batch loop would."""

import json
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any

import asyncpg
from aiokafka import ConsumerRecord, TopicPartition

from adapters.ledger import Ledger
from adapters.metrics import BatchFigures
from adapters.postgres import open_pool
from adapters.settings import Settings
from consumers.prices import Prices
from consumers.rater import Rater
from schemas.topics import USAGE_EVENTS

NOW = datetime.now(UTC).replace(microsecond=0)


def usage(event_id: str, account_id: str = "acct", **data: Any) -> dict[str, Any]:
    """A usage event: by default 1,000 input tokens of gpt-4o, 3,750 micro-credits on tier free."""
    priced = {"provider": "openai", "model": "gpt-4o", "tokens": {"input": 1000}}
    return {
        "specversion": "1.0",
        "id": event_id,
        "source": "tests",
        "type": "tollgate.usage.v1",
        "subject": account_id,
        "time": NOW.isoformat().replace("+00:00", "Z"),
        "data": priced | data,
    }


@dataclass
class Desk:
    """One rater and one partition log, kept in memory."""

    settings: Settings
    rater: Rater
    ledger: Ledger
    connection: "asyncpg.Connection[asyncpg.Record]"
    topic: str

    async def open(self, partitions: Sequence[int] = (0,)) -> None:
        """Opens the positions at 0."""
        await self.ledger.positions(dict.fromkeys(partitions, 0))

    def runs(
        self,
        *values: dict[str, Any] | bytes,
        first: int = 0,
        partition: int = 0,
        appended_at: datetime = NOW,
    ) -> dict[TopicPartition, list[ConsumerRecord]]:
        """The records of one poll, at consecutive offsets."""
        records = [
            record(value, first + n, partition=partition, topic=self.topic, appended_at=appended_at)
            for n, value in enumerate(values)
        ]
        return {TopicPartition(self.topic, partition): records}

    async def apply(
        self,
        *values: dict[str, Any] | bytes,
        first: int = 0,
        partition: int = 0,
        appended_at: datetime = NOW,
    ) -> BatchFigures:
        """Applies the values as one batch."""
        runs = self.runs(*values, first=first, partition=partition, appended_at=appended_at)
        return await self.rater.apply(runs, epoch=1)

    async def value(self, statement: str, *args: object) -> Any:
        """One value from the database."""
        return await self.connection.fetchval(statement, *args)

    async def state(self) -> list[Any]:
        """Everything that a batch can change, to compare before and after."""
        tables = (
            "account", "credit_grant", "grant_draw", "credit_hold", "charge",
            "credit_transaction", "stream_position", "batch_outcome", "dead_letter",
            "usage_counter",
        )  # fmt: skip
        return [
            await self.connection.fetchval(f"SELECT json_agg(t ORDER BY t) FROM {table} t")  # noqa: S608
            for table in tables
        ]


def record(
    value: dict[str, Any] | bytes,
    offset: int,
    *,
    topic: str,
    partition: int = 0,
    appended_at: datetime = NOW,
) -> ConsumerRecord:
    """A consumer record as aiokafka makes it, keyed by its subject."""
    body = value if isinstance(value, bytes) else json.dumps(value).encode()
    key = b"acct" if isinstance(value, bytes) else str(value["subject"]).encode()
    appended_ms = round(appended_at.timestamp() * 1000)
    return ConsumerRecord(
        topic, partition, offset, appended_ms, 1, key, body, None, len(key), len(body), ()
    )


@asynccontextmanager
async def desk(settings: Settings, **changes: object) -> AsyncIterator[Desk]:
    """A rater on the test's database; `changes` are settings."""
    changed = settings.model_copy(update=changes)
    topic = settings.topic_prefix + USAGE_EVENTS.name
    async with open_pool(changed, application_name="tests", size=2) as pool:
        connection = await asyncpg.connect(settings.postgres.get_secret_value())
        ledger = Ledger(pool, topic, changed.event_age_days_max)
        try:
            yield Desk(changed, Rater(changed, ledger, Prices()), ledger, connection, topic)
        finally:
            await connection.close()
