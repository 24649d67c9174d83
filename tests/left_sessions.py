"""Sessions that are left alone, and events that come late: rules of the credits' state machine."""

import asyncio
import json
from abc import abstractmethod
from collections.abc import Iterator
from typing import Any

from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, precondition, rule

from adapters.gate import Gate
from adapters.gate_outcomes import Held
from adapters.gate_prices import PriceSource
from adapters.overtaken import replace
from adapters.reconcile import reconcile
from tests.batches import Desk, usage
from tests.credits_oracle import Oracle

EVENT_MICRO = 2_000
which = st.integers(0, 1)
numbers = st.integers(0, 99)


class LeftSessions(RuleBasedStateMachine):
    """What the whole machine has, and what becomes of its sessions."""

    runner: asyncio.Runner
    bench: Desk
    the_gate: Gate
    prices = PriceSource()
    names: Iterator[str]
    accounts: list[str]
    told: dict[str, Oracle]
    charged: list[dict[str, Any]]

    @abstractmethod
    def hold(self, n: int, amount: int) -> None: ...

    @abstractmethod
    def _apply(self, values: list[dict[str, Any]], *, charged: int) -> None: ...

    @abstractmethod
    def check(self) -> None: ...

    @rule(n=which, quantity=st.integers(0, 3), late=st.none() | st.integers(0, 3))
    def abandon(self, n: int, quantity: int, late: int | None) -> None:
        """A session reports usage and is left alone; its app may send events all the same."""
        name, told = self.accounts[n], self.told[self.accounts[n]]
        before = set(told.holds)
        self.hold(n, 1)
        for hold in set(told.holds) - before:
            data = {"action": "once", "quantity": quantity, "tokens": {}}
            report = json.dumps({**data, "provider": "", "model": ""})
            self.runner.run(self._leave(name, hold, report))
            told.abandon(hold, quantity * EVENT_MICRO)
            self._reconcile()
            if late is None:
                self.check()
            else:
                self._late_event(name, hold, late)

    async def _leave(self, name: str, hold: str, report: str) -> None:
        assert isinstance(await self.the_gate.extend(name, hold, 0, usage=report), Held)
        await self.bench.connection.execute(
            "UPDATE credit_hold SET touched_at = now() - interval '1 hour', expires_at = now()"
            " WHERE hold_id = $1",
            hold,
        )

    @precondition(lambda self: any(told.reports for told in self.told.values()))
    @rule(number=numbers, quantity=st.integers(0, 3))
    def late_event(self, number: int, quantity: int) -> None:
        every = [(name, hold) for name, told in self.told.items() for hold in told.reports]
        self._late_event(*every[number % len(every)], quantity)

    def _late_event(self, name: str, hold: str, quantity: int) -> None:
        """Of a hold whose report was charged, or cost nothing."""
        told = self.told[name]
        told.spend(quantity * EVENT_MICRO)
        if hold in told.reports:
            told.overtaken.add(hold)
        data = {"action": "once", "quantity": quantity, "model": "", "provider": ""}
        values = [usage(f"e{next(self.names)}", name, tokens={}, hold_id=hold, **data)]
        self._apply(values, charged=1)
        self.charged += values

    @rule()
    def reconcile(self) -> None:
        self._reconcile()
        self.check()

    def _reconcile(self) -> None:
        async def run() -> None:
            async for _ in reconcile(self.bench.connection, 0, 300, self.prices):
                pass
            async for _ in replace(self.bench.connection, 0):
                pass

        self.runner.run(run())
        for told in self.told.values():
            told.reconcile()
