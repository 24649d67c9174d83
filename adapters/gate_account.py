"""One account inside a transaction of the gate: locked, read, and changed."""

from collections.abc import Callable
from dataclasses import dataclass
from datetime import datetime

from asyncpg import Record

from adapters.gate_outcomes import Closed, Denied
from adapters.gate_prices import PriceSource
from adapters.postgres import Connection
from adapters.queries import load
from core.holds import Denial, Funds, HoldState, Limits
from schemas.events import Rejected, UsageEvent

SQL = load("gate")
LEDGER = load("ledger")


@dataclass(frozen=True, slots=True)
class Spending:
    """What is charged by a call: an amount, or a usage that is rated under the account's lock.

    Raises ValueError unless exactly one of the two is given, and for a negative amount.
    """

    account_id: str
    actor: str
    amount_micro: int | None = None
    usage: UsageEvent | None = None
    reason: str = ""
    metadata: str = ""

    def __post_init__(self) -> None:
        if (self.amount_micro is None) == (self.usage is None):
            raise ValueError("either an amount or a usage")
        if self.amount_micro is not None and self.amount_micro < 0:
            raise ValueError("an amount is not negative")


@dataclass(frozen=True, slots=True)
class Hold:
    """An open hold."""

    hold_id: str
    kind: str
    amount_micro: int
    created_at: datetime


class LockedAccount:
    """An account whose lock this transaction holds, with its funds as they are under it."""

    def __init__(
        self,
        connection: Connection,
        account_id: str,
        account: Record,
        reserves: Record,
        limits: Limits,
    ) -> None:
        self.connection = connection
        self.account_id = account_id
        self.limits = limits
        self.funds = funds_of(account, reserves["over_micro"], reserves["open_holds"], limits)
        self._account = account
        self._reserves = reserves

    def open_hold(self, by: str | None = None) -> Hold | Denial:
        """The hold that was asked for, or why it can not be used. Another account's is none.

        `by`: only that actor's hold can be used.
        """
        row = self._reserves
        if row["hold_id"] is None:
            return Denial.NO_SUCH_HOLD
        if by is not None and row["actor"] != by:
            return Denial.NOT_YOURS
        if row["state"] != HoldState.OPEN:
            return Denial.NOT_OPEN
        return Hold(row["hold_id"], row["kind"], row["amount_micro"], row["created_at"])

    @property
    def before(self) -> dict[str, int]:
        """What can change, for the audit log: as it was when the lock was given."""
        funds = self.funds
        return {"balance_micro": funds.balance_micro, "held_micro": funds.held_micro}

    def denied(self, denial: Denial) -> Denied:
        """The refusal, with what could have been promised."""
        return Denied(denial, self.funds.promisable_micro)

    async def price(self, prices: PriceSource, spending: Spending) -> int | Denied:
        """What the spending costs in micro-credits; nothing for a demo account."""
        amount_micro = spending.amount_micro
        if spending.usage is not None:
            rated = await prices.rate(self.connection, spending.usage, self._account)
            if isinstance(rated, Rejected):
                return Denied(Denial.UNPRICED, self.funds.promisable_micro, rated.detail)
            amount_micro = rated.rated_micro
        assert amount_micro is not None  # noqa: S101 - Spending has one of the two
        return 0 if self._account["demo"] else amount_micro

    async def charge(
        self, spending: Spending, amount_micro: int, type_: str, hold_id: str | None
    ) -> int | None:
        """Burns the amount down and books it; returns the transaction, None for nothing charged."""
        if amount_micro == 0:
            return None
        cause = f"{type_.lower()}:{hold_id or spending.account_id}"
        await self.connection.execute(LEDGER.burn_down, [self.account_id], [amount_micro], cause)
        event_id = None if spending.usage is None else spending.usage.id
        posted: int = await self.connection.fetchval(
            SQL.post_charge,
            self.account_id,
            type_,
            -amount_micro,
            hold_id,
            event_id,
            spending.actor,
            spending.reason,
            spending.metadata,
        )
        return posted

    async def close(
        self, hold: Hold, state: HoldState, spending: Spending, amount_micro: int
    ) -> Closed:
        """Frees the reserve, then charges: the hold leaves `open` once, under the lock."""
        charged_micro = amount_micro if state is HoldState.SETTLED else None
        await self.connection.execute(
            SQL.close_hold,
            hold.hold_id,
            self.account_id,
            state.value,
            charged_micro,
            spending.actor,
        )
        posted = await self.charge(spending, amount_micro, "SETTLE", hold.hold_id)
        return Closed(
            hold_id=hold.hold_id,
            account_id=self.account_id,
            state=state,
            reserved_micro=hold.amount_micro,
            charged_micro=amount_micro,
            balance_micro=self.funds.balance_micro - amount_micro,
            transaction_id=posted,
        )


async def lock(
    connection: Connection, account_id: str, hold_id: str | None, limits_of: Callable[[str], Limits]
) -> LockedAccount | None:
    """Locks the account, then reads what its decision needs; None when there is no such account.

    Two statements: the second one sees all that was committed before the lock was given. The limits
    are of the tier that the account has under the lock.
    """
    account = await connection.fetchrow(SQL.lock_funds, account_id)
    if account is None:
        return None
    reserves = await connection.fetchrow(SQL.read_reserves, account_id, hold_id)
    assert reserves is not None  # noqa: S101 - a LEFT JOIN from one row
    limits = limits_of(account["tier"])
    return LockedAccount(connection, account_id, account, reserves, limits)


def funds_of(account: Record, over_micro: int, open_holds: int, limits: Limits) -> Funds:
    """The funds in a row of read_funds or lock_funds, with the cap that counts."""
    return Funds(
        balance_micro=account["balance_micro"],
        held_micro=account["held_micro"],
        over_micro=over_micro,
        cap_micro=limits.cap_of(account["monthly_cap_micro"]),
        spent_micro=account["spent_micro"],
        open_holds=open_holds,
    )
