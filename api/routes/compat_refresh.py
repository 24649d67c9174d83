"""The refresh paths of the source document in camelCase (002), as thin aliases.

Amounts are JSON numbers here.
"""

from datetime import datetime
from enum import Enum
from typing import Annotated, Any

from fastapi import APIRouter, Path, Query, Request
from fastapi.responses import Response
from pydantic import Field

from adapters.allowances import change_allowance, read_allowance
from adapters.dual_control import check_allowance
from adapters.postgres import Connection
from api.amounts import NonNegativeCredits, NumberCredits, OptionalNumberCredits, to_micro
from api.callers import AdminCaller, AnyCaller
from api.compat import whose
from api.database import UsedDatabase
from api.fields import AccountName, Limit, Reason
from api.keys import IdempotencyKey
from api.problems import Kind, Problem
from api.proposed import UsedPolicy
from api.routes.accounts import known_profile
from api.routes.admin import require_account
from api.routes.compat_camel import Camel
from api.routes.refreshes import (
    Below,
    RefreshedAnswer,
    RefreshView,
    by_of,
    changed_all,
    refresh_statistics,
    refreshed,
    refreshes_page,
    terms_of,
)
from api.usage import Strict
from schemas.names import ACCOUNT_ID_PATTERN

router = APIRouter(prefix="/api")
OWN: list[str | Enum] = ["accounts", "compatible"]
ADMIN: list[str | Enum] = ["admin", "compatible"]
UserIdPath = Annotated[str, Path(alias="userId", pattern=ACCOUNT_ID_PATTERN, examples=["acme"])]
BY_HAND = "refresh by hand"


class NextRefresh(Camel):
    """When the account is refreshed next. `nextRefresh` is null until the next run enrols it."""

    next_refresh: datetime | None
    last_credit_refresh: datetime | None
    credit_refresh_hold: bool
    credit_refresh_day: int | None
    custom_credit_amount: OptionalNumberCredits


class Refresh(Camel):
    """One refresh."""

    id: int
    user_id: str
    amount: NumberCredits
    old_balance: NumberCredits
    new_balance: NumberCredits
    reason: str
    created_at: datetime


class RefreshHistory(Camel):
    """A page, newest first; `next` is the `below` of the following one."""

    history: list[Refresh]
    next: int | None


class RefreshOne(Strict):
    """Whether only to say what it would give."""

    dry_run: bool = Field(default=False, alias="dryRun")
    reason: Reason = BY_HAND


class RefreshMany(RefreshOne):
    """The users to refresh."""

    user_ids: list[AccountName] = Field(alias="userIds", min_length=1, max_length=200)


class RefreshDone(Camel):
    """What was done, or would be."""

    dry_run: bool
    refreshed: int
    failed: int
    amount: NumberCredits


class RefreshSettings(Strict):
    """What is to change; null takes the day or the amount away."""

    credit_refresh_hold: bool | None = Field(None, alias="creditRefreshHold")
    credit_refresh_day: int | None = Field(None, alias="creditRefreshDay", ge=1, le=31)
    custom_credit_amount: NonNegativeCredits | None = Field(None, alias="customCreditAmount")


class RefreshStats(Camel):
    """Refreshes of the last 30 days."""

    total_refreshes: int
    total_credits: NumberCredits
    success_rate: float | None = Field(description="percent; null before the first run")
    average_duration_seconds: float | None
    due_now: int
    next_due: datetime | None


@router.get("/user/credits/next-refresh", tags=OWN)
async def next_refresh(
    caller: AnyCaller,
    database: UsedDatabase,
    user_id: Annotated[AccountName | None, Query(alias="userId")] = None,
) -> NextRefresh:
    """As /api/v1/accounts/{account_id}/allowance."""
    account = whose(caller, user_id)
    await known_profile(database, account)
    return _next(await database.read(lambda connection: read_allowance(connection, account)))


@router.get("/user/credits/refresh-history", tags=OWN)
async def own_history(
    caller: AnyCaller,
    database: UsedDatabase,
    user_id: Annotated[AccountName | None, Query(alias="userId")] = None,
    below: Below = None,
    limit: Limit = 50,
) -> RefreshHistory:
    """As /api/v1/accounts/{account_id}/refreshes."""
    page = await refreshes_page(database, whose(caller, user_id), below, limit)
    return RefreshHistory(history=[_refresh(one) for one in page.refreshes], next=page.next)


