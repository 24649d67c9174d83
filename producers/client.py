"""The client that an app imports to publish usage events, for asyncio and for threads alike."""

import asyncio
import os
import threading
import weakref
from collections.abc import Callable
from pathlib import Path
from typing import Any, Final, Self, Unpack

from producers.buffer import Buffer
from producers.normalise.outcome import Refused
from producers.normalise.response import normalise
from producers.provider_tracking import ProviderDetails, details_of
from producers.stats import Cause, Stats, Tally, Undelivered
from producers.tracking import (
    AiDetails,
    Details,
    EventDetails,
    build_event,
    new_event_id,
    split_parts,
)
from producers.worker import Options, Worker
from schemas.events import TokenCounts, encode

_clients: Final["weakref.WeakSet[UsageClient]"] = weakref.WeakSet()


class UsageClient:
    """Publishes usage events in the background; tracking never blocks and never fails the caller.

    One daemon thread with its own event loop owns the Kafka producer, so the same client serves
    coroutines and threads. It starts at the first event, and anew in a forked child. Every event
    gets its identity at the call: whatever is sent twice is charged once. `close` (also at the
    end of `with`, `async with` and the program) delivers what is buffered.

    With `spill_directory`, events wait on disk while Kafka is away, and survive the end of the
    program; the next client with the same directory delivers them. With `strict`, a bad argument
    raises ValueError: for tests of the app.
    """

    _tally: Tally
    _buffer: Buffer
    _starting: threading.Lock
    _worker: Worker | None

    def __init__(
        self,
        bootstrap_servers: str,
        source: str,
        *,
        spill_directory: Path | str | None = None,
        on_undelivered: Callable[[Undelivered], None] | None = None,
        strict: bool = False,
        options: Options | None = None,
    ) -> None:
        self._servers = bootstrap_servers
        self._source = source
        self._spill_directory = Path(spill_directory) if spill_directory else None
        self._on_undelivered = on_undelivered
        self._strict = strict
        self._options = options or Options()
        self._begin_anew()
        _clients.add(self)

    def start(self) -> None:
        """Starts the background thread, unless it runs: spilled events are delivered from now on.

        Optional: the first tracking call does it. Idempotent.
        """
        with self._starting:
            if self._worker is None and not self._buffer.closed:
                self._worker = Worker(
                    self._servers,
                    self._options,
                    spill_directory=self._spill_directory,
                    on_undelivered=self._on_undelivered,
                    buffer=self._buffer,
                    tally=self._tally,
                )

    def track_ai_usage(
        self,
        account_id: str,
        provider: str,
        model: str,
        input_tokens: int,
        output_tokens: int,
        **details: Unpack[AiDetails],
    ) -> str | None:
        """Tracks one call to a model; see `track`.

        `input_tokens` is the total, cached, audio and image tokens included; `output_tokens` the
        total with reasoning. The default action is ai_chat_message.
        """
        given: dict[str, Any] = dict(details)
        try:
            parts: dict[str, Any] = split_parts(given)
            tokens = TokenCounts(input=input_tokens, output=output_tokens, **parts)
        except (ValueError, TypeError) as error:
            self._refuse(Cause.INVALID, str(error), account_id, details.get("event_id"))
            return None
        action = given.pop("action", "ai_chat_message")
        return self.track(
            account_id, action, provider=provider, model=model, tokens=tokens, **given
        )

    def track_provider_usage(
        self,
        account_id: str,
        response: object,
        *,
        provider: str = "",
        host: str = "",
        path: str = "",
        request_model: str = "",
        service_tier: str = "",
        **details: Unpack[ProviderDetails],
    ) -> tuple[str, ...]:
        """Tracks what a provider answered, one event for each line that it bills; see `track`.

        `response` is the response, its usage object, or the list of a stream's events; the rest is
        as in `normalise`. Returns the ids of the events: `event_id`, then with `.2`, `.3` behind
        it. Usage that cannot be known is refused like a bad argument, its reason first.
        """
        event_id = details.pop("event_id", None) or new_event_id()
        found = normalise(
            response,
            provider=provider,
            host=host,
            path=path,
            request_model=request_model,
            service_tier=service_tier,
        )
        if isinstance(found, Refused):
            self._refuse(Cause.INVALID, f"{found.reason}: {found.detail}", account_id, event_id)
            return ()
        try:
            events = [details_of(line, details, event_id) for line in found.lines]
        except (ValueError, TypeError) as error:
            self._refuse(Cause.INVALID, str(error), account_id, event_id)
            return ()
        tracked = [self.track(account_id, action, **more) for action, more in events]
        return tuple(one for one in tracked if one is not None)

    def track_compute_usage(
        self, account_id: str, action: str, quantity: int = 1, **details: Unpack[Details]
    ) -> str | None:
        """Tracks work that is no call to a model: `quantity` times the action; see `track`."""
        return self.track(account_id, action, quantity=quantity, **details)

    def track(self, account_id: str, action: str, **details: Unpack[EventDetails]) -> str | None:
        """Takes one usage event over for delivery and returns its id, at once.

        None when it was refused: a bad argument, a full buffer, a closed client. Then it is
        counted, logged at most once a minute, and told to `on_undelivered`.
        """
        event_id = details.get("event_id")
        if event_id is None:
            event_id = new_event_id()
        try:
            value = encode(build_event(self._source, account_id, event_id, action, details))
        except (ValueError, TypeError) as error:
            self._refuse(Cause.INVALID, str(error), account_id, event_id)
            return None
        if self._worker is None:
            self.start()
        # Counted first: delivery may settle it before this thread goes on.
        self._tally.accept()
        if self._buffer.put((account_id.encode(), value)):
            return event_id
        self._tally.move(accepted=-1, buffered=-1)
        detail = "the buffer is full or the client is closed"
        self._refuse(Cause.DROPPED, detail, account_id, event_id, value)
        return None

    def stats(self) -> Stats:
        """What became of every call so far, counted exactly."""
        return self._tally.snapshot()

    def flush(self, timeout_seconds: float = 5.0) -> bool:
        """Blocks until all accepted so far is acknowledged by Kafka or given up.

        False when the time was over first; delivery goes on.
        """
        return self._tally.wait_settled(timeout_seconds)

    async def flush_async(self, timeout_seconds: float = 5.0) -> bool:
        """`flush` for coroutines: waits without blocking the event loop."""
        return await asyncio.to_thread(self.flush, timeout_seconds)

    def close(self, timeout_seconds: float | None = None) -> None:
        """Delivers what is buffered, at most that long, and ends the thread. Idempotent.

        What remains goes to the spill, or counts as failed. Tracking afterwards is refused.
        """
        self._buffer.close()
        seconds = self._options.exit_seconds_max if timeout_seconds is None else timeout_seconds
        if self._worker is not None:
            self._worker.stop(seconds)

    def __enter__(self) -> Self:
        """Starts the client; it is closed at the end of the block."""
        self.start()
        return self

    def __exit__(self, *_: object) -> None:
        """Closes."""
        self.close()

    async def __aenter__(self) -> Self:
        """Starts the client; it is closed at the end of the block."""
        self.start()
        return self

    async def __aexit__(self, *_: object) -> None:
        """Closes without blocking the event loop."""
        await asyncio.to_thread(self.close)

    def _refuse(
        self,
        cause: Cause,
        detail: str,
        account_id: object,
        event_id: object,
        value: bytes | None = None,
    ) -> None:
        if self._strict and cause is Cause.INVALID:
            raise ValueError(detail)
        self._tally.move(**{cause.value: 1})
        if self._worker is None:
            self.start()
        if self._worker is not None:
            notice = Undelivered(cause, detail, str(account_id), str(event_id or ""), value)
            self._worker.notices.tell(notice)

    def _begin_anew(self) -> None:
        """The state of a client that has tracked nothing yet: when made, and in a forked child."""
        self._tally = Tally()
        self._buffer = Buffer(self._options.capacity)
        self._starting = threading.Lock()
        self._worker = None


def _after_fork() -> None:
    for client in list(_clients):
        client._begin_anew()  # noqa: SLF001 - the same module


os.register_at_fork(after_in_child=_after_fork)
