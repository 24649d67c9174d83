"""Grants, holds, charges, expiry, refresh, coupons, adjustments and reconciliation in any order,
beside an oracle.

Every step is done by the code that does it in production, on a real PostgreSQL; after every step
the account is what the oracle says, and every invariant of the ledger holds.
"""

import asyncio
from datetime import UTC, datetime, timedelta
from itertools import count
from typing import Any

from hypothesis import HealthCheck
from hypothesis import settings as hypothesis_settings
from hypothesis import strategies as st
from hypothesis.stateful import precondition, rule, run_state_machine_as_test

from adapters.accounts import GrantRequest, Source, create_account, give
from adapters.adjustments import Adjustment, adjust
from adapters.coupons import NewCoupon, Redeemed, create_coupon, redeem, top_up
from adapters.expiry import expire
from adapters.gate import HoldRequest
from adapters.gate_account import Spending
from adapters.gate_outcomes import Closed, Deducted, Denied, Held
from adapters.idempotency import Key
from adapters.price_store import publish
from adapters.refresh import RefreshRun, refresh_due
from adapters.settings import Settings
from core.coupons import CouponKind
from core.holds import HoldState, Limits
from core.refresh import Terms
from tests.batches import desk, usage
from tests.corrected import wrong
from tests.credits_oracle import (
    ACCOUNT_USES_MAX,
    ALLOWANCE_MICRO,
    COUPON_MICRO,
    COUPON_USES_MAX,
    MINIMUM_MICRO,
    OPEN_HOLDS_MAX,
    ROLLOVER_MAX_MICRO,
    Oracle,
)
from tests.gates import gate
from tests.left_sessions import EVENT_MICRO, LeftSessions, numbers, which
from tests.planted_ledger import connect, run_sql

START_MICRO = 15_000  # so that most steps find something to move
TERMS = Terms({"free": ALLOWANCE_MICRO}, ROLLOVER_MAX_MICRO)
OFTEN = hypothesis_settings(
    max_examples=50,
    stateful_step_count=30,
    deadline=None,
    suppress_health_check=[HealthCheck.too_slow],
)
amounts = st.integers(1, 9_000) | st.sampled_from([2_000, 4_000])


