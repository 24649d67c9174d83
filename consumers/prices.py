"""The price history as one process knows it: read once, and again when a version was published."""

import structlog

from adapters.failures import Halt, HaltReason
from adapters.postgres import Connection
from adapters.price_store import load_history
from core.prices import PriceHistory

log = structlog.get_logger()


class Prices:
    """One history for the batches and for the letters that wait; a version is never edited, so
    the number of the newest one says whether it is still the newest.
    """

    def __init__(self) -> None:
        self.known: PriceHistory | None = None

    async def up_to(self, version: int, connection: Connection) -> PriceHistory:
        """All versions up to this one, the newest that the connection sees.

        Raises Halt when there is none, and Failure when one cannot be read by this release.
        """
        if not version:
            message = "no price book was ever published; run `tollgate migrate`"
            raise Halt(HaltReason.NO_PRICE_BOOK, message)
        if self.known is None or self.known.latest_version < version:
            self.known = await load_history(connection, self.known)
            log.info("price book loaded", price_version=self.known.latest_version)
        return self.known
