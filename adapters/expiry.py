"""Expiry: what is left of grants that are over leaves the balance (C4)."""

from collections.abc import AsyncIterator, Sequence
from dataclasses import asdict, dataclass
from functools import partial

from adapters.halving import Refusals, Refused, by_halves
from adapters.jobs import add_figures
from adapters.postgres import Connection
from adapters.queries import load

SQL = load("expiry")
LEDGER = load("ledger")
ACCOUNTS_MAX = 500  # of one transaction: their locks keep the raters waiting


@dataclass(frozen=True, slots=True)
class Expired:
    """What was booked: grants emptied, of how many accounts, and the credits that are gone.

    `refused` are accounts of which PostgreSQL refused to take them.
    """

    grants: int = 0
    accounts: int = 0
    expired_micro: int = 0
    refused: int = 0

    @property
    def figures(self) -> dict[str, int]:
        """What a run adds up."""
        return asdict(self)

    def __add__(self, other: "Expired") -> "Expired":
        return Expired(
            self.grants + other.grants,
            self.accounts + other.accounts,
            self.expired_micro + other.expired_micro,
            self.refused + other.refused,
        )


async def preview(connection: Connection) -> Expired:
    """What `expire` would book now; changes nothing."""
    row = await connection.fetchrow(SQL.preview)
    assert row is not None  # noqa: S101 - an aggregate gives one row
    return Expired(row["grants"], row["accounts"], row["expired_micro"])


async def expire(
    connection: Connection, actor: str, run_id: int | None = None
) -> AsyncIterator[Expired]:
    """Books every grant that is over, some hundred accounts a transaction; yields what each did.

    With a run, its figures move in the same transactions.

    Idempotent, and two runs at once book each grant once: under the account's lock an emptied
    grant is not met again. Stopped in the middle, it goes on where it was. An account that is
    refused is left to the next run.
    """
    refusals = Refusals(connection, run_id)
    after = ""
    while True:
        accounts = [
            row["account_id"]
            for row in await connection.fetch(SQL.accounts_with_expired_grants, after, ACCOUNTS_MAX)
        ]
        if not accounts:
            return
        async for done in by_halves(accounts, partial(_booked, connection, actor, run_id)):
            if isinstance(done, Refused):
                await refusals.note(done)
                yield Expired(refused=1)
            else:
                yield done
        after = accounts[-1]


async def _booked(
    connection: Connection, actor: str, run_id: int | None, accounts: Sequence[str]
) -> Expired:
    """One transaction."""
    async with connection.transaction(isolation="read_committed"):
        await connection.fetch(LEDGER.lock_accounts, accounts)
        row = await connection.fetchrow(SQL.expire_grants, accounts, actor)
        assert row is not None  # noqa: S101 - an aggregate gives one row
        expired = Expired(row["grants"], row["accounts"], row["expired_micro"])
        if run_id is not None:
            await add_figures(connection, run_id, expired.figures)
    return expired
