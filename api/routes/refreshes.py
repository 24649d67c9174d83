"""Allowances: when an account is refreshed next, what refreshes gave, and refreshes by hand."""

from collections.abc import Sequence
from datetime import datetime
from typing import Annotated, Any

from fastapi import APIRouter, Path, Query, Request
from fastapi.responses import Response
from pydantic import BaseModel, Field

from adapters.account_view import Row
from adapters.allowances import (
    By,
    change_allowance,
    history,
    read_allowance,
    refresh_now,
    statistics,
    undo_refresh,
)
from adapters.dual_control import check_allowance
from adapters.idempotency import Key
from adapters.postgres import Connection
from adapters.refresh import count_due
from adapters.settings import Settings
from api.amounts import NonNegativeCredits, OptionalShownCredits, ShownCredits, to_micro
from api.callers import AccountId, AdminCaller, Caller, ReachableAccount
from api.database import Database, UsedDatabase
from api.fields import AccountName, GivenReason, Limit
from api.keys import IdempotencyKey
from api.problems import Kind, Problem
from api.proposed import UsedPolicy
from api.routes.accounts import known_profile
from api.routes.admin import require_account
from api.usage import Strict
from core.refresh import Terms

router = APIRouter(prefix="/api/v1")
Below = Annotated[int | None, Query(ge=1, le=2**63 - 1, description="`next` of a page")]


class AllowanceAnswer(BaseModel):
    """When the account is due, what it asked for, and its latest allowance."""

    account_id: str
    tier: str
    due_at: datetime | None = Field(description="null: not enrolled yet, the next run does it")
    refreshed_at: datetime | None
    paused: bool
    preferred_day: int | None
    custom: OptionalShownCredits
    granted: ShownCredits
    remaining: ShownCredits


class AllowanceBody(Strict):
    """What is to change: a `custom` of null is the tier's amount again."""

    paused: bool | None = None
    preferred_day: int | None = Field(None, ge=1, le=31)
    custom: NonNegativeCredits | None = None
    reason: GivenReason


class RefreshView(BaseModel):
    """One refresh. `replaced` is the rest of the allowance before, which it took away."""

    refresh_id: int
    account_id: str
    period: datetime
    tier: str
    amount: ShownCredits
    replaced: ShownCredits
    balance_before: ShownCredits
    balance_after: ShownCredits
    actor: str
    reason: str
    refreshed_at: datetime
    undone_at: datetime | None
    undone_by: str | None


class RefreshesAnswer(BaseModel):
    """A page, newest first; `next` is the `below` of the following one."""

    refreshes: list[RefreshView]
    next: int | None


class RefreshBody(Strict):
    """The accounts to refresh now, due or not."""

    accounts: list[AccountName] = Field(min_length=1, max_length=200)
    dry_run: bool = False
    reason: GivenReason


class RefreshedAnswer(BaseModel):
    """What was done, or would be. `missed` do not exist, or are being refreshed by another run."""

    dry_run: bool
    refreshed: int
    amount: ShownCredits
    replaced: ShownCredits
    missed: int
    failures: dict[str, str] = Field(description="accounts that were refused, and why")


class UndoBody(Strict):
    """Why it is taken back."""

    reason: GivenReason


class UndoneAnswer(BaseModel):
    """What was taken back, and what returned of the allowance before."""

    account_id: str
    taken: ShownCredits
    given_back: ShownCredits
    balance: ShownCredits


class RefreshStatisticsAnswer(BaseModel):
    """Allowances now; refreshes and runs of the last 30 days."""

    enrolled: int
    paused: int
    due: int
    next_due_at: datetime | None
    refreshes: int
    undone: int
    amount: ShownCredits
    replaced: ShownCredits
    latest_at: datetime | None
    runs: int
    runs_failed: int
    success_percent: float | None
    run_seconds_mean: float | None
    run_seconds_max: float | None


@router.get("/accounts/{account_id}/allowance", tags=["accounts"])  # noqa: FAST003
async def allowance(account: ReachableAccount, database: UsedDatabase) -> AllowanceAnswer:
    """When the account is refreshed next, and by how much it was last time."""
    await known_profile(database, account)
    return _allowance(await database.read(lambda connection: read_allowance(connection, account)))


@router.get("/accounts/{account_id}/refreshes", tags=["accounts"])  # noqa: FAST003
async def refreshes(
    account: ReachableAccount, database: UsedDatabase, below: Below = None, limit: Limit = 50
) -> RefreshesAnswer:
    """The account's refreshes, newest first."""
    return await refreshes_page(database, account, below, limit)


@router.patch(
    "/admin/accounts/{account_id}/allowance", tags=["admin"], response_model=AllowanceAnswer
)
async def change(
    caller: AdminCaller,
    account_id: AccountId,
    database: UsedDatabase,
    policy: UsedPolicy,
    key: IdempotencyKey,
    body: AllowanceBody,
) -> Response:
    """Pauses an account's refreshes, sets its day or its own amount, from the next one on."""
    given = body.model_dump(include=body.model_fields_set - {"reason", "custom"})
    if "custom" in body.model_fields_set:
        given["custom_micro"] = None if body.custom is None else to_micro(body.custom)
    if not given or given.get("paused", False) is None:
        raise Problem(422, Kind.INVALID, "Say what to change: `paused`, `preferred_day`, `custom`")
    by = by_of(caller, key, body.reason)

    async def work(connection: Connection) -> AllowanceAnswer:
        await require_account(connection, account_id)
        check_allowance(given, policy)
        return _allowance(await change_allowance(connection, account_id, given, by))

    return await database.change(key, account_id, work)


