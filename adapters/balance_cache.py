"""Balances for display, kept for a moment. Nothing is ever decided by what comes from here."""

import time
from collections import OrderedDict
from collections.abc import Awaitable, Callable

from adapters.account_view import Profile


class BalanceCache:
    """Profiles by account, each for `seconds_max` at most, `profiles_max` of them.

    For one event loop. A read that a change overtook is shown but not kept, so that whoever
    changed an account through this process never sees it as it was before.
    """

    def __init__(
        self,
        seconds_max: float,
        *,
        profiles_max: int = 10_000,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._seconds_max = seconds_max
        self._profiles_max = profiles_max
        self._clock = clock
        self._kept: OrderedDict[str, tuple[float, Profile]] = OrderedDict()
        self._reading: dict[str, set[object]] = {}

    async def read(
        self, account_id: str, fresh: Callable[[], Awaitable[Profile | None]]
    ) -> tuple[Profile | None, bool]:
        """The profile, and whether it was kept here; else `fresh` is asked. Raises what it does."""
        kept = self._kept.get(account_id)
        if kept is not None and kept[0] > self._clock():
            return kept[1], True
        mark = object()
        self._reading.setdefault(account_id, set()).add(mark)
        began = self._clock()
        try:
            profile = await fresh()
            if profile is not None and mark in self._reading.get(account_id, ()):
                self._keep(account_id, began + self._seconds_max, profile)
        finally:
            self._done(account_id, mark)
        return profile, False

    def forget(self, account_id: str) -> None:
        """The account has changed, or may have: the next read is a fresh one."""
        self._kept.pop(account_id, None)
        self._reading.pop(account_id, None)

    def _keep(self, account_id: str, until: float, profile: Profile) -> None:
        self._kept[account_id] = (until, profile)
        self._kept.move_to_end(account_id)
        if len(self._kept) > self._profiles_max:
            self._kept.popitem(last=False)

    def _done(self, account_id: str, mark: object) -> None:
        marks = self._reading.get(account_id)
        if marks is not None:
            marks.discard(mark)
            if not marks:
                del self._reading[account_id]
