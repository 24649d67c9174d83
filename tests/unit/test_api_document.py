"""The OpenAPI document, and the page about the API, are what the API serves."""

import re
from importlib.metadata import version
from pathlib import Path
from typing import Any

import pytest
from pydantic import SecretStr

from adapters.settings import Settings
from api.app import create_app

ROOT = Path(__file__).parents[2]
PAGE = (ROOT / "docs/api.md").read_text(encoding="utf-8")
DOCUMENT: dict[str, Any] = create_app(
    Settings(jwt_secret=SecretStr("s" * 32), local_login=True)
).openapi()
ROUTES = {
    f"{method.upper()} {path}": operation
    for path, operations in DOCUMENT["paths"].items()
    for method, operation in operations.items()
}
# What is put or deleted twice is put or deleted once.
CHANGES = {route for route in ROUTES if not route.startswith(("GET ", "PUT ", "DELETE "))}
# A check and a price reserve and charge nothing; an event has an identity of its own; a sync reads;
# a login changes nothing.
NO_KEY = {
    "POST /api/v1/events",
    "POST /api/v1/accounts/{account_id}/provider-keys/{provider}/sync",
    "POST /api/v1/accounts/{account_id}/check",
    "POST /api/v1/accounts/{account_id}/calculate-cost",
    "POST /api/v1/credits/calculate-cost",
    "POST /api/credits/check",
    "POST /api/v1/login",
    "POST /api/auth/login",
}
# What the source documents ask for by its path.
SOURCES = {
    "GET /api/users/me", "GET /api/credits/transactions", "POST /api/admin/credits/adjust",
    "GET /api/health", "GET /api/v1/credits/balance", "POST /api/v1/credits/calculate-cost",
    "POST /api/v1/credits/deduct", "GET /api/v1/credits/transactions",
    "POST /api/v1/admin/credits/allocate", "GET /api/v1/system/status",
    "GET /api/credits/balance", "POST /api/credits/allocate", "POST /api/credits/check",
    "POST /api/admin/users/{userId}/refresh-credits", "POST /api/admin/credits/bulk-refresh",
    "GET /api/admin/users/{userId}/refresh-history", "GET /api/admin/credits/refresh-stats",
    "PUT /api/admin/users/{userId}/refresh-settings", "GET /api/user/credits/next-refresh",
    "GET /api/user/credits/refresh-history", "POST /api/auth/login",
}  # fmt: skip


def _pairs() -> list[tuple[str, str]]:
    table = PAGE.partition("<!-- compatible paths -->")[2].partition("<!-- end of")[0]
    return re.findall(r"^\| `([A-Z]+ [^`]+)` \| `([A-Z]+ [^`]+)` \|", table, re.MULTILINE)


def test_the_page_maps_every_path_of_the_sources_to_one_of_ours() -> None:
    theirs = [their for their, _ in _pairs()]
    assert len(theirs) == len(set(theirs))
    assert set(theirs) == SOURCES
    assert not {path for pair in _pairs() for path in pair} - set(ROUTES)


def test_every_compatible_route_is_in_the_table() -> None:
    tagged = {route for route, found in ROUTES.items() if "compatible" in found.get("tags", ())}
    assert tagged == SOURCES - {"GET /api/health", "GET /api/v1/system/status"}


def test_the_page_names_routes_that_exist() -> None:
    paths = {route.partition(" ")[2] for route in ROUTES} | {"/metrics", "/openapi.json", "/docs"}
    spans = re.findall(r"`(/[a-z][^`\s]*)`", PAGE)
    starts = ("/api/credits/...", "/api/v1", "/api/v1/admin", "/balance", "/refreshes")
    assert not {span for span in spans if span not in paths and span not in starts}


@pytest.mark.parametrize("route", ROUTES)
def test_a_route_says_what_it_does_and_what_it_answers(route: str) -> None:
    operation = ROUTES[route]
    assert operation["description"].strip()
    answers = operation["responses"]
    assert any(status.startswith("2") for status in answers)
    for status, answer in answers.items():
        if status.startswith(("4", "5")) and "/health" not in route:
            kinds = set(answer.get("content", {}))
            assert kinds <= {"application/problem+json", "application/json"}, (status, kinds)
    assert {"400", "401", "403", "404", "409", "413", "422", "429", "503"} <= set(answers)


@pytest.mark.parametrize("route", sorted(CHANGES - NO_KEY))
def test_a_change_takes_an_idempotency_key(route: str) -> None:
    names = {parameter["name"] for parameter in ROUTES[route].get("parameters", ())}
    assert "Idempotency-Key" in names


def test_whatever_gives_credits_may_answer_with_a_proposal() -> None:
    gives = {
        "POST /api/v1/admin/accounts/{account_id}/grants",
        "POST /api/v1/admin/accounts/{account_id}/adjustments",
        "POST /api/v1/admin/coupons",
        "POST /api/v1/admin/credits/allocate",
        "POST /api/admin/credits/adjust",
        "POST /api/credits/allocate",
    }
    schema = {"$ref": "#/components/schemas/ProposalView"}
    found = {
        route
        for route, operation in ROUTES.items()
        if "202" in operation["responses"]
        and operation["responses"]["202"]["content"]["application/json"]["schema"] == schema
    }
    assert found == gives


def test_the_document_says_which_version_answers() -> None:
    assert DOCUMENT["info"]["version"] == version("tollgate")


def test_errors_are_problem_documents() -> None:
    answer = ROUTES["GET /api/v1/me"]["responses"]["404"]["content"]
    schema = {"$ref": "#/components/schemas/ProblemDocument"}
    assert answer == {"application/problem+json": {"schema": schema}}
