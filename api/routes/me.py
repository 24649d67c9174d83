"""Who calls."""

from fastapi import APIRouter
from pydantic import BaseModel, Field

from api.callers import AnyCaller
from api.database import UsedDatabase
from api.routes.accounts import AccountAnswer, shown_account

router = APIRouter(prefix="/api/v1", tags=["accounts"])


class MeAnswer(BaseModel):
    """Who the caller is; users have one account, other callers none."""

    subject: str = Field(examples=["acme"])
    role: str = Field(examples=["user"])
    account: AccountAnswer | None


@router.get("/me")
async def me(caller: AnyCaller, database: UsedDatabase) -> MeAnswer:
    """Who calls, with the account for a user; 404 while it has none."""
    account = None
    if caller.account_id is not None:
        account = await shown_account(database, caller.account_id)
    return MeAnswer(subject=caller.subject, role=caller.role.value, account=account)
