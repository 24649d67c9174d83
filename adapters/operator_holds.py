"""How an operator releases a hold by hand."""

from adapters.audit_log import Act, note
from adapters.gate_account import Spending, lock
from adapters.gate_outcomes import Closed, Denied
from adapters.postgres import Connection
from core.holds import Denial, HoldState, Limits

_FREES_ONLY = Limits(minimum_micro=0, open_holds_max=0)  # nothing is decided by them


async def release_by_hand(
    connection: Connection, account_id: str, hold_id: str, *, actor: str, reason: str
) -> Closed | Denied:
    """Frees the reserve of a hold that its app left behind, with its row in the audit log.

    One transaction under the account's lock; a hold that is closed already stays as it is. What is
    reported for it later is charged all the same.
    """
    async with connection.transaction(isolation="read_committed"):
        account = await lock(connection, account_id, hold_id, lambda _: _FREES_ONLY)
        if account is None:
            return Denied(Denial.UNKNOWN_ACCOUNT)
        hold = account.open_hold()
        if isinstance(hold, Denial):
            return account.denied(hold)
        nothing = Spending(account_id, actor, amount_micro=0)
        closed = await account.close(hold, HoldState.RELEASED, nothing, 0)
        before = {"hold_id": hold_id, "state": "open", "amount_micro": hold.amount_micro}
        after = {**before, "state": "released"}
        await note(connection, Act(actor, "release_hold", account_id, before, after, reason))
    return closed
