"""Allowances by hand: what an account asked for, refreshes that are asked for, and their undoing.

Every change writes an audit row in its own transaction.
"""

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any, Final

from adapters.accounts import AMOUNT_MICRO_MAX, check_account_id
from adapters.accounts import SQL as ACCOUNTS
from adapters.audit_log import Act, note
from adapters.failures import Failure
from adapters.jobs import at_work, end_run
from adapters.postgres import Connection
from adapters.queries import load
from adapters.refresh import RefreshRun, lock_named, refresh_these
from core.refresh import Terms
from schemas.job_names import JobName
from schemas.jobs import new_job

SQL = load("allowances")
GATE = load("gate")
LEDGER = load("ledger")
SETTINGS: Final = ("paused", "preferred_day", "custom_micro")
ACCOUNTS_OF_ONE_CALL_MAX: Final = 1_000
ACCOUNTS_OF_ONE_TRANSACTION: Final = 200
REASON_CHARS_MAX: Final = 300

Row = dict[str, Any]


@dataclass(frozen=True, slots=True)
class By:
    """Who acts, and why; `request_id` is the API's.

    `signer` is what the audit log names, if not the actor.
    """

    actor: str
    reason: str
    request_id: str = ""
    signer: str = ""

    def __post_init__(self) -> None:
        if not self.reason.strip() or not self.reason.isprintable():
            raise Failure("a reason is needed, in printable text")
        if len(self.reason) > REASON_CHARS_MAX:
            raise Failure(f"a reason is at most {REASON_CHARS_MAX} characters long")

    def act(
        self, action: str, subject: str, before: Mapping[str, Any] | None, after: Mapping[str, Any]
    ) -> Act:
        """The row of the audit log."""
        signer = self.signer or self.actor
        return Act(signer, action, subject, before, after, self.reason, self.request_id)


@dataclass(frozen=True, slots=True)
class RefreshedNow:
    """What a refresh by hand did; `failures` are accounts that were refused, and why."""

    run_id: int
    refreshed: int
    amount_micro: int
    replaced_micro: int
    missed: int
    failures: tuple[tuple[str, str], ...]


@dataclass(frozen=True, slots=True)
class Undone:
    """What an undo did: taken back, given back of the allowance before, and the balance now."""

    account_id: str
    refresh_id: int
    taken_micro: int
    given_back_micro: int
    balance_micro: int


async def read_allowance(connection: Connection, account_id: str) -> Row:
    """When the account is due, what it asked for, what is left of its last allowance.

    Raises Failure when there is no such account.
    """
    row = await connection.fetchrow(SQL.read_allowance, account_id)
    if row is None:
        raise Failure(f"no account {account_id[:128]!r}")
    return dict(row)


async def change_allowance(
    connection: Connection, account_id: str, changes: Mapping[str, Any], by: By
) -> Row:
    """Sets some of `paused`, `preferred_day` (1 to 31, None: none) and `custom_micro` (None: the
    tier's amount); they hold from the next refresh on. Idempotent.

    Raises Failure for an unknown account or a value that is not allowed.
    """
    _check(changes)
    async with connection.transaction(isolation="read_committed"):
        await connection.execute(SQL.enrol, account_id)
        found = await connection.fetchrow(SQL.lock_allowance, account_id)
        if found is None:
            raise Failure(f"no account {account_id[:128]!r}")
        before = {name: found[name] for name in SETTINGS}
        after = {**before, **changes}
        await connection.execute(SQL.set_allowance, account_id, *after.values())
        await note(connection, by.act("set_allowance", account_id, before, after))
        return await read_allowance(connection, account_id)


def _check(changes: Mapping[str, Any]) -> None:
    for name, value in changes.items():
        match name:
            case "paused":
                allowed = isinstance(value, bool)
            case "preferred_day":
                allowed = value is None or 1 <= value <= 31
            case "custom_micro":
                allowed = value is None or 0 <= value <= AMOUNT_MICRO_MAX
            case _:
                allowed = False
        if not allowed:
            raise Failure(f"{name} = {value!r} is no setting of an allowance")


async def refresh_now(
    connection: Connection, accounts: Sequence[str], terms: Terms, by: By
) -> RefreshedNow:
    """Refreshes these accounts now, due or not and paused or not, as a run of its own.

    All in one transaction, with its row of the audit log. Not idempotent: another call is another
    refresh. `missed` accounts do not exist. Raises Failure when the list is empty or too long.
    """
    wanted = sorted(set(accounts))
    if not 0 < len(wanted) <= ACCOUNTS_OF_ONE_CALL_MAX:
        raise Failure(f"1 to {ACCOUNTS_OF_ONE_CALL_MAX:,} accounts at once")
    for account_id in wanted:
        check_account_id(account_id)
    moment = datetime.now(UTC)
    key = f"refresh:now:{moment:%Y-%m-%dT%H:%M:%S.%f}Z"
    job = new_job(JobName.REFRESH, key, by.actor, moment)
    async with connection.transaction(isolation="read_committed"):
        async with at_work(connection, job) as opened:
            if opened is None:
                raise Failure("another refresh was asked for in the same microsecond: ask again")
            run = RefreshRun(opened.run_id, by.actor, by.reason, terms)
            await lock_named(connection, wanted)
            failures: list[tuple[str, str]] = []
            for first in range(0, len(wanted), ACCOUNTS_OF_ONE_TRANSACTION):
                some = wanted[first : first + ACCOUNTS_OF_ONE_TRANSACTION]
                async for batch in refresh_these(connection, run, some):
                    failures += batch.failures
            figures = (await end_run(connection, run.run_id)).figures
        subject = wanted[0] if len(wanted) == 1 else f"{len(wanted)} accounts"
        after = {"run_id": run.run_id, **figures}
        await note(connection, by.act("refresh_now", subject, None, after))
    return RefreshedNow(
        run.run_id,
        figures.get("refreshed", 0),
        figures.get("amount_micro", 0),
        figures.get("replaced_micro", 0),
        len(wanted) - figures.get("accounts", 0) - len(failures),
        tuple(failures),
    )


