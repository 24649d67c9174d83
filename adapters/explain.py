"""Why an event costs what it costs, from the ledger's rows and the stored price versions."""

from dataclasses import dataclass
from typing import Any

from adapters.corrections import charges_in_force
from adapters.failures import Failure
from adapters.postgres import Connection
from adapters.price_store import load_history
from adapters.queries import load
from core.explain import Explanation, explain
from core.prices import PriceBook, PriceHistory
from core.rating import AccountFacts, Counting, rate_with
from core.recorded import Row, facts_of, recorded_event
from schemas.reasons import Reason, Rejected
from schemas.usage import UsageEvent

_SQL = load("explain")


@dataclass(frozen=True, slots=True)
class Told:
    """One charge as it stands, and how its version prices what it recorded.

    `answer` is Rejected when that version does not price it, which no charge of this release has.
    """

    charge: Row
    answer: Explanation | Rejected

    @property
    def equal(self) -> bool:
        """Whether the explanation comes to what the ledger has."""
        if self.charge["voided"] or isinstance(self.answer, Rejected):
            return False
        return self.answer.rated_micro == int(self.charge["rated_micro"])

    @property
    def remark(self) -> str:
        """Why the two differ, in one sentence; '' when they are equal."""
        if self.equal:
            return ""
        if self.charge["voided"]:
            return "the charge was voided: it counts for nothing"
        if isinstance(self.answer, Rejected):
            return f"its version does not price it: {self.answer.detail}"
        if self.charge["sequence"] and self.charge["counter"]:
            return "a corrected counted charge holds what other events of the month are worth more"
        return "the ledger has another amount than its price version says: run `tollgate verify`"


async def explain_charge(
    connection: Connection, event_id: str, account_id: str | None = None
) -> Told | None:
    """The charge of an event, explained as of its latest correction; None when it has none.

    Raises Failure when several accounts were charged for events of that id and none is named.
    """
    accounts = [
        row["account_id"]
        for row in await connection.fetch(_SQL.accounts_charged_for, event_id, account_id)
    ]
    if len(accounts) > 1:
        raise Failure(f"several accounts have an event of this id: --account {', '.join(accounts)}")
    if not accounts:
        return None
    identity = (accounts[0], event_id)
    row = (await charges_in_force(connection, [identity]))[identity]
    book = await version(connection, row["price_version"])
    answer = explain(recorded_event(row), book, facts_of(row), row["counter_before"])
    return Told(row, answer)


async def letters(
    connection: Connection, event_id: str, account_id: str | None = None
) -> list[dict[str, Any]]:
    """The newest dead letters of an event, with the meaning of their reason.

    Raises Failure when there is none: then the event was never read.
    """
    rows = await connection.fetch(_SQL.letters_of, event_id, account_id)
    if not rows:
        where = "" if account_id is None else f" of account {account_id}"
        raise Failure(
            f"no event {event_id!r}{where} was charged or refused: see `tollgate lag` for whether"
            " everything was read"
        )
    return [{**dict(row), "meaning": Reason(row["reason"]).meaning} for row in rows]


async def version(connection: Connection, number: int) -> PriceBook:
    """A stored price version by its number; raises Failure when there is none."""
    book = (await load_history(connection)).numbered(number)
    if book is None:
        raise Failure(f"there is no price version {number}: see `tollgate prices list`")
    return book


async def facts(connection: Connection, account_id: str) -> AccountFacts:
    """Tier and mode of an account; raises Failure when there is no such account."""
    row = await connection.fetchrow(_SQL.account_facts, account_id)
    if row is None:
        raise Failure(f"no account {account_id}: leave --account out, or name its tier by --tier")
    return AccountFacts(row["tier"], row["demo"])


async def cost(
    connection: Connection,
    event: UsageEvent,
    known: AccountFacts,
    *,
    price_version: int | None = None,
    counted_units: int | None = None,
    history: PriceHistory | None = None,
) -> Explanation | Rejected:
    """What the event would cost, by the code that charges; writes nothing.

    Under the version in force at the event's time, or a given one. `counted_units` is where a
    month's counter is taken to stand; None: where the account's stands now. `history` is what was
    published, for a caller that has it. Raises Failure when no version is in force then.
    """
    if price_version is None:
        book = (history or await load_history(connection)).at(event.time)
        if book is None:
            raise Failure(f"no price version is in force at {event.time.isoformat()}")
    else:
        book = await version(connection, price_version)
    before = counted_units or 0
    rating = rate_with(event, book, known)
    if counted_units is None and isinstance(rating, Counting):
        arguments = (event.subject, rating.counter, rating.month)
        before = await connection.fetchval(_SQL.counted_units, *arguments) or 0
    return explain(event, book, known, before)
