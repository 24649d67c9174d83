"""Accounts one at a time: what an operator sees, creates, changes and gives.

Every change is one transaction that locks the account first.
"""

import re
from dataclasses import dataclass
from datetime import UTC, datetime
from enum import StrEnum
from typing import Any

import asyncpg

from adapters.failures import Failure
from adapters.postgres import Connection
from adapters.queries import load
from core.grants import repay
from schemas.names import is_account_id

SQL = load("accounts")
VIEW = load("account_view")
GRANTS_SHOWN_MAX = 1_000
AMOUNT_MICRO_MAX = 10**15  # a billion credits: more is a typing error, and sums stay within 64 bits
_IDEMPOTENCY_KEY = re.compile(r"[A-Za-z0-9_.:-]{1,200}")
_TEXT_CHARS_MAX = 500

Row = dict[str, Any]


class Source(StrEnum):
    """Where a grant came from, and with it the type of its ledger entry."""

    WELCOME = "welcome"
    GRANT = "grant"
    ADJUSTMENT = "adjustment"
    COUPON = "coupon"
    TOP_UP = "top_up"

    @property
    def transaction_type(self) -> str:
        """The type in credit_transaction."""
        return self.value.upper()


@dataclass(frozen=True, slots=True)
class GrantRequest:
    """Credits to give; the same `key` twice gives them once. Raises Failure when not allowed."""

    account_id: str
    amount_micro: int
    actor: str
    source: Source = Source.GRANT
    priority: int = 100
    expires_at: datetime | None = None
    reason: str = ""
    key: str | None = None
    metadata: str = ""

    def __post_init__(self) -> None:
        check_account_id(self.account_id)
        if not 0 < self.amount_micro <= AMOUNT_MICRO_MAX:
            raise Failure("a grant is more than 0 and at most 1,000,000,000 credits")
        if not 0 <= self.priority <= 1_000:
            raise Failure("a priority is from 0 (burned first) to 1000")
        if self.expires_at is not None and self.expires_at <= datetime.now(UTC):
            raise Failure(f"a grant that expires at {self.expires_at.isoformat()} is over already")
        if len(self.reason) > _TEXT_CHARS_MAX or not self.reason.isprintable():
            raise Failure(f"a reason is printable and at most {_TEXT_CHARS_MAX} characters long")
        if self.key is not None and not _IDEMPOTENCY_KEY.fullmatch(self.key):
            raise Failure("a key is made of letters, digits and _ . : - and at most 200 long")


@dataclass(frozen=True, slots=True)
class Granted:
    """What a grant did; `repeated` when its key was used before, and nothing was done now."""

    grant_id: int
    amount_micro: int
    repaid_micro: int
    balance_after_micro: int
    transaction_id: int
    repeated: bool


def check_account_id(account_id: str) -> None:
    """Raises Failure for what can not be the id of an account."""
    if not is_account_id(account_id):
        raise Failure(
            f"{account_id[:40]!r} is no account id: letters, digits and _ . : - up to 128, and"
            " after the first one also @ and +"
        )


async def read_account(
    connection: Connection, account_id: str, *, entries_max: int, grants_after: int | None = None
) -> Row:
    """The account with its grants in burn order and its newest ledger entries, as of one moment.

    `over_micro` is what is left of expired grants that are not booked yet: it can not be drawn.
    `allowance` is None for an account that is not enrolled. Of its grants GRANTS_SHOWN_MAX are
    there, those behind `grants_after`; `grants_next` is what to say to see the rest, or None.
    Raises Failure when there is no such account.
    """
    async with connection.transaction(isolation="repeatable_read", readonly=True):
        account = await connection.fetchrow(SQL.read_account, account_id)
        if account is None:
            raise unknown_account(account_id)
        shown_max = GRANTS_SHOWN_MAX
        grants = await connection.fetch(VIEW.grants_page, account_id, grants_after, shown_max + 1)
        entries = await connection.fetch(SQL.read_last_entries, account_id, entries_max)
        allowance = await connection.fetchrow(SQL.read_allowance, account_id)
    return {
        **dict(account),
        "available_micro": account["balance_micro"] - account["held_micro"] - account["over_micro"],
        "allowance": None if allowance is None else dict(allowance),
        "grants": [dict(grant) for grant in grants[:shown_max]],
        "grants_next": grants[shown_max - 1]["grant_id"] if len(grants) > shown_max else None,
        "entries": [dict(entry) for entry in entries],
    }


