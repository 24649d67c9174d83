"""The bench of the fault tests: a stack that may be broken, and workers that may be killed."""

from collections.abc import AsyncIterator, Iterator
from pathlib import Path

import pytest
import pytest_asyncio

from adapters.settings import Settings
from stack.local import Stack
from tests.faults.bench import Bench
from tests.faults.fleet import Fleet, Nursery


@pytest.fixture(scope="session")
def stack(own_stack: Stack) -> Stack:
    """In these tests, `settings` and `topics` live on a stack that nobody else uses."""
    return own_stack


@pytest.fixture(scope="session")
def nursery() -> Iterator[Nursery]:
    """The process that forks workers."""
    made = Nursery()
    yield made
    made.close()


@pytest_asyncio.fixture
async def bench(
    nursery: Nursery,
    settings: Settings,
    topics: dict[str, str],
    environment: dict[str, str],
    tmp_path: Path,
) -> AsyncIterator[Bench]:
    """Fresh stores and topics with workers on call; all workers are gone afterwards."""
    own = {key: value for key, value in environment.items() if key.startswith("TOLLGATE_")}
    fleet = Fleet(nursery, {**own, "TOLLGATE_LOG_FORMAT": "json", **DEFAULTS}, tmp_path)
    made = Bench(settings, fleet)
    yield made
    fleet.kill_all()
    await made.publisher.close()


# The shortest session timeout that the broker takes, and small batches, so that faults meet many.
DEFAULTS = {
    "TOLLGATE_SESSION_TIMEOUT_MS": "6000",
    "TOLLGATE_BATCH_RECORDS": "200",
    "TOLLGATE_SHIP_ROWS_MAX": "2000",
    "TOLLGATE_SHIP_WAIT_MS": "50",
}
