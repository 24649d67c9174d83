"""The API against its own OpenAPI document: generated requests, by an admin, a user and nobody."""

import asyncio
import contextlib
import json
from collections.abc import AsyncIterator
from typing import Any

import asyncpg
import httpx2
import pytest
import schemathesis
from hypothesis import HealthCheck, Phase, given, seed
from hypothesis import settings as tries
from hypothesis.errors import Unsatisfiable
from schemathesis import GenerationMode
from schemathesis.checks import CHECKS, load_all_checks

from adapters.postgres import connect
from adapters.settings import Settings
from tests.apis import serve, token, with_tokens
from tests.gates import CREDIT, account, assert_sound

# Who asks, and how many requests of an operation are valid and how many are not, at most.
CALLERS = {"admin": 10, "user": 5, "nobody": 2}
BEARERS = {"admin": token("root", "admin", exp=4e9), "user": token("acme", exp=4e9), "nobody": ""}
load_all_checks()
JUDGES = CHECKS.get_by_names(
    [
        "not_a_server_error",
        "status_code_conformance",
        "content_type_conformance",
        "response_schema_conformance",
    ]
)


@pytest.fixture
async def connection(settings: Settings) -> AsyncIterator["asyncpg.Connection[asyncpg.Record]"]:
    made = await connect(settings, application_name="test")
    await account(made, "acme", 10_000 * CREDIT)
    yield made
    await assert_sound(made)
    await made.close()


@pytest.mark.parametrize("caller", CALLERS)
async def test_no_request_breaks_it_and_every_status_is_documented(
    settings: Settings,
    topics: object,
    connection: asyncpg.Connection,
    caller: str,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr("api.routes.health.DEPENDENCY_SECONDS_MAX", 20)
    patient = with_tokens(settings, ingest_seconds_max=60)
    async with serve(patient) as address:
        requests = await asyncio.to_thread(_try_everything, address, caller)
    assert len(requests) > 40
    assert sum(requests.values()) > CALLERS[caller] * 40


def _try_everything(address: str, caller: str) -> dict[str, int]:
    """Requests by operation; raises what the judges find."""
    text = httpx2.get(f"{address}/openapi.json").text
    # The generator does not know Unicode's properties: control characters by their numbers.
    document = json.loads(text.replace(r"\\P{Cc}", r"[^\\u0000-\\u001f\\u007f]"))
    tried = {}
    for found in schemathesis.openapi.from_dict(document).get_all_operations():
        operation = found.ok()
        tried[operation.label] = _try_one(operation, address, caller, GenerationMode.POSITIVE)
        with contextlib.suppress(Unsatisfiable):  # without parameters nothing can be wrong
            tried[operation.label] += _try_one(operation, address, caller, GenerationMode.NEGATIVE)
    return tried


def _try_one(operation: Any, address: str, caller: str, mode: GenerationMode) -> int:
    headers = {"Authorization": f"Bearer {BEARERS[caller]}"} if BEARERS[caller] else {}
    made = 0

    @seed(7)
    @tries(
        max_examples=CALLERS[caller],
        deadline=None,
        database=None,
        phases=[Phase.explicit, Phase.generate],
        suppress_health_check=list(HealthCheck),
    )
    @given(case=operation.as_strategy(generation_mode=mode))
    def one(case: Any) -> None:
        nonlocal made
        made += 1
        case.call_and_validate(base_url=address, checks=JUDGES, headers=headers)

    one()
    return made
