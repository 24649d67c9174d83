"""The cache of shown balances: how old, how many, and never as it was before a change."""

import asyncio
from datetime import UTC, datetime

from adapters.account_view import Profile
from adapters.balance_cache import BalanceCache

NOW = datetime(2026, 11, 21, tzinfo=UTC)


def profile(account_id: str, balance_micro: int) -> Profile:
    return Profile(
        account_id,
        tier="free",
        demo=False,
        balance_micro=balance_micro,
        overdraft_micro=0,
        held_micro=0,
        monthly_cap_micro=None,
        created_at=NOW,
        spent_micro=0,
        over_micro=0,
        open_holds=0,
        as_of=NOW,
    )


class Clock:
    def __init__(self) -> None:
        self.seconds = 1000.0

    def __call__(self) -> float:
        return self.seconds


class Ledger:
    def __init__(self) -> None:
        self.balance_micro = 5
        self.reads = 0
        self.gate = asyncio.Event()
        self.gate.set()

    async def read(self) -> Profile | None:
        self.reads += 1
        found = profile("acme", self.balance_micro)
        await self.gate.wait()
        return found


async def shown(cache: BalanceCache, ledger: Ledger) -> tuple[int, bool]:
    found, hit = await cache.read("acme", ledger.read)
    assert found is not None
    return found.balance_micro, hit


async def test_a_balance_is_kept_until_it_is_too_old() -> None:
    clock, ledger = Clock(), Ledger()
    cache = BalanceCache(60, clock=clock)
    assert await shown(cache, ledger) == (5, False)
    ledger.balance_micro = 6
    clock.seconds += 59.9
    assert await shown(cache, ledger) == (5, True)
    clock.seconds += 0.1
    assert await shown(cache, ledger) == (6, False)


async def test_the_age_counts_from_before_the_read() -> None:
    clock, ledger = Clock(), Ledger()
    cache = BalanceCache(60, clock=clock)
    ledger.gate.clear()
    slow = asyncio.create_task(shown(cache, ledger))
    await asyncio.sleep(0)
    clock.seconds += 50
    ledger.gate.set()
    await slow
    clock.seconds += 11
    assert await shown(cache, ledger) == (5, False)


async def test_a_change_is_seen_at_once() -> None:
    ledger = Ledger()
    cache = BalanceCache(60)
    await shown(cache, ledger)
    ledger.balance_micro = 6
    cache.forget("acme")
    cache.forget("nobody")
    assert await shown(cache, ledger) == (6, False)


async def test_a_read_that_a_change_overtakes_is_not_kept() -> None:
    ledger = Ledger()
    cache = BalanceCache(60)
    ledger.gate.clear()
    early = asyncio.create_task(shown(cache, ledger))
    await asyncio.sleep(0)
    ledger.balance_micro = 6
    cache.forget("acme")
    ledger.gate.set()
    assert await early == (5, False)
    assert await shown(cache, ledger) == (6, False)
    assert await shown(cache, ledger) == (6, True)


async def test_no_more_than_so_many_are_kept_and_an_unknown_one_never() -> None:
    cache = BalanceCache(60, profiles_max=2)

    async def nothing() -> Profile | None:
        return None

    for name in "abc":

        async def one(name: str = name) -> Profile | None:
            return profile(name, 1)

        await cache.read(name, one)
    assert (await cache.read("a", nothing)) == (None, False)
    assert (await cache.read("b", nothing))[1] is True
    assert (await cache.read("c", nothing))[1] is True
    assert (await cache.read("a", nothing)) == (None, False)


async def test_with_no_seconds_nothing_is_kept() -> None:
    ledger = Ledger()
    cache = BalanceCache(0)
    await shown(cache, ledger)
    assert await shown(cache, ledger) == (5, False)
