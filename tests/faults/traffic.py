"""Events with a known right answer, published until the broker has acknowledged each."""

import asyncio
import json
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import suppress
from datetime import UTC, datetime, timedelta
from decimal import ROUND_HALF_EVEN, Decimal
from random import Random
from typing import Any

from aiokafka import AIOKafkaProducer
from aiokafka.errors import KafkaError

Sent = tuple[bytes, bytes]  # key and value of a record
Identity = tuple[str, str]  # account and event id

# openai/gpt-4o on tier free, balanced: $2.50 and $10.00 a million tokens, 1 credit a dollar, x 1.5.
INPUT_MICRO_PER_TOKEN = Decimal("3.75")
OUTPUT_MICRO_PER_TOKEN = Decimal(15)
DUPLICATES_OF_LAST = 4_000


class Traffic:
    """Seeded usage of `accounts` accounts; `expected` is what must be charged, in micro-credits.

    About three in ten events happened in the month before, so that ranges span two months.
    """

    def __init__(
        self, seed: int, *, accounts: int = 40, duplicates: float = 0.05, prefix: str = ""
    ) -> None:
        self._rng = Random(seed)
        self._names = [f"{prefix}acct-{n:03d}" for n in range(accounts)]
        self._duplicates = duplicates
        self._recent: list[dict[str, Any]] = []
        self._now = datetime.now(UTC)
        self._last_month = self._now.replace(day=1) - timedelta(days=1)
        self.expected: dict[Identity, int] = {}
        self.published = 0
        self.repeated = 0
        self.repeated_with_another_time = 0

    def records(self, count: int) -> list[Sent]:
        """The next records, in the order in which to send them."""
        return [self._again() if self._repeats() else self._fresh() for _ in range(count)]

    def _repeats(self) -> bool:
        return bool(self._recent) and self._rng.random() < self._duplicates

    def _fresh(self) -> Sent:
        account_id, event_id = self._rng.choice(self._names), f"e-{len(self.expected):07d}"
        tokens = {"input": self._rng.randint(1, 4_000), "output": self._rng.randint(0, 1_000)}
        event = {
            "specversion": "1.0",
            "id": event_id,
            "source": "tests/faults",
            "type": "tollgate.usage.v1",
            "subject": account_id,
            "time": self._time(),
            "data": {"provider": "openai", "model": "gpt-4o", "tokens": tokens},
        }
        exact = tokens["input"] * INPUT_MICRO_PER_TOKEN + tokens["output"] * OUTPUT_MICRO_PER_TOKEN
        self.expected[account_id, event_id] = int(exact.quantize(Decimal(1), ROUND_HALF_EVEN))
        self._recent = [*self._recent[-DUPLICATES_OF_LAST:], event]
        return _sent(event)

    def _again(self) -> Sent:
        event = self._rng.choice(self._recent)
        self.repeated += 1
        if self._rng.random() < 0.5:
            self.repeated_with_another_time += 1
            event = event | {"time": self._time()}
        return _sent(event)

    def _time(self) -> str:
        day = self._last_month if self._rng.random() < 0.3 else self._now
        when = day - timedelta(seconds=self._rng.random() * 3_000)
        return when.isoformat().replace("+00:00", "Z")


def _sent(event: dict[str, Any]) -> Sent:
    return event["subject"].encode(), json.dumps(event).encode()


class Publisher:
    """Sends records to one topic; a record is sent again until it was acknowledged.

    So a broker that dies makes more duplicates, and loses nothing that was to be sent.
    """

    def __init__(self, kafka: str, topic: str) -> None:
        self._kafka, self._topic = kafka, topic
        self._producer: AIOKafkaProducer | None = None
        self.retries = 0

    async def send(self, records: Sequence[Sent], *, partition: int | None = None) -> None:
        """Returns once every record is acknowledged."""
        while True:
            try:
                producer = await self._connected()
                for part in _slices(records, 500):
                    acks = [
                        await producer.send(self._topic, key=key, value=value, partition=partition)
                        for key, value in part
                    ]
                    await asyncio.gather(*acks)
            except (KafkaError, OSError, TimeoutError):
                self.retries += 1
                await self.close()
                await asyncio.sleep(0.3)
            else:
                return

    async def flow(self, traffic: Traffic, *, per_second: int, until: Callable[[], bool]) -> None:
        """Publishes at a rate until told otherwise."""
        while not until():
            records = traffic.records(max(1, per_second // 5))
            await self.send(records)
            traffic.published += len(records)
            await asyncio.sleep(0.2)

    async def close(self) -> None:
        """Gives up the connection; `send` opens another one."""
        producer, self._producer = self._producer, None
        if producer is not None:
            with suppress(KafkaError, OSError, TimeoutError):
                async with asyncio.timeout(5):
                    await producer.stop()

    async def _connected(self) -> AIOKafkaProducer:
        if self._producer is None:
            producer = AIOKafkaProducer(
                bootstrap_servers=self._kafka,
                enable_idempotence=True,
                acks="all",
                request_timeout_ms=5_000,
                metadata_max_age_ms=2_000,
            )
            try:
                await producer.start()
            except BaseException:
                await producer.stop()
                raise
            self._producer = producer
        return self._producer


def _slices(records: Sequence[Sent], size: int) -> Iterator[Sequence[Sent]]:
    return (records[start : start + size] for start in range(0, len(records), size))


def identities(records: Iterable[Sent]) -> set[Identity]:
    """The events that the records are about."""
    events = (json.loads(value) for _, value in records)
    return {(event["subject"], event["id"]) for event in events}
