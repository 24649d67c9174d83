"""Charges, voids, amendments, re-rates and reverts in any order, beside a small oracle."""

import asyncio
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from itertools import count
from typing import Any

from hypothesis import HealthCheck
from hypothesis import settings as hypothesis_settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, precondition, rule, run_state_machine_as_test

from adapters.accounts import GrantRequest, change_account, create_account, give
from adapters.charges import amend, void
from adapters.corrections import Change, Kind, charges_in_force, post
from adapters.price_store import publish
from adapters.settings import Settings
from core.rating import Rated
from core.recorded import recorded_event
from tests.batches import Desk, desk, usage
from tests.corrected import request, wrong
from tests.planted_ledger import connect, run_sql

WELCOME = 30_000
ONE_MICRO = {"once": 2_000, "cheap": 1}
STEPS = [{"up_to": "6", "credits": "0.002"}, {"credits": "0.001"}]
ACTIONS: dict[str, Any] = {
    "once": {"credits": "0.002"},
    "cheap": {"credits": "0.000001"},
    "graduated": {"charge": "graduated", "steps": STEPS},
    "volume": {"charge": "volume", "steps": STEPS},
}


@dataclass(frozen=True)
class Told:
    """What the oracle knows of one event; a re-rate fixes the price of what has no counter."""

    account_id: str
    action: str
    quantity: int
    voided: bool = False
    fixed_micro: int | None = None


def month_micro(action: str, units: int) -> int:
    """The definition: 0.002 credits each up to 6 units, 0.001 above; volume takes one for all."""
    if action == "volume":
        return units * (2_000 if units <= 6 else 1_000)
    return min(units, 6) * 2_000 + max(0, units - 6) * 1_000


def total_micro(told: list[Told]) -> int:
    """What all events of one account cost."""
    plain = [event for event in told if event.action in ONE_MICRO and not event.voided]
    total = sum(
        event.quantity * ONE_MICRO[event.action] if event.fixed_micro is None else event.fixed_micro
        for event in plain
    )
    for action in ("graduated", "volume"):
        units = sum(e.quantity for e in told if e.action == action and not e.voided)
        total += month_micro(action, units)
    return total