class Credits(LeftSessions):
    """Two accounts that share coupons, a gate, a rater and the scheduler's jobs."""

    examples = count()
    offsets = count()

    def __init__(self) -> None:
        super().__init__()
        example = next(self.examples)
        self.names = (f"{example}-{n}" for n in count())
        self.fixed, self.half = f"FIXED-{example}", f"HALF-{example}"
        self.accounts = [f"a-{example}", f"b-{example}"]
        self.told = {name: Oracle() for name in self.accounts}
        self.charged: list[dict[str, Any]] = []
        self.runner.run(self._open())

    async def _open(self) -> None:
        connection = self.bench.connection
        for name in self.accounts:
            await create_account(connection, name, tier="free", demo=False, welcome=None)
        fixed = NewCoupon(
            self.fixed,
            CouponKind.FIXED,
            "tests",
            amount_micro=COUPON_MICRO,
            uses_max=COUPON_USES_MAX,
            account_uses_max=ACCOUNT_USES_MAX,
        )
        half = NewCoupon(
            self.half,
            CouponKind.PERCENTAGE,
            "tests",
            percent_micro=50_000_000,
            account_uses_max=1_000,
        )
        await create_coupon(connection, fixed)
        await create_coupon(connection, half)
        for name in self.accounts:
            await give(connection, GrantRequest(name, START_MICRO, "tests"))
            self.told[name].give(START_MICRO)

    @rule(n=which, amount=amounts, priority=st.sampled_from([1, 100, 200]), days=st.integers(0, 3))
    def grant(self, n: int, amount: int, priority: int, days: int) -> None:
        """With an end after 1 to 3 days, or without one."""
        name = self.accounts[n]
        expires_at = datetime.now(UTC) + timedelta(days=days) if days else None
        request = GrantRequest(name, amount, "tests", priority=priority, expires_at=expires_at)
        self.runner.run(give(self.bench.connection, request))
        self.told[name].give(amount, priority, days or None)
        self.check()

    @rule(days=st.integers(1, 3))
    def time_passes(self, days: int) -> None:
        """Grants that end within so many days have ended."""
        self.runner.run(
            self.bench.connection.execute(
                "UPDATE credit_grant SET expires_at = now() - make_interval(days => 4 - $2::int)"
                " WHERE account_id = ANY($1) AND NOT spent"
                " AND expires_at BETWEEN now() AND now() + make_interval(days => $2::int)",
                self.accounts,
                days,
            )
        )
        for given in [given for told in self.told.values() for given in told.grants]:
            if given.expires_day is not None and given.expires_day <= days:
                given.over = True
        self.check()

    @rule()
    def expiry(self) -> None:
        async def run() -> None:
            async for _ in expire(self.bench.connection, "tests"):
                pass

        self.runner.run(run())
        for told in self.told.values():
            told.expire()
        self.check()

    @rule(n=which, amount=amounts)
    def hold(self, n: int, amount: int) -> None:
        """Twice with one key: the second call has no effect of its own."""
        name, hold_id = self.accounts[n], f"hold-{next(self.names)}"
        told = self.told[name]
        request = HoldRequest(name, amount, "tests", hold_id)
        key = Key("tests", hold_id, "hold", b"")
        outcome, again = self.runner.run(self._twice(request, key))
        assert again == outcome
        denial = told.denial_to_start(amount)
        assert (outcome.denial if isinstance(outcome, Denied) else None) == denial
        if isinstance(outcome, Held):
            told.holds[hold_id] = amount
            assert outcome.available_micro == told.available_micro
        self.check()

    async def _twice(self, request: HoldRequest, key: Key) -> tuple[Held | Denied, Held | Denied]:
        return await self.the_gate.hold(request, key), await self.the_gate.hold(request, key)

    def _open_hold(self, number: int) -> tuple[str, Oracle, str]:
        every = [(name, hold) for name, told in self.told.items() for hold in told.holds]
        name, hold = every[number % len(every)]
        return name, self.told[name], hold

    def _some_open(self) -> bool:
        return any(told.holds for told in self.told.values())

    @precondition(_some_open)
    @rule(number=numbers, more=st.integers(0, 4_000))
    def extend(self, number: int, more: int) -> None:
        name, told, hold = self._open_hold(number)
        outcome = self.runner.run(self.the_gate.extend(name, hold, more))
        denial = told.denial(more) if more else None
        assert (outcome.denial if isinstance(outcome, Denied) else None) == denial
        if denial is None:
            told.holds[hold] += more
        self.check()

    @precondition(_some_open)
    @rule(number=numbers, amount=st.integers(0, 9_000))
    def settle(self, number: int, amount: int) -> None:
        name, told, hold = self._open_hold(number)
        outcome = self.runner.run(self.the_gate.settle(hold, Spending(name, "tests", amount)))
        assert isinstance(outcome, Closed)
        del told.holds[hold]
        told.spend(amount)
        assert (outcome.state, outcome.balance_micro) == (HoldState.SETTLED, told.balance_micro)
        self.check()

    @precondition(_some_open)
    @rule(number=numbers)
    def release(self, number: int) -> None:
        name, told, hold = self._open_hold(number)
        outcomes = self.runner.run(self._release_twice(name, hold))
        assert [isinstance(outcome, Closed) for outcome in outcomes] == [True, False]
        del told.holds[hold]
        self.check()

    async def _release_twice(self, name: str, hold: str) -> list[Closed | Denied]:
        return [await self.the_gate.release(name, hold, "tests") for _ in range(2)]

    @rule(n=which, amount=st.integers(0, 9_000))
    def deduct(self, n: int, amount: int) -> None:
        name = self.accounts[n]
        told = self.told[name]
        outcome = self.runner.run(self.the_gate.deduct(Spending(name, "tests", amount)))
        denial = told.denial(amount) if amount else None
        assert (outcome.denial if isinstance(outcome, Denied) else None) == denial
        if isinstance(outcome, Deducted):
            told.spend(amount)
        self.check()

    @rule(used=st.lists(st.tuples(which, st.integers(0, 3), st.booleans()), min_size=1, max_size=4))
    def charge(self, used: list[tuple[int, int, bool]]) -> None:
        """A batch of the rater; an event may name an open hold of its account."""
        values = []
        for n, quantity, by_hold in used:
            name = self.accounts[n]
            told = self.told[name]
            data = {"action": "once", "quantity": quantity, "model": "", "provider": ""}
            if by_hold and told.holds:
                data["hold_id"] = min(told.holds)
                del told.holds[min(told.holds)]
            values.append(usage(f"e{next(self.names)}", name, tokens={}, **data))
            told.spend(quantity * EVENT_MICRO)
        self._apply(values, charged=len(values))
        self.charged += values

    @precondition(lambda self: self.charged)
    @rule(number=numbers)
    def charge_again(self, number: int) -> None:
        self._apply([self.charged[number % len(self.charged)]], charged=0)

    def _apply(self, values: list[dict[str, Any]], *, charged: int) -> None:
        first = next(self.offsets)
        for _ in values[1:]:
            next(self.offsets)
        figures = self.runner.run(self.bench.apply(*values, first=first))
        assert figures.charged == charged
        self.check()

    @rule(n=which)
    def refresh(self, n: int) -> None:
        name = self.accounts[n]
        self.runner.run(self._refresh(name))
        self.told[name].refresh()
        self.check()

    async def _refresh(self, name: str) -> None:
        await self.bench.connection.execute(
            "INSERT INTO allowance (account_id, due_at) VALUES ($1, now())"
            " ON CONFLICT (account_id) DO UPDATE SET due_at = now()",
            name,
        )
        run = RefreshRun(0, "tests", "due", TERMS)
        for expected in (1, 0):
            done = [batch async for batch in refresh_due(self.bench.connection, run, 10)]
            assert sum(batch.refreshed for batch in done) == expected

    @rule(n=which)
    def coupon(self, n: int) -> None:
        name = self.accounts[n]
        outcome = self.runner.run(self._redeem(name))
        uses = sum(told.coupon_uses for told in self.told.values())
        refusal = self.told[name].redeem(uses)
        assert isinstance(outcome, Redeemed) if refusal is None else outcome is refusal
        self.check()

    async def _redeem(self, name: str) -> object:
        async with self.bench.connection.transaction():
            return await redeem(self.bench.connection, self.fixed, name, "tests")

    @rule(n=which, amount=st.integers(1, 9))
    def purchase(self, n: int, amount: int) -> None:
        name = self.accounts[n]
        bought = self.runner.run(self._buy(name, amount))
        assert bought is self.told[name].buy(amount)
        self.check()

    async def _buy(self, name: str, amount: int) -> bool:
        request = GrantRequest(name, amount, "tests", source=Source.TOP_UP)
        transaction = self.bench.connection.transaction()
        await transaction.start()
        if isinstance(await top_up(self.bench.connection, request, self.half), tuple):
            await transaction.commit()
            return True
        await transaction.rollback()
        return False

    @rule(n=which, amount=st.integers(-9_000, 9_000).filter(bool))
    def adjustment(self, n: int, amount: int) -> None:
        name = self.accounts[n]
        self.runner.run(self._adjust(Adjustment(name, amount, "tests", "a test")))
        if amount > 0:
            self.told[name].give(amount)
        else:
            self.told[name].take(-amount)
        self.check()

    async def _adjust(self, adjustment: Adjustment) -> None:
        async with self.bench.connection.transaction():
            assert await adjust(self.bench.connection, adjustment) is not None

    @rule(n=which, cap=st.sampled_from([None, 0, 3_000, 6_000, 12_000]))
    def cap(self, n: int, cap: int | None) -> None:
        name = self.accounts[n]
        statement = "UPDATE account SET monthly_cap_micro = $2 WHERE account_id = $1"
        self.runner.run(self.bench.connection.execute(statement, name, cap))
        self.told[name].cap_micro = cap
        self.check()

    def check(self) -> None:
        self.runner.run(self._check())

    async def _check(self) -> None:
        assert await wrong(self.bench) == []
        for name, told in self.told.items():
            row = await self.bench.connection.fetchrow(
                "SELECT balance_micro, overdraft_micro, held_micro, spend_micro, ARRAY("
                "SELECT remaining_micro FROM credit_grant WHERE credit_grant.account_id = $1"
                " AND NOT spent ORDER BY grant_id) AS grants FROM account WHERE account_id = $1",
                name,
            )
            assert tuple(row) == (
                told.balance_micro,
                told.overdraft_micro,
                sum(told.holds.values()),
                told.spent_micro,
                [given.left_micro for given in told.grants if given.left_micro],
            )
            answer = await self.the_gate.check(name, 1)
            assert answer.available_micro == told.available_micro


