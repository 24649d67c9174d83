"""Gifts above the limit as operators type them."""

import json
import shlex
from collections.abc import Mapping

import pytest
from click.testing import Result
from typer.testing import CliRunner

from adapters.failures import Failure
from adapters.postgres import connect
from adapters.settings import Settings
from tests.conftest import in_a_loop
from tests.gates import CREDIT, account
from tollgate.cli import build_app


@pytest.fixture
def limited(settings: Settings, environment: Mapping[str, str]) -> dict[str, str]:
    async def prepare() -> None:
        connection = await connect(settings, application_name="test")
        await account(connection, "acme", 100 * CREDIT)
        await connection.close()

    in_a_loop(prepare)
    return {**environment, "TOLLGATE_DUAL_CONTROL_CREDITS_MICRO": str(1_000 * CREDIT)}


def typed(environment: Mapping[str, str], who: str, line: str) -> Result:
    return CliRunner().invoke(
        build_app(), shlex.split(line), env={**environment, "LOGNAME": who, "COLUMNS": "200"}
    )


def said(environment: Mapping[str, str], who: str, line: str) -> str:
    done = typed(environment, who, line)
    assert done.exit_code == 0, (done.output, done.exception)
    return done.stdout


def refused(environment: Mapping[str, str], who: str, line: str) -> str:
    failure = typed(environment, who, line).exception
    assert isinstance(failure, Failure)
    return str(failure)


def test_a_gift_waits_and_another_admin_approves_it(limited: dict[str, str]) -> None:
    waits = said(limited, "anna", "grant acme 5000 --reason 'contract 7' --key c-7")
    assert waits.startswith("proposal 1: 5,000.000000 credits for acme wait for another admin")
    assert waits.endswith(" UTC: tollgate proposal approve 1\n")
    assert said(limited, "anna", "grant acme 5000 --reason 'contract 7' --key c-7") == waits
    assert "nobody approves the own" in refused(limited, "anna", "proposal approve 1")
    done = said(limited, "bob", "proposal approve 1 --reason 'contract seen'")
    assert done == (
        "proposal 1: 5,000.000000 credits for acme, approved by cli:bob: contract seen\n"
        "balance 5,100.000000\n"
    )
    assert "decided already" in refused(limited, "eve", "proposal approve 1")
    again = said(limited, "anna", "grant acme 5000 --reason 'contract 7' --key c-7")
    assert "credits was given before; balance 5,100.000000" in again
    assert "no such proposal" in refused(limited, "bob", "proposal reject 9 --reason x")
    large = refused(limited, "anna", "refresh set acme --amount 1001 --reason large")
    assert "so large an allowance needs two" in large
    assert "no proposal 9" in refused(limited, "bob", "proposal show 9")


def test_adjustments_coupons_and_lists(limited: dict[str, str]) -> None:
    assert said(limited, "anna", "proposal list") == "no proposals\n"
    take = "account adjust acme -2000 --reason 'given twice' --key t-1"
    waits = said(limited, "anna", take)
    assert waits.startswith("proposal 1: -2,000.000000 credits for acme wait for another admin")
    coupon = "coupon create SPRING --credits 5 --reason campaign"
    told = said(limited, "anna", coupon)
    assert told.startswith("proposal 2: 5.000000 credits, any number of times by coupon SPRING")
    gone = said(limited, "anna", "proposal reject 2 --reason 'wrong code'")
    assert gone.endswith(", withdrawn by cli:anna: wrong code\n")
    report = json.loads(said(limited, "bob", "proposal approve 1 --json"))
    assert (report["state"], report["decided_by"]) == ("approved", "cli:bob")
    assert said(limited, "anna", take).endswith(", approved by cli:bob\n")
    shown = said(limited, "bob", "proposal list")
    assert "adjustment: -2,000.000000 credits for acme" in shown
    assert "withdrawn" in shown
    page = json.loads(said(limited, "bob", "proposal list --limit 1 --json"))
    assert [each["proposal_id"] for each in page["proposals"]] == [2]
    assert page["next"] == 2
    assert "older proposals: --before 2" in said(limited, "bob", "proposal list --limit 1")
    approved = json.loads(said(limited, "bob", "proposal list --state approved --json"))
    assert [each["proposal_id"] for each in approved["proposals"]] == [1]
    one = said(limited, "bob", "proposal show 2")
    assert "decided " in one
    assert "grant_days" not in one, "a term that was not given says nothing"
    assert "code: SPRING" in one
