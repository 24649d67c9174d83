"""A volume price that is published must not give back what another price charged."""

from collections.abc import AsyncIterator
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest

from adapters.failures import Failure
from adapters.postgres import Connection, connect
from adapters.price_store import propose, publish
from adapters.settings import Settings
from tests.priced_usage import document

NOW = datetime.now(UTC).replace(microsecond=0)
MONTH = NOW.replace(day=1, hour=0, minute=0, second=0)
NEXT_MONTH = (MONTH + timedelta(days=32)).replace(day=1)
LADDER = [{"up_to": "1000", "credits": "1"}, {"credits": "0.5"}]
CHEAP = [{"up_to": "1000", "credits": "0.01"}, {"credits": "0.005"}]
REFUSED = "action:page counts 'action:page', as action:page of version 2 does at another price"


def _pages(steps: list[dict[str, str]], charge: str = "volume", **more: Any) -> dict[str, Any]:
    return document(actions={"page": {"charge": charge, "steps": steps, **more}})


@pytest.fixture
async def connection(settings: Settings) -> AsyncIterator[Connection]:
    """A database in which pages have had a cheap graduated price since the month began."""
    opened = await connect(settings, application_name="tests")
    await publish(opened, _pages(CHEAP, "graduated"), MONTH, "ops", correction=True)
    yield opened
    await opened.close()


@pytest.mark.parametrize("start", [None, MONTH, MONTH - timedelta(days=40)])
async def test_it_waits_for_the_month_or_counts_anew(
    connection: Connection, start: datetime | None
) -> None:
    with pytest.raises(Failure, match=REFUSED):
        await publish(connection, _pages(LADDER), start, "ops", correction=True)
    assert (await propose(connection, _pages(LADDER), start)).clashes
    assert await publish(connection, _pages(LADDER), NEXT_MONTH, "ops") == 3
    named = _pages(LADDER, counter="pages-2")
    assert await publish(connection, named, start, "ops", correction=True) == 4


async def test_what_stays_as_it_is_never_waits(connection: Connection) -> None:
    await publish(connection, _pages(LADDER), NEXT_MONTH, "ops")
    other = _pages(LADDER)
    other["actions"]["call"] = {"credits": "0.1"}
    assert await publish(connection, other, NEXT_MONTH + timedelta(days=9), "ops") == 4


async def test_a_volume_price_is_not_left_within_its_month_either(connection: Connection) -> None:
    await publish(connection, _pages(LADDER), NEXT_MONTH, "ops")
    with pytest.raises(Failure, match="of version 3 does at another price in the same month"):
        await publish(connection, _pages(CHEAP, "graduated"), NEXT_MONTH + timedelta(days=9), "ops")
    flat = document(actions={"page": {"credits": "0.1"}})
    assert await publish(connection, flat, NEXT_MONTH + timedelta(days=9), "ops") == 4
