"""The gate: says no before the money is spent. Checks, holds, settlements and deductions.

Every change is one short transaction under the account's lock, so that two holds never promise the
same credits. What can not be established is a no: trouble raises `Unavailable`, within a second.
Every change takes an idempotency key: the same request again gets the first reply, another one with
that key raises `KeyConflict`.
"""

import secrets
import time
from collections.abc import Awaitable, Callable, Mapping
from copy import copy
from dataclasses import dataclass, field
from typing import TypeVar

from adapters.admin_acts import Admin
from adapters.at_hand import AtHand
from adapters.audit_log import note
from adapters.gate_account import LockedAccount, Spending, funds_of, lock
from adapters.gate_outcomes import (
    Closed,
    Deducted,
    Denied,
    Held,
    Outcome,
    from_text,
    said,
    to_text,
)
from adapters.gate_prices import PricesUnread, SharedPrices
from adapters.idempotency import Key, Reply, once
from adapters.patience import Patience, Unavailable
from adapters.postgres import REPEATABLE, Connection, Pool
from adapters.queries import load
from core.holds import Denial, HoldState, Limits, TierLimits, may_go_on, may_hold, may_start

SQL = load("gate")
Kind = TypeVar("Kind", Held, Closed, Deducted)
# The noes that the same request should outlive, whatever its key: holds end, prices are published.
NOT_KEPT = frozenset({Denial.TOO_MANY_HOLDS, Denial.UNPRICED})


class _NotKept(Exception):  # noqa: N818 - an answer, on its way out of the transaction
    """A no that undoes its transaction, so that no key stands for it."""

    def __init__(self, denied: Denied) -> None:
        self.denied = denied


@dataclass(frozen=True, slots=True)
class Rules:
    """How this deployment's gate decides; `tiers` have limits of their own."""

    limits: Limits
    seconds_max: float = 0.9
    hold_seconds: int = 900
    hold_seconds_max: int = 86_400
    tiers: Mapping[str, Limits] = field(default_factory=dict)

    def limits_of(self, tier: str) -> Limits:
        """The limits of an account of that tier."""
        return TierLimits(self.limits, self.tiers).of(tier)

    @property
    def strictest(self) -> Limits:
        """What an account of any tier may do."""
        every = [self.limits, *self.tiers.values()]
        caps_micro = [limits.cap_micro for limits in every if limits.cap_micro is not None]
        return Limits(
            minimum_micro=max(limits.minimum_micro for limits in every),
            open_holds_max=min(limits.open_holds_max for limits in every),
            cap_micro=min(caps_micro, default=None),
        )


@dataclass(frozen=True, slots=True)
class Answer:
    """What a check says. Never true without a fresh read of the account."""

    sufficient: bool
    denial: Denial | None
    available_micro: int


@dataclass(frozen=True, slots=True)
class HoldRequest:
    """Credits to reserve. Without `hold_id` one is made; `live_seconds` None: the default."""

    account_id: str
    amount_micro: int
    actor: str
    hold_id: str | None = None
    kind: str = "hold"
    metadata: str = ""
    live_seconds: int | None = None


