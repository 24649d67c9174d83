"""Reconciliation (K1): holds that nobody closed are settled by their usage, or given back."""

from collections import Counter
from collections.abc import AsyncIterator, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from functools import partial
from typing import Final

import structlog
from asyncpg import Record
from pydantic import TypeAdapter, ValidationError

from adapters.failures import Failure
from adapters.gate_prices import PriceSource
from adapters.halving import Refusals, Refused, by_halves
from adapters.jobs import add_figures
from adapters.postgres import Connection
from adapters.queries import load
from core.holds import HoldState
from schemas.events import Rejected, UsageData, UsageEvent

log = structlog.get_logger()

SQL = load("reconcile")
LEDGER = load("ledger")
ACTOR: Final = "reconcile"
HOLDS_MAX = 500  # of one transaction: the locks of their accounts keep the raters waiting
UNPRICED_SECONDS_MAX = 86_400.0
_FIRST = datetime(1970, 1, 1, tzinfo=UTC)
_USAGE = TypeAdapter(UsageData)


@dataclass(frozen=True, slots=True)
class Verdict:
    """What is to become of one hold; `to_charge_micro` is charged now, `charged_micro` in all."""

    hold_id: str
    account_id: str
    state: HoldState
    reserved_micro: int
    charged_micro: int | None = None
    to_charge_micro: int = 0
    usage: str = ""


@dataclass(frozen=True, slots=True)
class Reconciled:
    """What one transaction did. `reconciled` holds were settled, `failed` ones gave their reserve
    back, `waiting` ones stay open: their time is not over, or their usage has no price yet.
    `refused` are accounts whose holds PostgreSQL refused to close.
    """

    examined: int = 0
    reconciled: int = 0
    failed: int = 0
    waiting: int = 0
    unpriced: int = 0
    charged_micro: int = 0
    freed_micro: int = 0
    refused: int = 0

    @property
    def figures(self) -> dict[str, int]:
        """What a run adds up."""
        return {name: getattr(self, name) for name in self.__slots__}


async def preview(connection: Connection, after_seconds: int) -> dict[str, int]:
    """What a run would look at now; changes nothing."""
    row = await connection.fetchrow(SQL.count_pending, after_seconds)
    assert row is not None  # noqa: S101 - an aggregate gives one row
    return dict(row)


async def reconcile(
    connection: Connection, run_id: int, after_seconds: int, prices: PriceSource
) -> AsyncIterator[Reconciled]:
    """Examines every open hold that nobody touched for so long; yields what each transaction did.

    Charged by usage events that name the hold: settled, nothing is charged again. A session whose
    time is over: settled and charged what it reported last. Any other whose time is over: expired.
    Idempotent, and runs at once close each hold once: all is judged under the account's lock. An
    account that is refused is left to the next run. Where this release can not read a version, the
    sessions that need a price stay open.
    """
    refusals = Refusals(connection, run_id)
    after: tuple[datetime, str] = (_FIRST, "")
    while True:
        rows = await connection.fetch(SQL.pending, after_seconds, *after, HOLDS_MAX)
        if not rows:
            return
        after = (rows[-1]["touched_at"], rows[-1]["hold_id"])
        work = partial(_examined, connection, run_id, after_seconds, prices, rows)
        async for done in by_halves(sorted({row["account_id"] for row in rows}), work):
            if isinstance(done, Refused):
                await refusals.note(done)
                yield Reconciled(refused=1)
            else:
                yield done


async def _examined(
    connection: Connection,
    run_id: int,
    after_seconds: int,
    prices: PriceSource,
    rows: Sequence[Record],
    accounts: Sequence[str],
) -> Reconciled:
    """One transaction: those of the holds that are of these accounts."""
    of_these = set(accounts)
    hold_ids = [row["hold_id"] for row in rows if row["account_id"] in of_these]
    unread = await _read_ahead(connection, prices)  # not while the accounts are locked
    async with connection.transaction(isolation="read_committed"):
        await connection.fetch(LEDGER.lock_accounts, accounts)
        found = await connection.fetch(SQL.examine, hold_ids, after_seconds, UNPRICED_SECONDS_MAX)
        done = await _close(connection, run_id, found, prices, unread)
        await add_figures(connection, run_id, done.figures)
    return done