async def undo_refresh(connection: Connection, refresh_id: int, by: By) -> Undone:
    """Takes a refresh back, once: what it gave leaves the balance, what it had replaced returns.

    The rest of its grant goes first. What of it is spent comes out of other grants in their order,
    of which the returned one is an allowance's, and becomes overdraft where there is none. The
    account's next refresh is due when it was. Raises Failure when there is no such refresh, it is
    undone, or a later one has followed.
    """
    account_id = await connection.fetchval(SQL.account_of, refresh_id)
    if account_id is None:
        raise Failure(f"no refresh {refresh_id}: see `tollgate refresh history`")
    async with connection.transaction(isolation="read_committed"):
        allowance = await connection.fetchrow(SQL.lock_allowance, account_id)
        before = await connection.fetchrow(ACCOUNTS.lock_account, account_id)
        given = await connection.fetchrow(SQL.lock_refresh, refresh_id)
        assert allowance is not None  # noqa: S101 - it was refreshed
        assert before is not None  # noqa: S101
        assert given is not None  # noqa: S101
        if given["undone_at"] is not None:
            raise Failure(f"refresh {refresh_id} was undone at {given['undone_at'].isoformat()}")
        if given["grant_id"] != allowance["grant_id"]:
            raise Failure(f"{account_id} was refreshed again since: undo the latest one first")
        back_micro = given["replaced_micro"] + given["granted_micro"] - given["amount_micro"]
        # In this order, or the spent part would be taken out of credits that were bought.
        grant_id = await _give_back(connection, account_id, refresh_id, back_micro, by)
        await _take(connection, refresh_id, given, by)
        await connection.execute(SQL.mark_undone, refresh_id, by.actor, grant_id)
        after = await connection.fetchrow(ACCOUNTS.lock_account, account_id)
        assert after is not None  # noqa: S101
        await note(
            connection,
            by.act(
                "undo_refresh",
                account_id,
                before={"balance_micro": before["balance_micro"], "refresh_id": refresh_id},
                after={"balance_micro": after["balance_micro"]},
            ),
        )
    return Undone(
        account_id, refresh_id, given["granted_micro"], back_micro, after["balance_micro"]
    )


async def _take(connection: Connection, refresh_id: int, given: Mapping[str, Any], by: By) -> None:
    account_id, cause = given["account_id"], f"undo:{refresh_id}"
    await connection.execute(SQL.empty_grant, given["grant_id"], cause)
    gone_micro = given["granted_micro"] - given["remaining_micro"]
    if gone_micro:
        await connection.execute(LEDGER.burn_down, [account_id], [gone_micro], cause)
        await connection.execute(GATE.not_spent, account_id, gone_micro)
    await connection.execute(
        SQL.book_reversal,
        account_id,
        -given["granted_micro"],
        given["grant_id"],
        by.actor,
        by.reason,
        _link(refresh_id),
    )


async def _give_back(
    connection: Connection, account_id: str, refresh_id: int, back_micro: int, by: By
) -> int | None:
    if not back_micro:
        return None
    notes = f"what refresh {refresh_id} had replaced"
    grant_id: int = await connection.fetchval(
        SQL.give_back, account_id, back_micro, by.actor, notes
    )
    link = _link(refresh_id)
    await connection.execute(
        SQL.book_reversal, account_id, back_micro, grant_id, by.actor, by.reason, link
    )
    return grant_id


def _link(refresh_id: int) -> str:
    return json.dumps({"refresh_id": refresh_id})


async def history(
    connection: Connection,
    *,
    account_id: str | None = None,
    run_id: int | None = None,
    below_id: int | None = None,
    refreshes_max: int = 50,
) -> list[Row]:
    """The newest refreshes first; `below_id` is the last one of the page before."""
    rows = await connection.fetch(SQL.history, account_id, run_id, below_id, refreshes_max)
    return [dict(row) for row in rows]


async def statistics(connection: Connection) -> Row:
    """How refreshes go: what is due, what the last 30 days gave, how the job's runs went.

    `success_percent` is of accounts that runs refreshed or failed at; None before the first.
    """
    row = await connection.fetchrow(SQL.statistics)
    assert row is not None  # noqa: S101 - aggregates give one row
    tried = row["refreshed"] + row["failed"]
    success_percent = round(100 * row["refreshed"] / tried, 3) if tried else None
    return {**dict(row), "success_percent": success_percent}
