"""Work on many accounts at once, where one that PostgreSQL refuses must stop nobody else."""

from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from dataclasses import dataclass
from typing import Final, TypeVar

import structlog

from adapters.jobs import add_figures
from adapters.postgres import POISON, Connection

log = structlog.get_logger()

REFUSALS_LOGGED_MAX: Final = 100  # of one walk: a defect that hits everybody is one defect

Done = TypeVar("Done")


@dataclass(frozen=True, slots=True)
class Refused:
    """An account that PostgreSQL refuses to change, by itself too, and why."""

    account_id: str
    refusal: str


async def by_halves(
    accounts: Sequence[str], work: Callable[[Sequence[str]], Awaitable[Done]]
) -> AsyncIterator[Done | Refused]:
    """Yields what the work returns for all accounts; refused, for each half of them, and so on.

    The work is a transaction of its own. Raises what it raises but for POISON.
    """
    try:
        done = await work(accounts)
    except POISON as error:
        refusal = str(error)[:200]
    else:
        yield done
        return
    if len(accounts) == 1:
        yield Refused(accounts[0], refusal)
        return
    middle = len(accounts) // 2
    for half in (accounts[:middle], accounts[middle:]):
        async for part in by_halves(half, work):
            yield part


class Refusals:
    """The accounts that one walk of a run is refused; without a run they are named alone."""

    def __init__(self, connection: Connection, run_id: int | None) -> None:
        self._connection = connection
        self._run_id = run_id
        self._noted = 0

    async def note(self, refused: Refused) -> None:
        """Names the account in the log, the first hundred of a walk, and counts it in the run; the
        next run tries it again.
        """
        self._noted += 1
        if self._noted <= REFUSALS_LOGGED_MAX:
            account_id, refusal = refused.account_id, refused.refusal
            log.error("an account was refused", account_id=account_id, refusal=refusal)
        if self._run_id is not None:
            await add_figures(self._connection, self._run_id, {"refused": 1})
