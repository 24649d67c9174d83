"""One charge: what an operator sees, voids and amends.

Every change is one transaction that locks the account first; adapters/corrections.py appends it.
"""

import re
from collections.abc import Awaitable, Callable, Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime, time
from typing import Any

import asyncpg

from adapters.corrections import SQL, Change, Kind, charges_in_force, lock_balances, post
from adapters.failures import Failure
from adapters.postgres import Connection
from adapters.price_store import load_history
from adapters.queries import load
from core.amendment import AmendmentError, amended
from core.corrections import month_end, month_of
from core.margin import MarginError, carried, remainder_micro, repriced, voided
from core.prices import PriceHistory
from core.rating import Rated, rate
from core.recorded import Row, facts_of, recorded_event, unit_charged, usage_columns, usage_recorded
from schemas.reasons import Rejected
from schemas.usage import UsageEvent

_LEDGER = load("ledger")
_KEY = re.compile(r"[A-Za-z0-9_.:-]{1,200}")
_REASON_CHARS_MAX = 500


@dataclass(frozen=True, slots=True)
class Request:
    """Which charge is corrected, by whom and why; the same `key` twice corrects it once.

    Raises Failure when the reason or the key can not be stored.
    """

    account_id: str
    event_id: str
    actor: str
    reason: str
    key: str | None = None

    def __post_init__(self) -> None:
        if not 0 < len(self.reason) <= _REASON_CHARS_MAX or not self.reason.isprintable():
            raise Failure(
                f"a reason is printable and from 1 to {_REASON_CHARS_MAX} characters long"
            )
        if self.key is not None and not _KEY.fullmatch(self.key):
            raise Failure("a key is made of letters, digits and _ . : - and at most 200 long")


@dataclass(frozen=True, slots=True)
class Answer:
    """How the charge stands, and what the request did to it; not `changed`: nothing, it stood so.

    `sequence` counts the charge's corrections. `moved_micro` is what another charge of the month
    costs more (less: negative) by it. `balance_after_micro` is None when no credits moved.
    `repeated`: the key was used before, and the answer is that of the first time.
    """

    account_id: str
    event_id: str
    changed: bool
    sequence: int
    voided: bool
    rated_micro: int
    amount_micro: int
    amount_change_micro: int
    moved_micro: int
    balance_after_micro: int | None
    repeated: bool


async def read_charge(connection: Connection, account_id: str, event_id: str) -> dict[str, Any]:
    """The charge, its corrections, and how it stands now, as of one moment.

    Raises Failure when the account was never charged for such an event.
    """
    async with connection.transaction(isolation="repeatable_read", readonly=True):
        charge = await connection.fetchrow(SQL.read_charge, account_id, event_id)
        if charge is None:
            raise _unknown(account_id, event_id)
        corrections = await connection.fetch(SQL.read_corrections, account_id, event_id)
        (now,) = await connection.fetch(SQL.charges_in_force, [account_id], [event_id])
    return {
        "charge": dict(charge),
        "corrections": [dict(correction) for correction in corrections],
        "now": {name: value for name, value in now.items() if name != "n"},
    }


async def void(connection: Connection, request: Request) -> Answer:
    """Makes the charge count for nothing and gives back what it cost, in one transaction.

    Idempotent: a voided charge stays as it is. A counted price gives back the margin of the month:
    another charge of the month takes over the rest. Raises Failure when there is no such charge, or
    when the key stands for something else.
    """
    before = await read_charge(connection, request.account_id, request.event_id)
    counted = before["now"]["counter"]
    history = await load_history(connection) if counted else PriceHistory(())

    async def change(row: Row) -> list[Change]:
        if row["voided"]:
            return []
        moved = await _moved(connection, row, history)
        return [*moved, _change(row, Kind.VOID, recorded_event(row), voided(row))]

    return await _once(connection, request, Kind.VOID, recorded_event, change)


async def amend(connection: Connection, request: Request, patch: Mapping[str, Any]) -> Answer:
    """Replaces what the charge recorded by what is right, and moves the difference.

    `patch` is merged into the recorded `data` (RFC 7396). The event keeps its identity and time and
    is priced by the version in force at its time; a voided charge counts again. Its quantity is of
    the unit that it was charged in, unless the patch names another. Idempotent: the same usage
    changes nothing. Raises Failure when there is no such charge, when the amended usage breaks a
    limit or has no price, or when the key stands for something else.
    """
    loaded = await load_history(connection)

    def wanted(row: Row) -> UsageEvent:
        charged_by = loaded.numbered(row["price_version"])
        return amended(recorded_event(row, unit_charged(row, charged_by)), patch)

    async def change(row: Row) -> list[Change]:
        event = wanted(row)
        if not row["voided"] and usage_columns(event) == usage_recorded(row):
            return []
        history = await _current(connection, loaded)
        rating = rate(event, history, facts_of(row))
        if isinstance(rating, Rejected):
            raise Failure(f"the amended event has no price ({rating.reason}): {rating.detail}")
        units_now = await _units_now(connection, row, rating.counter)
        rated = repriced(row, rating, history.numbered(row["price_version"]), units_now)
        leaves = row["counter"] != rating.counter
        moved = await _moved(connection, row, history) if leaves else []
        return [*moved, _change(row, Kind.AMEND, event, rated)]

    return await _once(connection, request, Kind.AMEND, wanted, change)