@router.get("/admin/users/{userId}/refresh-history", tags=ADMIN)  # noqa: FAST003
async def user_history(
    _: AdminCaller,
    user_id: UserIdPath,
    database: UsedDatabase,
    below: Below = None,
    limit: Limit = 50,
) -> RefreshHistory:
    """As /api/v1/accounts/{account_id}/refreshes."""
    page = await refreshes_page(database, user_id, below, limit)
    return RefreshHistory(history=[_refresh(one) for one in page.refreshes], next=page.next)


@router.post("/admin/users/{userId}/refresh-credits", tags=ADMIN, response_model=RefreshDone)  # noqa: FAST003
async def refresh_user(
    request: Request,
    caller: AdminCaller,
    user_id: UserIdPath,
    database: UsedDatabase,
    key: IdempotencyKey,
    body: RefreshOne,
) -> Response:
    """As /api/v1/admin/refreshes, for one account; 404 when there is none."""
    terms, by = terms_of(request.app.state.settings), by_of(caller, key, body.reason or BY_HAND)

    async def work(connection: Connection) -> RefreshDone:
        await require_account(connection, user_id)
        done = await refreshed(connection, [user_id], terms, by, dry_run=body.dry_run)
        return _done(done)

    return await changed_all(database, key, [user_id], work)


@router.post("/admin/credits/bulk-refresh", tags=ADMIN, response_model=RefreshDone)
async def refresh_users(
    request: Request,
    caller: AdminCaller,
    database: UsedDatabase,
    key: IdempotencyKey,
    body: RefreshMany,
) -> Response:
    """As /api/v1/admin/refreshes."""
    terms, by = terms_of(request.app.state.settings), by_of(caller, key, body.reason or BY_HAND)

    async def work(connection: Connection) -> RefreshDone:
        done = await refreshed(connection, body.user_ids, terms, by, dry_run=body.dry_run)
        return _done(done)

    return await changed_all(database, key, body.user_ids, work)


@router.put("/admin/users/{userId}/refresh-settings", tags=ADMIN, response_model=NextRefresh)  # noqa: FAST003
async def set_refresh(
    caller: AdminCaller,
    user_id: UserIdPath,
    database: UsedDatabase,
    policy: UsedPolicy,
    key: IdempotencyKey,
    body: RefreshSettings,
) -> Response:
    """As PATCH /api/v1/admin/accounts/{account_id}/allowance."""
    given: dict[str, Any] = {}
    if body.credit_refresh_hold is not None:
        given["paused"] = body.credit_refresh_hold
    if "credit_refresh_day" in body.model_fields_set:
        given["preferred_day"] = body.credit_refresh_day
    if "custom_credit_amount" in body.model_fields_set:
        amount = body.custom_credit_amount
        given["custom_micro"] = None if amount is None else to_micro(amount)
    if not given:
        raise Problem(422, Kind.INVALID, "Say what to change")
    by = by_of(caller, key, "refresh settings")

    async def work(connection: Connection) -> NextRefresh:
        await require_account(connection, user_id)
        check_allowance(given, policy)
        return _next(await change_allowance(connection, user_id, given, by))

    return await database.change(key, user_id, work)


@router.get("/admin/credits/refresh-stats", tags=ADMIN)
async def refresh_stats(caller: AdminCaller, database: UsedDatabase) -> RefreshStats:
    """As /api/v1/admin/refresh-statistics."""
    found = await refresh_statistics(caller, database)
    return RefreshStats(
        total_refreshes=found.refreshes,
        total_credits=found.amount,
        success_rate=found.success_percent,
        average_duration_seconds=found.run_seconds_mean,
        due_now=found.due,
        next_due=found.next_due_at,
    )


def _next(row: dict[str, Any]) -> NextRefresh:
    return NextRefresh(
        next_refresh=row["due_at"],
        last_credit_refresh=row["refreshed_at"],
        credit_refresh_hold=row["paused"],
        credit_refresh_day=row["preferred_day"],
        custom_credit_amount=row["custom_micro"],
    )


def _refresh(one: RefreshView) -> Refresh:
    return Refresh(
        id=one.refresh_id,
        user_id=one.account_id,
        amount=one.amount,
        old_balance=one.balance_before,
        new_balance=one.balance_after,
        reason=one.reason,
        created_at=one.refreshed_at,
    )


def _done(done: RefreshedAnswer) -> RefreshDone:
    return RefreshDone(
        dry_run=done.dry_run,
        refreshed=done.refreshed,
        failed=done.missed + len(done.failures),
        amount=done.amount,
    )
