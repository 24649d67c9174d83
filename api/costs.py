"""What a described usage would cost: by the published prices and the code that charges."""

from collections.abc import Awaitable, Callable
from datetime import datetime
from typing import Any, TypeVar

from fastapi import Request
from pydantic import BaseModel, Field

from adapters.account_view import read_profile
from adapters.explain import cost
from adapters.gate_prices import PricesUnread, SharedPrices
from adapters.postgres import Connection
from api.amounts import ShownCredits
from api.database import Database
from api.problems import denied, not_found
from api.usage import described_event
from core.explain import Explanation
from core.holds import Denial
from core.rating import AccountFacts
from schemas.events import Rejected, UsageData, UsageEvent

Result = TypeVar("Result")


class CostAnswer(BaseModel):
    """A price and how it comes about; `explanation` has every figure exactly, as text."""

    credits: ShownCredits
    rule: str = Field(examples=["openai/gpt-4o"])
    price_version: int
    explanation: dict[str, Any]


async def cost_of(
    request: Request, account_id: str, usage: UsageData, at: datetime | None = None
) -> CostAnswer:
    """The price for an account that exists; 404 without one, 422 when there is no price."""
    event = described_event(account_id, usage, when=at)

    async def work(connection: Connection) -> Explanation | Rejected | None:
        profile = await read_profile(connection, account_id)
        if profile is None:
            return None
        return await priced(request, connection, event, AccountFacts(profile.tier, demo=False))

    found = await read_priced(request, work)
    if found is None:
        raise not_found()
    return answer_of(found)


async def read_priced(request: Request, work: Callable[[Connection], Awaitable[Result]]) -> Result:
    """Runs a read that needs prices, once more when they had to be read first. Raises Unavailable,
    and what the work does.
    """
    database: Database = request.app.state.database
    try:
        return await database.read(work)
    except PricesUnread:
        prices: SharedPrices = request.app.state.prices
        await prices.read()
        return await database.read(work)


async def priced(
    request: Request, connection: Connection, event: UsageEvent, facts: AccountFacts
) -> Explanation | Rejected:
    """The price under the version of the event's time; the published prices are kept in memory.

    To be run by `read_priced`. Raises Problem 422 for a time before the first version.
    """
    prices: SharedPrices = request.app.state.prices
    history = await prices.current(connection)
    if history.at(event.time) is None:
        raise denied(Denial.UNPRICED, "no price version is in force then")
    return await cost(connection, event, facts, history=history)


def answer_of(found: Explanation | Rejected) -> CostAnswer:
    """The answer, or a problem with 422 and the reason that the event would be parked for."""
    if isinstance(found, Rejected):
        raise denied(Denial.UNPRICED, found.detail)
    return CostAnswer(
        credits=found.rated_micro,
        rule=found.rule,
        price_version=found.price_version,
        explanation=found.as_json(),
    )
