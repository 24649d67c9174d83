"""An account as its owner sees it: balance, grants, history, holds, and what work would cost."""

from datetime import datetime
from enum import StrEnum
from typing import Annotated, Any, Literal

from fastapi import APIRouter, Query, Request
from pydantic import BaseModel, Field

from adapters.account_view import Profile, Row, list_grants, list_holds, read_hold
from adapters.failures import Failure
from adapters.history import Cursor, Filters, history, read_cursor
from api.amounts import OptionalShownCredits, ShownCredits
from api.callers import ReachableAccount
from api.costs import CostAnswer, cost_of
from api.database import UsedDatabase
from api.fields import Instant, Limit
from api.problems import Kind, Problem, not_found
from api.routes.gate import HoldId
from api.usage import DescribedUsage, Strict
from core.holds import HoldState

router = APIRouter(prefix="/api/v1/accounts/{account_id}", tags=["accounts"])
OF_A_PAGE = "`next` of a page"
PageCursor = Annotated[str | None, Query(max_length=400, description=OF_A_PAGE)]


class AccountAnswer(BaseModel):
    """An account at `as_of`. For display: a decision asks `check` or `holds`."""

    account_id: str = Field(examples=["acme"])
    tier: str = Field(examples=["free"])
    demo: bool
    balance: ShownCredits
    held: ShownCredits
    available: ShownCredits
    overdraft: ShownCredits
    monthly_cap: OptionalShownCredits
    spent_this_month: ShownCredits
    open_holds: int
    created_at: datetime
    as_of: datetime


class BalanceAnswer(BaseModel):
    """The balance at `as_of`. Held credits are in it, and are not available."""

    balance: ShownCredits
    held: ShownCredits
    available: ShownCredits
    as_of: datetime


class GrantView(BaseModel):
    """Credits that were given; what remains can be drawn until it expires."""

    grant_id: int
    source: str = Field(examples=["welcome"])
    granted_by: str
    notes: str
    priority: int
    amount: ShownCredits
    remaining: ShownCredits
    expires_at: datetime | None
    expired: bool
    created_at: datetime


class GrantsAnswer(BaseModel):
    """What can be drawn, in its order; `next` is the cursor of the following page."""

    grants: list[GrantView]
    next: str | None


class EntryType(StrEnum):
    """What an entry of the history is."""

    USAGE = "USAGE"
    HOLD = "HOLD"
    WELCOME = "WELCOME"
    GRANT = "GRANT"
    ADJUSTMENT = "ADJUSTMENT"
    EXPIRY = "EXPIRY"
    COUPON = "COUPON"
    TOP_UP = "TOP_UP"
    REFRESH = "REFRESH"
    DEDUCT = "DEDUCT"
    SETTLE = "SETTLE"
    CORRECTION = "CORRECTION"
    REVERSAL = "REVERSAL"


class EntryStatus(StrEnum):
    """Whether credits have moved: an open hold is pending, one without a charge has failed."""

    PENDING = "PENDING"
    COMPLETED = "COMPLETED"
    FAILED = "FAILED"


class EntryView(BaseModel):
    """One change of the balance, or a hold. `amount` is negative for what was taken."""

    id: str = Field(examples=["t:0000000000000000042"])
    at: datetime
    type: str = Field(examples=["USAGE"])
    status: str = Field(examples=["COMPLETED"])
    amount: ShownCredits
    balance_after: OptionalShownCredits
    event_id: str | None
    hold_id: str | None
    grant_id: int | None
    actor: str
    reason: str
    detail: str


class HistoryAnswer(BaseModel):
    """A page, newest first; `next` is the cursor of the following one, null on the last."""

    entries: list[EntryView]
    next: str | None


class HoldView(BaseModel):
    """A hold and what became of it."""

    hold_id: str = Field(examples=["hold_7f3a"])
    kind: str = Field(examples=["hold"])
    status: Literal["PENDING", "COMPLETED", "FAILED"]
    state: str = Field(examples=["open"])
    credits: ShownCredits
    charged: OptionalShownCredits
    created_at: datetime
    expires_at: datetime | None
    closed_at: datetime | None
    closed_by: str


class HoldsAnswer(BaseModel):
    """The newest holds first; `next` is the cursor of the following page."""

    holds: list[HoldView]
    next: str | None


class CostRequest(Strict):
    """The usage to price, and when; now without it."""

    usage: DescribedUsage
    at: Instant | None = None


@router.get("")
async def account(account: ReachableAccount, database: UsedDatabase) -> AccountAnswer:
    """The account with its balance, at most a minute old."""
    return await shown_account(database, account)


@router.get("/balance")
async def balance(account: ReachableAccount, database: UsedDatabase) -> BalanceAnswer:
    """The balance, at most a minute old."""
    profile = await known_profile(database, account)
    return BalanceAnswer(
        balance=profile.balance_micro,
        held=profile.held_micro,
        available=profile.available_micro,
        as_of=profile.as_of,
    )