class Corrections(RuleBasedStateMachine):
    """Every step is one transaction of the real ledger; then everything is compared."""

    runner: asyncio.Runner
    bench: Desk
    examples = count()
    offsets = count()
    runs = count(1)

    def __init__(self) -> None:
        super().__init__()
        example = next(self.examples)
        self.accounts = [f"paying-{example}", f"demo-{example}"]
        self.told: dict[str, Told] = {}
        self.before_run: dict[str, tuple[Told, int]] = {}
        self.granted = dict.fromkeys(self.accounts, 0)
        self.runner.run(self._open())

    async def _open(self) -> None:
        for account_id in self.accounts:
            await create_account(
                self.bench.connection, account_id, tier="pro", demo=False, welcome=None
            )
        await change_account(self.bench.connection, self.accounts[1], tier=None, demo=True)

    @rule(which=st.integers(0, 1), amount=st.integers(1, 9_000), priority=st.sampled_from([1, 200]))
    def grant(self, which: int, amount: int, priority: int) -> None:
        gift = GrantRequest(self.accounts[which], amount, actor="tests", priority=priority)
        self.runner.run(give(self.bench.connection, gift))
        self.granted[self.accounts[which]] += amount
        self.check()

    @rule(
        which=st.integers(0, 1),
        used=st.lists(
            st.tuples(st.sampled_from(sorted(ACTIONS)), st.integers(0, 5)), min_size=1, max_size=4
        ),
    )
    def charge(self, which: int, used: list[tuple[str, int]]) -> None:
        account_id = self.accounts[which]
        values = []
        for action, quantity in used:
            event_id = f"e{len(self.told)}"
            self.told[event_id] = Told(account_id, action, quantity)
            data = {"action": action, "quantity": quantity, "model": "", "tokens": {}}
            values.append(usage(event_id, account_id, **data))
        first = next(self.offsets)
        for _ in values[1:]:
            next(self.offsets)
        figures = self.runner.run(self.bench.apply(*values, first=first))
        assert figures.charged == len(values)
        self.check()

    def _one(self, number: int) -> str:
        return f"e{number % len(self.told)}"

    @precondition(lambda self: self.told)
    @rule(number=st.integers(0, 99))
    def void(self, number: int) -> None:
        event_id = self._one(number)
        event = self.told[event_id]
        answer = self.runner.run(void(self.bench.connection, request(event_id, event.account_id)))
        assert answer.changed is not event.voided
        self.told[event_id] = replace(event, voided=True, fixed_micro=None)
        self.before_run.pop(event_id, None) if answer.changed else None
        self.check()

    @precondition(lambda self: self.told)
    @rule(number=st.integers(0, 99), quantity=st.integers(0, 5))
    def amend(self, number: int, quantity: int) -> None:
        event_id = self._one(number)
        event = self.told[event_id]
        answer = self.runner.run(
            amend(
                self.bench.connection,
                request(event_id, event.account_id),
                {"quantity": quantity},
            )
        )
        assert answer.changed is (event.voided or quantity != event.quantity)
        if answer.changed:
            self.told[event_id] = replace(event, quantity=quantity, voided=False, fixed_micro=None)
            self.before_run.pop(event_id, None)
        self.check()

    @precondition(lambda self: self.told)
    @rule(numbers=st.sets(st.integers(0, 99), min_size=1, max_size=5), price=st.integers(0, 9_000))
    def rerate(self, numbers: set[int], price: int) -> None:
        chosen = [
            (self.told[event_id].account_id, event_id)
            for event_id in sorted({self._one(number) for number in numbers})
            if self.told[event_id].action in ONE_MICRO and not self.told[event_id].voided
        ]
        self.runner.run(self._rerate(chosen, price))
        self.check()

    async def _rerate(self, chosen: list[tuple[str, str]], price: int) -> None:
        standing = await charges_in_force(self.bench.connection, chosen)
        changes = []
        for (account_id, event_id), row in standing.items():
            told = self.told[event_id]
            if row["rated_micro"] != price:
                self.before_run[event_id] = (told, row["rated_micro"])
            self.told[event_id] = replace(told, fixed_micro=price)
            event, rated = recorded_event(row), Rated(price, 1, row["rule"])
            changes.append(
                Change(account_id, event_id, Kind.RERATE, False, event, rated, row["sequence"])  # noqa: FBT003
            )
        await self._post(changes)

    @precondition(lambda self: self.before_run)
    @rule()
    def revert(self) -> None:
        self.runner.run(self._revert())
        self.check()

    async def _revert(self) -> None:
        chosen = [(told.account_id, name) for name, (told, _) in self.before_run.items()]
        standing = await charges_in_force(self.bench.connection, chosen)
        changes = []
        for (account_id, event_id), row in standing.items():
            told, price = self.before_run[event_id]
            self.told[event_id] = told
            event, rated = recorded_event(row), Rated(price, 1, row["rule"])
            changes.append(Change(account_id, event_id, Kind.REVERT, False, event, rated))  # noqa: FBT003
        self.before_run.clear()
        await self._post(changes)

    async def _post(self, changes: list[Change]) -> None:
        async with self.bench.connection.transaction():
            posted = await post(
                self.bench.connection, changes, actor="t", reason="r", run_id=next(self.runs)
            )
        assert posted.stale == ()

    def check(self) -> None:
        self.runner.run(self._check())

    async def _check(self) -> None:
        assert await wrong(self.bench) == []
        identities = [(told.account_id, event_id) for event_id, told in self.told.items()]
        standing = await charges_in_force(self.bench.connection, identities)
        for account_id in self.accounts:
            mine = [told for told in self.told.values() if told.account_id == account_id]
            rated = sum(r["rated_micro"] for (who, _), r in standing.items() if who == account_id)
            assert rated == total_micro(mine)
            gone = {r["rated_micro"] for r in standing.values() if r["voided"]}
            assert gone <= {0}
            owed = 0 if account_id.startswith("demo") else rated
            balance = await self.bench.value(
                "SELECT balance_micro FROM account WHERE account_id = $1", account_id
            )
            assert balance == self.granted[account_id] - owed


async def _publish_small_book(settings: Settings) -> None:
    """In place of the default book, whose catalog of models takes long to read at every step."""
    document = {
        "credits_per_usd": "1",
        "power_levels": {"eco": "1", "balanced": "1", "precision": "1"},
        "tiers": {"pro": "1"},
        "own_key_share": "1",
        "actions": ACTIONS,
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


def test_no_order_of_corrections_breaks_the_ledger_or_the_oracle(settings: Settings) -> None:
    with asyncio.Runner() as runner:
        runner.run(_publish_small_book(settings))
        opened = desk(settings, create_accounts=False)
        bench = runner.run(opened.__aenter__())
        runner.run(bench.open())
        machine = type("Machine", (Corrections,), {"runner": runner, "bench": bench})
        try:
            run_state_machine_as_test(machine, settings=OFTEN)
        finally:
            runner.run(opened.__aexit__(None, None, None))


OFTEN = hypothesis_settings(
    max_examples=20,
    stateful_step_count=20,
    deadline=None,
    suppress_health_check=[HealthCheck.too_slow],
)
