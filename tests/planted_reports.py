"""Sessions that reconciliation charged for their report, one of them taken back since."""

from adapters.overtaken import replace
from adapters.queries import load
from adapters.settings import Settings
from tests.gates import CREDIT, account
from tests.planted_ledger import connect

REPORT_MICRO = 40


async def plant_reports(settings: Settings) -> None:
    """A new account, `reported`: the hold `kept` is charged for its report, `given-up` was."""
    holds, accounts, amounts = ["given-up", "kept"], ["reported"] * 2, [REPORT_MICRO] * 2
    ledger, reconcile = load("ledger"), load("reconcile")
    connection = await connect(settings)
    try:
        await account(connection, "reported", CREDIT)
        async with connection.transaction():
            await connection.execute(
                "INSERT INTO credit_hold (hold_id, account_id, amount_micro, kind)"
                " SELECT hold_id, 'reported', 1, 'session' FROM unnest($1::text[]) AS h (hold_id)",
                holds,
            )
            await connection.execute(
                "UPDATE account SET held_micro = 2 WHERE account_id = 'reported'"
            )
            states = ["settled"] * 2
            await connection.execute(
                reconcile.close_holds, holds, states, amounts, amounts, "reconcile"
            )
            await connection.execute(
                ledger.burn_down, ["reported"], [2 * REPORT_MICRO], "reconcile:1"
            )
            await connection.execute(
                reconcile.book_settlements, holds, accounts, amounts, ["{}", "{}"], "reconcile"
            )
        await connection.execute(ledger.settle_holds, ["given-up"], ["reported"], [1])
        assert [done.figures async for done in replace(connection, 1)] == [
            {"replaced": 1, "returned_micro": REPORT_MICRO, "refused": 0}
        ]
    finally:
        await connection.close()
