"""The background thread of a client: its event loop, its delivery, its end."""

import asyncio
import atexit
import logging
import os
import threading
from collections.abc import Callable, Mapping
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final

from producers.buffer import Buffer
from producers.connection import Link, new_producer
from producers.delivery import Delivery
from producers.notices import Notices
from producers.spill import Spill
from producers.stats import Tally, Undelivered
from schemas.topics import USAGE_EVENTS

log = logging.getLogger("tollgate.producers")


@dataclass(frozen=True, slots=True)
class Options:
    """Limits of a client. The defaults hold 50,000 events in memory and 256 MiB on disk."""

    topic: str = USAGE_EVENTS.name
    capacity: int = 50_000
    spill_bytes_max: int = 256 * 1024 * 1024
    exit_seconds_max: float = 5.0
    """how long closing, and so the end of the program, may wait for Kafka"""
    kafka: Mapping[str, Any] = field(default_factory=dict)
    """aiokafka's own options, such as security_protocol and ssl_context"""


class Worker:
    """A started daemon thread that delivers what is put into the buffer until it is stopped."""

    def __init__(
        self,
        bootstrap_servers: str,
        options: Options,
        *,
        spill_directory: Path | None,
        on_undelivered: Callable[[Undelivered], None] | None,
        buffer: Buffer,
        tally: Tally,
    ) -> None:
        self._servers = bootstrap_servers
        self._options = options
        self._spill_directory = spill_directory
        self._spill: Spill | None = None
        self._buffer = buffer
        self._tally = tally
        self._loop = asyncio.new_event_loop()
        # Resolving names in a pool fails once the interpreter is ending, when the last flush runs.
        self._loop.set_default_executor(_InThisThread())
        self.notices = Notices(self._loop, on_undelivered)
        self._stopping = asyncio.Event()
        self._flush_seconds = 0.0
        self._thread = threading.Thread(target=self._run, name="tollgate-usage", daemon=True)
        _running.add(self)
        self._thread.start()

    def stop(self, flush_seconds: float) -> None:
        """Delivers what is buffered, at most that long, and ends the thread. Idempotent."""
        try:
            self._loop.call_soon_threadsafe(self._begin_to_stop, flush_seconds)
        except RuntimeError:  # the loop has ended
            return
        self._thread.join(flush_seconds + 5)

    def stop_at_exit(self) -> None:
        """The stop at the end of the program, within the time that the options allow."""
        self._buffer.close()
        self.stop(self._options.exit_seconds_max)

    def leave_to_parent(self) -> None:
        """In a forked child: lets go of what belongs to the parent's thread, touching nothing."""
        if self._spill is not None:
            self._spill.forget()

    def _begin_to_stop(self, flush_seconds: float) -> None:
        self._flush_seconds = flush_seconds
        self._stopping.set()

    def _run(self) -> None:
        asyncio.set_event_loop(self._loop)
        try:
            self._loop.run_until_complete(self._deliver())
        except Exception:
            log.exception("the delivery thread died; usage is refused from now on")
            self._buffer.close()
        finally:
            _running.discard(self)
            self._end_loop()

    async def _deliver(self) -> None:
        self._spill = self._open_spill()
        delivery = Delivery(
            Link(self._new_producer, self._options.topic),
            buffer=self._buffer,
            tally=self._tally,
            spill=self._spill,
            notices=self.notices,
        )
        running = asyncio.create_task(delivery.run())
        stopping = asyncio.create_task(self._stopping.wait())
        await asyncio.wait([running, stopping], return_when=asyncio.FIRST_COMPLETED)
        delivery.stop(self._flush_seconds)
        await running

    def _new_producer(self) -> Any:
        return new_producer(
            self._servers, client_id="tollgate-producer", options=self._options.kafka
        )

    def _open_spill(self) -> Spill | None:
        if self._spill_directory is None:
            return None
        try:
            return Spill(self._spill_directory, self._options.spill_bytes_max)
        except OSError as error:
            log.warning("no spill, events wait in memory only: %s", error)
            return None

    def _end_loop(self) -> None:
        left = asyncio.all_tasks(self._loop)
        for task in left:
            task.cancel()
        if left:
            self._loop.run_until_complete(asyncio.wait(left, timeout=1))
        self._loop.close()


class _InThisThread(ThreadPoolExecutor):
    """Runs what it is given at once; asyncio wants a ThreadPoolExecutor."""

    def submit(self, fn: Callable[..., Any], /, *args: Any, **kwargs: Any) -> Future[Any]:
        """A future that is done already, with what the function returned or raised."""
        future: Future[Any] = Future()
        try:
            future.set_result(fn(*args, **kwargs))
        except Exception as error:  # noqa: BLE001 - it belongs to whoever awaits the result
            future.set_exception(error)
        return future


_running: Final[set[Worker]] = set()
# A child keeps the parent's workers: collecting their loops would touch what both share.
_of_parent: Final[list[Worker]] = []


def _stop_all() -> None:
    for worker in list(_running):
        worker.stop_at_exit()


def _after_fork() -> None:
    for worker in list(_running):
        worker.leave_to_parent()
        _of_parent.append(worker)
    _running.clear()


atexit.register(_stop_all)
os.register_at_fork(after_in_child=_after_fork)