async def _read_ahead(connection: Connection, prices: PriceSource) -> str:
    """Why the prices can not be read, or nothing: then they are read."""
    try:
        await prices.current(connection)
    except Failure as failure:
        return str(failure)
    return ""


async def _close(
    connection: Connection, run_id: int, found: Sequence[Record], prices: PriceSource, unread: str
) -> Reconciled:
    judged = [await _judge(connection, hold, prices, unread) for hold in found]
    ended = [verdict for verdict in judged if isinstance(verdict, Verdict)]
    await connection.execute(
        SQL.close_holds,
        [verdict.hold_id for verdict in ended],
        [verdict.state.value for verdict in ended],
        [verdict.charged_micro for verdict in ended],
        [verdict.to_charge_micro for verdict in ended],
        ACTOR,
    )
    await _charge(connection, run_id, [verdict for verdict in ended if verdict.to_charge_micro])
    settled = sum(verdict.state is HoldState.SETTLED for verdict in ended)
    return Reconciled(
        examined=len(judged),
        reconciled=settled,
        failed=len(ended) - settled,
        waiting=len(judged) - len(ended),
        unpriced=judged.count("unpriced"),
        charged_micro=sum(verdict.to_charge_micro for verdict in ended),
        freed_micro=sum(verdict.reserved_micro for verdict in ended),
    )


async def _charge(connection: Connection, run_id: int, settled: Sequence[Verdict]) -> None:
    if not settled:
        return
    totals: Counter[str] = Counter()
    for verdict in settled:
        totals[verdict.account_id] += verdict.to_charge_micro
    await connection.execute(
        LEDGER.burn_down, list(totals), list(totals.values()), f"reconcile:{run_id}"
    )
    await connection.execute(
        SQL.book_settlements,
        [verdict.hold_id for verdict in settled],
        [verdict.account_id for verdict in settled],
        [verdict.to_charge_micro for verdict in settled],
        [verdict.usage for verdict in settled],
        ACTOR,
    )


async def _judge(
    connection: Connection, hold: Record, prices: PriceSource, unread: str
) -> Verdict | str:
    """The verdict, or why the hold stays open: `early`, `unpriced`."""
    place = (hold["hold_id"], hold["account_id"])
    if hold["events"]:
        charged_micro = hold["charged_micro"]
        return Verdict(*place, HoldState.SETTLED, hold["amount_micro"], charged_micro)
    if not hold["over"]:
        return "early"
    if not hold["usage"]:
        return Verdict(*place, HoldState.EXPIRED, hold["amount_micro"])
    rated = unread or await _price(connection, hold, prices)
    if isinstance(rated, str):
        log.error("a session's usage can not be priced", hold_id=hold["hold_id"], detail=rated)
        if hold["long_over"] and not unread:  # a price that this release can not read may be there
            return Verdict(*place, HoldState.EXPIRED, hold["amount_micro"])
        return "unpriced"
    return Verdict(*place, HoldState.SETTLED, hold["amount_micro"], rated, rated, hold["usage"])


async def _price(connection: Connection, hold: Record, prices: PriceSource) -> int | str:
    """What the reported usage costs, at the prices of when it was reported; or why nobody knows."""
    try:
        event = UsageEvent(
            specversion="1.0",
            id="reconcile",
            source=ACTOR,
            type="tollgate.usage.v1",
            subject=hold["account_id"],
            time=hold["touched_at"],
            data=_USAGE.validate_json(hold["usage"]),
        )
    except ValidationError as error:
        return f"it can not be read: {error.errors(include_input=False)[0]['msg']}"
    rated = await prices.rate(connection, event, hold)
    if isinstance(rated, Rejected):
        return rated.detail
    return 0 if hold["demo"] else rated.rated_micro