@router.post("/admin/refreshes", tags=["admin"], response_model=RefreshedAnswer)
async def refresh(
    request: Request,
    caller: AdminCaller,
    database: UsedDatabase,
    key: IdempotencyKey,
    body: RefreshBody,
) -> Response:
    """Refreshes accounts now, due or not; with `dry_run` it only says what that would give."""
    terms = terms_of(request.app.state.settings)
    by = by_of(caller, key, body.reason)

    async def work(connection: Connection) -> RefreshedAnswer:
        return await refreshed(connection, body.accounts, terms, by, dry_run=body.dry_run)

    return await changed_all(database, key, body.accounts, work)


@router.post("/admin/refreshes/{refresh_id}/undo", tags=["admin"], response_model=UndoneAnswer)
async def undo(
    caller: AdminCaller,
    refresh_id: Annotated[int, Path(ge=1, le=2**63 - 1, examples=[1])],
    database: UsedDatabase,
    key: IdempotencyKey,
    body: UndoBody,
) -> Response:
    """Takes a refresh back, once; 409 when there is none, or a later one has followed."""
    touched: list[str] = []

    async def work(connection: Connection) -> UndoneAnswer:
        done = await undo_refresh(connection, refresh_id, by_of(caller, key, body.reason))
        touched.append(done.account_id)
        return UndoneAnswer(
            account_id=done.account_id,
            taken=done.taken_micro,
            given_back=done.given_back_micro,
            balance=done.balance_micro,
        )

    return await changed_all(database, key, touched, work)


@router.get("/admin/refresh-statistics", tags=["admin"])
async def refresh_statistics(_: AdminCaller, database: UsedDatabase) -> RefreshStatisticsAnswer:
    """What is due, what the last 30 days gave, and how the job's runs went."""
    found = await database.read(statistics)
    fields = {name: found[name] for name in RefreshStatisticsAnswer.model_fields if name in found}
    return RefreshStatisticsAnswer(
        amount=found["amount_micro"], replaced=found["replaced_micro"], **fields
    )


async def refreshed(
    connection: Connection, accounts: Sequence[str], terms: Terms, by: By, *, dry_run: bool
) -> RefreshedAnswer:
    """Refreshes in the caller's transaction, or says what that would give."""
    wanted = sorted(set(accounts))
    if dry_run:
        tiers = await count_due(connection, terms, None, wanted)
        counted = sum(tier.accounts for tier in tiers)
        return RefreshedAnswer(
            dry_run=True,
            refreshed=counted,
            amount=sum(tier.amount_micro for tier in tiers),
            replaced=0,
            missed=len(wanted) - counted,
            failures={},
        )
    done = await refresh_now(connection, wanted, terms, by)
    return RefreshedAnswer(
        dry_run=False,
        refreshed=done.refreshed,
        amount=done.amount_micro,
        replaced=done.replaced_micro,
        missed=done.missed,
        failures=dict(done.failures),
    )


async def changed_all(
    database: Database, key: Key | None, accounts: Sequence[str], work: Any
) -> Response:
    """A change of several accounts: what was kept of each for display is forgotten."""
    try:
        return await database.change(key, None, work)
    finally:
        for account in accounts:
            database.forget(account)


async def refreshes_page(
    database: Database, account: str, below: int | None, limit: int
) -> RefreshesAnswer:
    """A page of an account's refreshes; 404 without the account."""
    await known_profile(database, account)
    rows = await database.read(
        lambda connection: history(
            connection, account_id=account, below_id=below, refreshes_max=limit + 1
        )
    )
    following = rows[limit - 1]["refresh_id"] if len(rows) > limit else None
    return RefreshesAnswer(refreshes=[_refresh(row) for row in rows[:limit]], next=following)


def by_of(caller: Caller, key: Key | None, reason: str) -> By:
    """Who acts, for the audit log."""
    return By(caller.subject, reason, "" if key is None else key.key, caller.signer)


def terms_of(settings: Settings) -> Terms:
    """The deployment's terms of allowances."""
    return Terms(settings.refresh_tier_micro, settings.refresh_rollover_max_micro)


def _allowance(row: Row) -> AllowanceAnswer:
    fields = {name: value for name, value in row.items() if not name.endswith("_micro")}
    return AllowanceAnswer(
        custom=row["custom_micro"],
        granted=row["granted_micro"],
        remaining=row["remaining_micro"],
        **fields,
    )


def _refresh(row: Row) -> RefreshView:
    fields = {name: value for name, value in row.items() if not name.endswith("_micro")}
    fields.pop("run_id")
    return RefreshView(
        amount=row["amount_micro"],
        replaced=row["replaced_micro"],
        balance_before=row["balance_before_micro"],
        balance_after=row["balance_after_micro"],
        **fields,
    )
