"""What a usage costs that is settled by a call: rated as the rater would, under the same lock."""

import asyncio

import structlog
from asyncpg import Record

from adapters.patience import Patience, Unavailable
from adapters.postgres import TRANSIENT, Connection, Pool
from adapters.price_store import load_history, newer_versions
from adapters.queries import load
from core.prices import PriceHistory
from core.rating import AccountFacts, Counting, Rated, rate
from schemas.events import Reason, Rejected, UsageEvent

log = structlog.get_logger()

SQL = load("ledger")


class PricesUnread(Unavailable):
    """A version was published that this process has not read yet; nothing was done."""


class PriceSource:
    """The published prices, read on when a newer version was published."""

    def __init__(self) -> None:
        self._history = PriceHistory(())
        self._reading = asyncio.Lock()

    async def current(self, connection: Connection) -> PriceHistory:
        """The history as of now; one small query when nothing new was published."""
        newest = await connection.fetchval(SQL.newest_price_version)
        if self._history.latest_version < newest:
            await self._read_on(connection)
        return self._history

    async def rate(
        self, connection: Connection, event: UsageEvent, account: Record
    ) -> Rated | Rejected:
        """The price of a usage for a locked account.

        A price that depends on what the account used this month is refused: its counter counts
        usage events, each in its place in the stream.
        """
        history = await self.current(connection)
        rated = rate(event, history, AccountFacts(account["tier"], account["demo"]))
        if isinstance(rated, Counting):
            detail = f"its price counts the month ({rated.counter}): settle it by a usage event"
            return Rejected(Reason.UNPRICED, detail, event.subject, event.id)
        return rated

    async def _read_on(self, connection: Connection) -> None:
        async with self._reading:
            self._history = await load_history(connection, self._history)


class SharedPrices(PriceSource):
    """The published prices for the requests of one loop, read by a task that is none of theirs.

    However impatient they are, every version is read once: `current` and `rate` raise PricesUnread
    at once, for the lock of an account is no place to wait, and `read` waits for what is new.
    """

    def __init__(self, pool: Pool, seconds_max: float) -> None:
        super().__init__()
        self._pool = pool
        self._patience = Patience(seconds_max)
        self._task: asyncio.Task[None] | None = None
        self.ready = False  # whether all was read once, as far as this release can read it

    async def read(self) -> None:
        """Returns when every version that is there by now is read.

        Raises Unavailable when that takes too long; it goes on all the same. Raises Failure when
        this release can not read a version.
        """
        await self._patience.within(self._joined())

    def begin(self) -> None:
        """Reads what is there; to be called before the first request, which then seldom waits."""
        self._under_way()

    async def close(self) -> None:
        """Nothing is read any more."""
        if self._task is not None:
            self._task.cancel()
            await asyncio.wait({self._task})

    async def _read_on(self, connection: Connection) -> None:  # noqa: ARG002 - it is the request's
        raise PricesUnread("the prices are being read")

    async def _joined(self) -> None:
        await asyncio.shield(self._under_way())

    def _under_way(self) -> "asyncio.Task[None]":
        if self._task is None or self._task.done():
            self._task = asyncio.create_task(self._all())
            self._task.add_done_callback(_ended)
        return self._task

    async def _all(self) -> None:
        try:
            async for grown in newer_versions(self._pool.acquire, self._history):
                self._history = grown
        except TRANSIENT:
            raise
        except Exception:
            self.ready = True  # it would fail again: what needs no price is answered all the same
            raise
        self.ready = True


def _ended(task: "asyncio.Task[None]") -> None:
    """Nobody may wait for it any more; whoever does has the error from the task."""
    if task.cancelled():
        return
    error = task.exception()
    if error is not None:
        log.error("the prices can not be read", error=f"{type(error).__name__}: {error}")