async def _moved(connection: Connection, row: Row, history: PriceHistory) -> list[Change]:
    """What becomes of the rest of a counted price when its charge leaves: another one carries it.

    The last one of the month to leave takes all that it cost with it.
    """
    counter, account_id = row["counter"], row["account_id"]
    if not counter or row["voided"]:
        return []
    month = month_of(row["occurred_at"])
    starts, ends = (datetime.combine(day, time(), UTC) for day in (month, month_end(month)))
    other = await connection.fetchval(
        SQL.last_counted, account_id, counter, starts, ends, row["event_id"]
    )
    if other is None:
        return []
    units_now = await _units_now(connection, row, counter)
    more_micro = remainder_micro(row, history.numbered(row["price_version"]), units_now)
    standing = await charges_in_force(connection, [(account_id, other)])
    carrier = standing[account_id, other]
    event = recorded_event(carrier)
    return [_change(carrier, Kind.AMEND, event, carried(carrier, more_micro))]


async def _once(
    connection: Connection,
    request: Request,
    kind: Kind,
    wanted: Callable[[Row], UsageEvent],
    change: Callable[[Row], Awaitable[list[Change]]],
) -> Answer:
    """Locks, looks for the key, and makes the changes that the charge under the lock needs."""
    identity = (request.account_id, request.event_id)
    try:
        async with connection.transaction():
            await lock_balances(connection, [request.account_id])
            row = (await charges_in_force(connection, [identity])).get(identity)
            if row is None:
                raise _unknown(*identity)
            earlier = await _find_earlier(connection, request, kind, wanted)
            if earlier is not None:
                return _answer(earlier, repeated=True)
            changes = await change(row)
            if not changes:
                return _unchanged(row)
            await _post(connection, request, changes)
            posted = await connection.fetch(SQL.read_corrections, *identity)
            return _answer(posted[-1], repeated=False)
    except asyncpg.UniqueViolationError:
        # Another account's correction with this key committed between our look and our insert.
        raise _key_taken(request.key) from None
    except (AmendmentError, MarginError) as error:
        raise Failure(f"the charge can not be corrected: {error}") from None


async def _post(connection: Connection, request: Request, changes: Sequence[Change]) -> None:
    """The charge itself last, so that the balance after its correction is the balance."""
    *beside, own = changes
    why = f"the price of the month, when {request.event_id} was corrected"
    await post(connection, beside, actor=request.actor, reason=why)
    keys = {(own.account_id, own.event_id): request.key} if request.key else {}
    await post(connection, [own], actor=request.actor, reason=request.reason, keys=keys)


async def _find_earlier(
    connection: Connection, request: Request, kind: Kind, wanted: Callable[[Row], UsageEvent]
) -> Row | None:
    """What the key did, when this request applied there would do the same; Failure when not."""
    if request.key is None:
        return None
    found: Row | None = await connection.fetchrow(SQL.find_by_key, request.key)
    if found is None:
        return None
    names = ("account_id", "event_id", "kind", "reason")
    said = (request.account_id, request.event_id, kind.value, request.reason)
    if tuple(found[name] for name in names) != said:
        raise _key_taken(request.key)
    charge = await connection.fetchrow(SQL.read_charge, *said[:2])
    corrections = await connection.fetch(SQL.read_corrections, *said[:2])
    found_there = {
        **charge,
        **(corrections[found["sequence"] - 2] if found["sequence"] > 1 else {}),
    }
    if usage_columns(wanted(found_there)) != usage_recorded(found):
        raise _key_taken(request.key)
    return found


async def _current(connection: Connection, history: PriceHistory) -> PriceHistory:
    """The history, read again if a version was published while the account was waited for."""
    newest = await connection.fetchval(_LEDGER.newest_price_version)
    return history if newest == history.latest_version else await load_history(connection)


async def _units_now(connection: Connection, row: Row, counter: str) -> int:
    if not counter:
        return 0
    wanted = [row["account_id"]], [counter], [month_of(row["occurred_at"])]
    found = await connection.fetchrow(_LEDGER.read_counters, *wanted)
    return found["units"] if found else 0


def _change(row: Row, kind: Kind, event: UsageEvent, rated: Rated) -> Change:
    return Change(
        row["account_id"], row["event_id"], kind, kind is Kind.VOID, event, rated, row["sequence"]
    )


def _answer(correction: Row, *, repeated: bool) -> Answer:
    return Answer(
        changed=True,
        repeated=repeated,
        amount_change_micro=correction["amount_change_micro"],
        moved_micro=correction["moved_micro"],
        balance_after_micro=correction["balance_after_micro"],
        **_standing(correction),
    )


def _unchanged(row: Row) -> Answer:
    return Answer(
        changed=False,
        repeated=False,
        amount_change_micro=0,
        moved_micro=0,
        balance_after_micro=None,
        **_standing(row),
    )


def _standing(row: Row) -> dict[str, Any]:
    names = ("account_id", "event_id", "sequence", "voided", "rated_micro", "amount_micro")
    return {name: row[name] for name in names}


def _unknown(account_id: str, event_id: str) -> Failure:
    return Failure(
        f"account {account_id[:128]!r} was never charged for an event {event_id[:128]!r}; if it is"
        " a dead letter, `tollgate dead-letters list` has it"
    )


def _key_taken(key: str | None) -> Failure:
    return Failure(f"the key {key!r} stands for another correction: choose a new one")