async def _publish_small_book(settings: Settings) -> None:
    """In place of the default book, whose catalog of models takes long to read."""
    document = {
        "credits_per_usd": "1",
        "power_levels": {"eco": "1", "balanced": "1", "precision": "1"},
        "tiers": {"free": "1"},
        "own_key_share": "1",
        "actions": {"once": {"credits": "0.002"}},
        "models": {},
        "catalog": {"source": "none", "providers": []},
    }
    await run_sql(
        settings,
        "DELETE FROM price_version",
        "ALTER SEQUENCE price_version_price_version_seq RESTART",
    )
    connection = await connect(settings)
    try:
        start = datetime(2020, 1, 1, tzinfo=UTC)
        assert await publish(connection, document, start, "tests", correction=True) == 1
    finally:
        await connection.close()


def test_no_order_of_anything_breaks_the_ledger_or_the_oracle(settings: Settings) -> None:
    limits = Limits(MINIMUM_MICRO, OPEN_HOLDS_MAX)
    with asyncio.Runner() as runner:
        runner.run(_publish_small_book(settings))
        at_desk, at_gate = desk(settings, create_accounts=False), gate(settings, limits=limits)
        bench = runner.run(at_desk.__aenter__())
        the_gate = runner.run(at_gate.__aenter__())
        runner.run(bench.open())
        shared = {"runner": runner, "bench": bench, "the_gate": the_gate}
        try:
            run_state_machine_as_test(type("Machine", (Credits,), shared), settings=OFTEN)
        finally:
            runner.run(at_gate.__aexit__(None, None, None))
            runner.run(at_desk.__aexit__(None, None, None))
