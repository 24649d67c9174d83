"""What a usage costs that is settled by a call: rated as the rater would, under the same lock."""

import asyncio

from asyncpg import Record

from adapters.postgres import Connection
from adapters.price_store import load_history
from adapters.queries import load
from core.prices import PriceHistory
from core.rating import AccountFacts, Counting, Rated, rate
from schemas.events import Reason, Rejected, UsageEvent

SQL = load("ledger")


class PriceSource:
    """The published prices, read again when a newer version was published."""

    def __init__(self) -> None:
        self._history: PriceHistory | None = None
        self._reading = asyncio.Lock()

    async def current(self, connection: Connection) -> PriceHistory:
        """The history as of now; one small query when nothing new was published."""
        newest = await connection.fetchval(SQL.newest_price_version)
        async with self._reading:
            if self._history is None or self._history.latest_version != newest:
                self._history = await load_history(connection)
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
