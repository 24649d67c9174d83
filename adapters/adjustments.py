"""Adjustments: an admin gives or takes credits, with a reason, and the log says so."""

from dataclasses import dataclass

from adapters.accounts import AMOUNT_MICRO_MAX, GrantRequest, Source, check_account_id, post
from adapters.audit_log import Act, note
from adapters.failures import Failure
from adapters.postgres import Connection
from adapters.queries import load

SQL = load("gate")
ACCOUNTS = load("accounts")
LEDGER = load("ledger")
REASON_CHARS_MAX = 300


@dataclass(frozen=True, slots=True)
class Adjustment:
    """Credits to give (more than 0) or to take (less). Raises Failure when not allowed.

    `signer` is what the audit log names, if not the actor.
    """

    account_id: str
    amount_micro: int
    actor: str
    reason: str
    request_id: str = ""
    metadata: str = ""
    signer: str = ""

    def __post_init__(self) -> None:
        check_account_id(self.account_id)
        if not 0 < abs(self.amount_micro) <= AMOUNT_MICRO_MAX:
            raise Failure("an adjustment is not 0 and at most 1,000,000,000 credits")
        if not self.reason.strip() or not self.reason.isprintable():
            raise Failure("an adjustment needs a reason, in printable text")
        if len(self.reason) > REASON_CHARS_MAX:
            raise Failure(f"a reason is at most {REASON_CHARS_MAX} characters long")


@dataclass(frozen=True, slots=True)
class Adjusted:
    """What an adjustment did."""

    transaction_id: int
    amount_micro: int
    balance_before_micro: int
    balance_micro: int


async def adjust(connection: Connection, adjustment: Adjustment) -> Adjusted | None:
    """Books it with its audit row, in the caller's transaction; None: there is no such account.

    Not idempotent by itself.
    """
    adjusted = await book(connection, adjustment)
    if adjusted is None:
        return None
    after = {"balance_micro": adjusted.balance_micro, "transaction_id": adjusted.transaction_id}
    await note(
        connection,
        Act(
            actor=adjustment.signer or adjustment.actor,
            action="adjust",
            subject=adjustment.account_id,
            before={"balance_micro": adjusted.balance_before_micro},
            after=after,
            reason=adjustment.reason,
            request_id=adjustment.request_id,
        ),
    )
    return adjusted


async def book(connection: Connection, adjustment: Adjustment) -> Adjusted | None:
    """Books it in the caller's transaction, who notes the act; None: there is no such account.

    Giving is a grant that repays overdraft first. Taking burns grants down in their order, and
    what is not there becomes overdraft: an admin takes back what was wrongly given, even when it
    is spent.
    """
    account = await connection.fetchrow(ACCOUNTS.lock_account, adjustment.account_id)
    if account is None:
        return None
    before_micro: int = account["balance_micro"]
    if adjustment.amount_micro > 0:
        request = GrantRequest(
            adjustment.account_id,
            adjustment.amount_micro,
            adjustment.actor,
            source=Source.ADJUSTMENT,
            reason=adjustment.reason,
            metadata=adjustment.metadata,
        )
        transaction_id = (
            await post(connection, request, account["overdraft_micro"])
        ).transaction_id
    else:
        transaction_id = await _take(connection, adjustment)
    return Adjusted(
        transaction_id,
        adjustment.amount_micro,
        before_micro,
        before_micro + adjustment.amount_micro,
    )


async def _take(connection: Connection, adjustment: Adjustment) -> int:
    cause = f"adjustment:{adjustment.account_id}"
    await connection.execute(
        LEDGER.burn_down, [adjustment.account_id], [-adjustment.amount_micro], cause
    )
    await connection.execute(SQL.not_spent, adjustment.account_id, -adjustment.amount_micro)
    transaction_id: int = await connection.fetchval(
        SQL.post_charge,
        adjustment.account_id,
        "ADJUSTMENT",
        adjustment.amount_micro,
        None,
        None,
        adjustment.actor,
        adjustment.reason,
        adjustment.metadata,
    )
    return transaction_id