async def create_account(
    connection: Connection, account_id: str, *, tier: str, demo: bool, welcome: GrantRequest | None
) -> None:
    """Creates the account with its welcome credits, in one transaction.

    Raises Failure when it exists, or when the price book does not know the tier.
    """
    check_account_id(account_id)
    async with connection.transaction():
        await _check_tier(connection, tier)
        if await connection.fetchval(SQL.create_account, account_id, tier, demo) is None:
            raise Failure(f"account {account_id} exists: see `tollgate account show {account_id}`")
        if welcome is not None:
            await give(connection, welcome)


async def change_account(
    connection: Connection, account_id: str, *, tier: str | None, demo: bool | None
) -> Row:
    """Sets the tier, the demo mode, or both; they hold for charges from now on. Idempotent.

    Raises Failure when there is no such account, or when the price book does not know the tier.
    """
    async with connection.transaction():
        if tier is not None:
            await _check_tier(connection, tier)
        changed = await connection.fetchrow(SQL.change_account, account_id, tier, demo)
    if changed is None:
        raise unknown_account(account_id)
    return dict(changed)


async def give(connection: Connection, request: GrantRequest) -> Granted:
    """Gives credits in one transaction: overdraft is repaid first, the rest can be burned.

    With a key it is idempotent: a second call with the same request answers as the first did.
    Raises Failure when there is no such account, or when the key stands for something else.
    """
    try:
        async with connection.transaction():
            account = await connection.fetchrow(SQL.lock_account, request.account_id)
            if account is None:
                raise unknown_account(request.account_id)
            earlier = await _find_earlier(connection, request)
            return earlier or await post(connection, request, account["overdraft_micro"])
    except asyncpg.UniqueViolationError:
        # Another account's grant with this key committed between our look and our insert.
        raise _key_taken(request.key) from None


async def _find_earlier(connection: Connection, request: GrantRequest) -> Granted | None:
    if request.key is None:
        return None
    row = await connection.fetchrow(SQL.find_by_key, request.key)
    if row is None:
        return None
    wanted = (
        request.account_id,
        request.source.transaction_type,
        request.amount_micro,
        request.priority,
        request.expires_at,
    )
    names = ("account_id", "type", "amount_micro", "priority", "expires_at")
    if tuple(row[name] for name in names) != wanted:
        raise _key_taken(request.key)
    return Granted(
        row["grant_id"],
        row["amount_micro"],
        row["repaid_micro"],
        row["balance_after_micro"],
        row["transaction_id"],
        repeated=True,
    )


async def post(connection: Connection, request: GrantRequest, overdraft_micro: int) -> Granted:
    """Gives credits to an account whose lock this transaction holds; overdraft is repaid first.

    Not idempotent: `give` is. A key that was used raises asyncpg.UniqueViolationError.
    """
    repayment = repay(request.amount_micro, overdraft_micro)
    grant_id = await connection.fetchval(
        SQL.post_grant,
        request.account_id,
        request.source.value,
        request.actor,
        request.reason,
        request.priority,
        request.amount_micro,
        repayment.remaining_micro,
        request.expires_at,
    )
    if repayment.repaid_micro:
        cause = f"repay:{grant_id}"
        await connection.execute(SQL.post_repayment, grant_id, cause, repayment.repaid_micro)
    balance_micro = await connection.fetchval(
        SQL.raise_balance, request.account_id, request.amount_micro, repayment.overdraft_micro
    )
    transaction_id = await connection.fetchval(
        SQL.post_transaction,
        request.account_id,
        request.source.transaction_type,
        request.amount_micro,
        balance_micro,
        grant_id,
        request.actor,
        request.reason,
        request.key,
        request.metadata,
    )
    return Granted(
        grant_id,
        request.amount_micro,
        repayment.repaid_micro,
        balance_micro,
        transaction_id,
        repeated=False,
    )


async def _check_tier(connection: Connection, tier: str) -> None:
    tiers = [row["tier"] for row in await connection.fetch(SQL.read_tiers)]
    if tiers and tier not in tiers:
        raise Failure(f"the price book in force has no tier {tier!r}: it has {', '.join(tiers)}")


def unknown_account(account_id: str) -> Failure:
    """What to tell somebody who names an account that is not there."""
    return Failure(
        f"no account {account_id[:128]!r}: create it with `tollgate account create`, or let its "
        "first event do it"
    )


def _key_taken(key: str | None) -> Failure:
    return Failure(f"the key {key!r} stands for another grant: choose a new one")