class Gate:
    """Every operation of the gate. Safe to share by any number of requests of one loop."""

    def __init__(self, pool: Pool, rules: Rules) -> None:
        self._pool = pool
        self._rules = rules
        self._plain = rules.strictest
        self.prices = SharedPrices(pool, rules.seconds_max)
        self._patience = Patience(rules.seconds_max)
        self._at_hand = AtHand(pool, rules.seconds_max)
        self._admin: Admin | None = None

    def signed(self, admin: Admin | None) -> "Gate":
        """The same gate; what it changes is written down as that admin's, in its transaction."""
        if admin is None:
            return self
        signed = copy(self)
        signed._admin = admin  # noqa: SLF001 - it is this class
        return signed

    async def check(self, account_id: str, amount_micro: int) -> Answer:
        """Whether work of that price may start now. Reserves nothing. Raises Unavailable."""
        row = await self._at_hand.fetchrow(SQL.read_funds, account_id)
        if row is None:
            return Answer(sufficient=False, denial=Denial.UNKNOWN_ACCOUNT, available_micro=0)
        if not row["writable"]:
            raise Unavailable("PostgreSQL takes no changes: what it knows may be old")
        limits = self._rules.limits_of(row["tier"])
        funds = funds_of(row, row["over_micro"], 0, limits)
        denial = may_start(funds, amount_micro, limits)
        return Answer(denial is None, denial, funds.available_micro)

    async def hold(self, request: HoldRequest, key: Key | None = None) -> Held | Denied:
        """Reserves credits, or says why not. Raises KeyConflict and Unavailable.

        One statement makes a hold that is plainly allowed. When it does not, for whatever reason,
        nothing was done, and the same transaction as everywhere decides and says why.
        """
        began = time.monotonic()
        hold_id = request.hold_id or f"hold_{secrets.token_hex(16)}"
        live_seconds = self._rules.hold_seconds
        if request.live_seconds is not None:
            live_seconds = min(request.live_seconds, self._rules.hold_seconds_max)
        made = None
        if self._admin is None:
            made = await self._hold_at_once(request, key, hold_id, live_seconds)
        if made is not None:
            return made

        async def place_hold(account: LockedAccount) -> Held | Denied:
            denial = may_hold(account.funds, request.amount_micro, account.limits)
            if denial is not None:
                return account.denied(denial)
            made = await account.connection.fetchrow(
                SQL.add_hold,
                hold_id,
                request.account_id,
                request.amount_micro,
                request.kind,
                request.actor,
                request.metadata,
                live_seconds,
            )
            if made is None:
                return account.denied(Denial.ID_TAKEN)
            return Held(
                hold_id,
                request.account_id,
                request.kind,
                request.amount_micro,
                account.funds.available_micro - request.amount_micro,
                made["created_at"],
                made["expires_at"],
            )

        spent_seconds = time.monotonic() - began
        outcome = await self._decide(request.account_id, None, key, place_hold, spent_seconds)
        return _one_of(Held, outcome)

    async def extend(
        self,
        account_id: str,
        hold_id: str,
        more_micro: int,
        key: Key | None = None,
        *,
        usage: str | None = None,
        by: str | None = None,
    ) -> Held | Denied:
        """Reserves more on an open hold, keeps the usage reported so far, lets it live longer.

        With 0 more it only tells that the work goes on. `by`: only if that actor placed the hold.
        Raises KeyConflict and Unavailable.
        """

        async def extend_hold(account: LockedAccount) -> Held | Denied:
            hold = account.open_hold(by)
            if isinstance(hold, Denial):
                return account.denied(hold)
            denial = may_go_on(account.funds, more_micro) if more_micro else None
            if denial is not None:
                return account.denied(denial)
            row = await account.connection.fetchrow(
                SQL.extend_hold, hold_id, account_id, more_micro, usage, self._rules.hold_seconds
            )
            assert row is not None  # noqa: S101 - it is open, and its account is locked
            return Held(
                hold_id,
                account_id,
                hold.kind,
                row["amount_micro"],
                account.funds.available_micro - more_micro,
                hold.created_at,
                row["expires_at"],
            )

        return _one_of(Held, await self._decide(account_id, hold_id, key, extend_hold))

    async def settle(
        self,
        hold_id: str,
        spending: Spending,
        key: Key | None = None,
        *,
        by: str | None = None,
    ) -> Closed | Denied:
        """Charges what the work really cost and frees the reserve, in one transaction.

        The work has happened: more than the reserve, and more than the balance, is charged too.
        `by`: only if that actor placed the hold. Raises KeyConflict and Unavailable.
        """

        async def settle_hold(account: LockedAccount) -> Closed | Denied:
            hold = account.open_hold(by)
            if isinstance(hold, Denial):
                return account.denied(hold)
            amount_micro = await account.price(self.prices, spending)
            if isinstance(amount_micro, Denied):
                return amount_micro
            return await account.close(hold, HoldState.SETTLED, spending, amount_micro)

        return _one_of(Closed, await self._decide(spending.account_id, hold_id, key, settle_hold))

    async def release(
        self,
        account_id: str,
        hold_id: str,
        actor: str,
        key: Key | None = None,
        *,
        by: str | None = None,
    ) -> Closed | Denied:
        """Frees the reserve of work that did not happen. `by`: only if that actor placed the hold.

        Raises KeyConflict and Unavailable.
        """
        nothing = Spending(account_id, actor, amount_micro=0)

        async def release_hold(account: LockedAccount) -> Closed | Denied:
            hold = account.open_hold(by)
            if isinstance(hold, Denial):
                return account.denied(hold)
            return await account.close(hold, HoldState.RELEASED, nothing, 0)

        return _one_of(Closed, await self._decide(account_id, hold_id, key, release_hold))

    async def deduct(self, spending: Spending, key: Key | None = None) -> Deducted | Denied:
        """Charges at once if the account can pay it in full (G6).

        Raises KeyConflict and Unavailable.
        """

        async def deduct(account: LockedAccount) -> Deducted | Denied:
            amount_micro = await account.price(self.prices, spending)
            if isinstance(amount_micro, Denied):
                return amount_micro
            denial = may_go_on(account.funds, amount_micro) if amount_micro else None
            if denial is not None:
                return account.denied(denial)
            posted = await account.charge(spending, amount_micro, "DEDUCT", None)
            balance_micro = account.funds.balance_micro - amount_micro
            return Deducted(spending.account_id, amount_micro, balance_micro, posted)

        return _one_of(Deducted, await self._decide(spending.account_id, None, key, deduct))

    async def _hold_at_once(
        self, request: HoldRequest, key: Key | None, hold_id: str, live_seconds: int
    ) -> Held | None:
        plain = self._plain
        named = (None, None, None, None)
        try:
            row = await self._at_hand.fetchrow(
                SQL.hold_at_once,
                hold_id,
                request.account_id,
                request.amount_micro,
                request.kind,
                request.actor,
                request.metadata,
                live_seconds,
                plain.minimum_micro,
                plain.open_holds_max,
                plain.cap_micro,
                *(named if key is None else (key.caller, key.key, key.operation, key.body_hash)),
            )
        except REPEATABLE:
            return None
        if row is None or row["reply"] is None:
            return None
        made = from_text(row["reply"])
        assert isinstance(made, Held)  # noqa: S101 - it says nothing else
        return made

    async def _decide(
        self,
        account_id: str,
        hold_id: str | None,
        key: Key | None,
        decide: Callable[[LockedAccount], Awaitable[Outcome]],
        spent_seconds: float = 0.0,
    ) -> Outcome:
        async def work(connection: Connection) -> str:
            account = await lock(connection, account_id, hold_id, self._rules.limits_of)
            if account is None:
                return to_text(Denied(Denial.UNKNOWN_ACCOUNT))
            outcome = await decide(account)
            if isinstance(outcome, Denied):
                if outcome.denial in NOT_KEPT:
                    raise _NotKept(outcome)
            elif self._admin is not None:
                # The operations are named as the acts are to be.
                act = self._admin.act(decide.__name__, account_id, account.before, said(outcome))
                await note(connection, act)
            return to_text(outcome)

        try:
            reply = await self._patience.within(self._answered(key, work), spent_seconds)
        except _NotKept as no:
            return no.denied
        return from_text(reply.text)

    async def _answered(
        self, key: Key | None, work: Callable[[Connection], Awaitable[str]]
    ) -> Reply:
        """The reply of one transaction. Where prices have to be read, that is waited for without a
        lock or a connection. A no that is not kept may be due to the same request with the same
        key, which won meanwhile.
        """
        again = key is not None
        while True:
            try:
                return await once(self._pool, key, work)
            except PricesUnread:
                await self.prices.read()
            except _NotKept:
                if not again:
                    raise
                again = False


def _one_of(kind: type[Kind], outcome: Outcome) -> Kind | Denied:
    if isinstance(outcome, kind | Denied):
        return outcome
    raise AssertionError(f"a key of this operation stands for {outcome!r}")