@router.get("/grants")
async def grants(
    account: ReachableAccount,
    database: UsedDatabase,
    cursor: Annotated[str | None, Query(pattern="^[0-9]{1,18}$", description=OF_A_PAGE)] = None,
    limit: Limit = 100,
) -> GrantsAnswer:
    """What can still be drawn, in the order in which it is."""
    await known_profile(database, account)
    after = None if cursor is None else int(cursor)
    rows = await database.read(
        lambda connection: list_grants(connection, account, limit + 1, after)
    )
    following = str(rows[limit - 1]["grant_id"]) if len(rows) > limit else None
    return GrantsAnswer(grants=[_grant(row) for row in rows[:limit]], next=following)


@router.get("/transactions")
async def transactions(  # noqa: PLR0913, PLR0917 - the parameters of a query
    account: ReachableAccount,
    database: UsedDatabase,
    type_: Annotated[list[EntryType] | None, Query(alias="type", max_length=20)] = None,
    status: Annotated[list[EntryStatus] | None, Query(max_length=3)] = None,
    since: Annotated[Instant | None, Query(description="inclusive")] = None,
    until: Annotated[Instant | None, Query(description="exclusive")] = None,
    cursor: PageCursor = None,
    limit: Limit = 50,
) -> HistoryAnswer:
    """Every charge, grant, expiry, adjustment and hold, newest first, each once over the pages."""
    filters = Filters(type_, status, since, until)
    return await history_page(database, account, filters, limit, cursor)


@router.get("/holds")
async def holds(
    account: ReachableAccount,
    database: UsedDatabase,
    only_open: Annotated[bool, Query(alias="open", description="only open ones")] = False,  # noqa: FBT002 - a query parameter
    cursor: PageCursor = None,
    limit: Limit = 50,
) -> HoldsAnswer:
    """The newest holds and sessions."""
    await known_profile(database, account)
    before = cursor_of(cursor)
    page = await database.read(
        lambda connection: list_holds(
            connection, account, only_open=only_open, rows_max=limit, before=before
        )
    )
    return HoldsAnswer(holds=[_hold(row) for row in page.entries], next=page.next)


@router.get("/holds/{hold_id}")
async def one_hold(account: ReachableAccount, hold_id: HoldId, database: UsedDatabase) -> HoldView:
    """A hold or session and what became of it."""
    row = await database.read(lambda connection: read_hold(connection, account, hold_id))
    if row is None:
        raise not_found()
    return _hold(row)


@router.post("/calculate-cost")
async def calculate_cost(
    request: Request, account: ReachableAccount, body: CostRequest
) -> CostAnswer:
    """What the usage would cost the account, by the code that charges, and why. Charges nothing."""
    return await cost_of(request, account, body.usage, body.at)


async def known_profile(database: UsedDatabase, account_id: str) -> Profile:
    """The account for display; a problem with 404 when there is none."""
    profile = await database.profile(account_id)
    if profile is None:
        raise not_found()
    return profile


async def shown_account(database: UsedDatabase, account_id: str) -> AccountAnswer:
    """The account as it is answered; a problem with 404 when there is none."""
    profile = await known_profile(database, account_id)
    return AccountAnswer(
        account_id=profile.account_id,
        tier=profile.tier,
        demo=profile.demo,
        balance=profile.balance_micro,
        held=profile.held_micro,
        available=profile.available_micro,
        overdraft=profile.overdraft_micro,
        monthly_cap=profile.monthly_cap_micro,
        spent_this_month=profile.spent_micro,
        open_holds=profile.open_holds,
        created_at=profile.created_at,
        as_of=profile.as_of,
    )


async def history_page(
    database: UsedDatabase, account: str, filters: Filters, limit: int, cursor: str | None
) -> HistoryAnswer:
    """A page of an account's history; 404 without the account, 422 for a cursor of no page."""
    await known_profile(database, account)
    before = cursor_of(cursor)
    page = await database.read(
        lambda connection: history(connection, account, filters, limit, before)
    )
    return HistoryAnswer(entries=[_entry(row) for row in page.entries], next=page.next)


def cursor_of(text: str | None) -> Cursor | None:
    """The cursor that a page gave; a problem with 422 for any other text."""
    if text is None:
        return None
    try:
        return read_cursor(text)
    except (Failure, OverflowError):
        raise Problem(422, Kind.INVALID, "The cursor is not one that a page gave") from None


def _entry(row: dict[str, Any]) -> EntryView:
    return EntryView(
        id=row["place"],
        amount=row["amount_micro"],
        balance_after=row["balance_after_micro"],
        **{name: row[name] for name in ("at", "type", "status", "event_id", "hold_id", "grant_id")},
        **{name: row[name] for name in ("actor", "reason", "detail")},
    )


def _grant(row: Row) -> GrantView:
    fields = {name: value for name, value in row.items() if not name.endswith("_micro")}
    return GrantView(amount=row["amount_micro"], remaining=row["remaining_micro"], **fields)


def _hold(row: Row) -> HoldView:
    status: Any = HoldState(row["state"]).status
    return HoldView(
        status=status,
        credits=row["amount_micro"],
        charged=row["charged_micro"],
        **{name: row[name] for name in ("hold_id", "kind", "state", "closed_by")},
        **{name: row[name] for name in ("created_at", "expires_at", "closed_at")},
    )
