"""Worker processes for tests, and how to feed and await them."""

import asyncio
import signal
import socket
import subprocess
import sys
import time
import urllib.request
from collections.abc import Iterable, Sequence
from types import TracebackType
from typing import Protocol, Self

import asyncpg
from aiokafka import AIOKafkaProducer

from adapters.settings import Settings

CHUNK = 5_000


class Sendable(Protocol):
    """Anything with a key and a value, and perhaps headers."""

    @property
    def key(self) -> bytes | None: ...
    @property
    def value(self) -> bytes | None: ...
    @property
    def headers(self) -> Sequence[tuple[str, bytes]]: ...


class Worker:
    """A `tollgate run STAGE` process; leaving the block stops it as Kubernetes would."""

    def __init__(self, stage: str, environment: dict[str, str]) -> None:
        self._stage = stage
        self._environment = environment
        self._port = _free_port()
        self.process: subprocess.Popen[bytes]

    def __enter__(self) -> Self:
        self.process = subprocess.Popen(
            [sys.executable, "-m", "tollgate", "run", self._stage],
            env={**self._environment, "TOLLGATE_PROBE_PORT": str(self._port)},
            stderr=subprocess.PIPE,
        )
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.stop()

    def stop(self, seconds_max: float = 20) -> tuple[int, str]:
        """SIGTERM, then the exit status and everything that it logged; idempotent."""
        if self.process.poll() is None:
            self.process.send_signal(signal.SIGTERM)
        try:
            _, log = self.process.communicate(timeout=seconds_max)
        except subprocess.TimeoutExpired:
            self.process.kill()
            _, log = self.process.communicate()
        except ValueError:
            log = b""
        return self.process.returncode, log.decode()

    def metrics(self) -> str:
        """What /metrics answers."""
        url = f"http://127.0.0.1:{self._port}/metrics"
        with urllib.request.urlopen(url, timeout=5) as answer:
            text: str = answer.read().decode()
        return text


_given_ports: set[int] = set()


def _free_port() -> int:
    """One that nothing listens on, and never the same again: who got it binds it seconds later."""
    while True:
        with socket.socket() as probe:
            probe.bind(("127.0.0.1", 0))
            port: int = probe.getsockname()[1]
        if port not in _given_ports:
            _given_ports.add(port)
            return port


async def publish(settings: Settings, topic: str, records: Iterable[Sendable]) -> None:
    """Sends the records in order and returns when all are acked."""
    producer = AIOKafkaProducer(
        bootstrap_servers=settings.kafka, acks="all", enable_idempotence=True, linger_ms=5,
        max_batch_size=128 * 1024, max_request_size=1024 * 1024, compression_type="lz4",
    )  # fmt: skip
    await producer.start()
    try:
        pending = []
        for record in records:
            pending.append(
                await producer.send(
                    topic, key=record.key, value=record.value, headers=list(record.headers)
                )
            )
            if len(pending) == CHUNK:
                await asyncio.gather(*pending)
                pending = []
        await asyncio.gather(*pending)
    finally:
        await producer.stop()


async def wait_applied(
    settings: Settings, offsets: int, *, seconds_max: float, worker: Worker | None = None
) -> float:
    """Waits until that many offsets are booked; returns the seconds that it took."""
    connection = await asyncpg.connect(settings.postgres.get_secret_value())
    began = time.monotonic()
    try:
        while True:
            booked = await connection.fetchval(
                "SELECT coalesce(sum(to_offset - from_offset), 0)::bigint FROM batch_outcome"
            )
            if booked >= offsets:
                assert booked == offsets
                return time.monotonic() - began
            if worker is not None and worker.process.poll() is not None:
                raise AssertionError(f"the worker ended: {worker.stop()}")
            assert time.monotonic() - began < seconds_max, f"{booked} of {offsets} booked"
            await asyncio.sleep(0.1)
    finally:
        await connection.close()
