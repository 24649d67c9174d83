"""Voiding and amending single charges, on real PostgreSQL."""

from datetime import timedelta

import asyncpg
import pytest

from adapters.accounts import GrantRequest, change_account, create_account, give
from adapters.charges import amend, read_charge, void
from adapters.failures import Failure
from adapters.settings import Settings
from tests.batches import NOW, Desk, desk, usage
from tests.corrected import count_scans, ledger, request, scan, wrong

WELCOME = 1_000_000_000
GPT_4O = 3_750  # 1,000 input tokens on tier free
TWICE = {"tokens": {"input": 2_000}}


async def _balance(bench: Desk, account_id: str = "acct") -> int:
    balance: int = await bench.value(
        "SELECT balance_micro FROM account WHERE account_id = $1", account_id
    )
    return balance


async def test_a_voided_charge_counts_for_nothing_and_what_it_cost_is_given_back(
    settings: Settings,
) -> None:
    async with desk(settings) as bench:
        await bench.open()
        await bench.apply(usage("e1"), usage("e2"))
        answer = await void(bench.connection, request("e1"))
        assert (answer.changed, answer.sequence, answer.voided) == (True, 1, True)
        assert (answer.rated_micro, answer.amount_change_micro) == (0, -GPT_4O)
        assert answer.balance_after_micro == await _balance(bench) == WELCOME - GPT_4O
        charge = await bench.connection.fetchrow("SELECT * FROM charge WHERE event_id = 'e1'")
        assert charge["amount_micro"] == GPT_4O
        entry = await bench.connection.fetchrow(
            "SELECT type, amount_micro, event_id, actor, reason FROM credit_transaction "
            "WHERE type = 'CORRECTION'"
        )
        assert tuple(entry) == ("CORRECTION", GPT_4O, "e1", "tests", "a test")
        assert await wrong(bench) == []


async def test_voiding_twice_voids_once(settings: Settings) -> None:
    async with desk(settings) as bench:
        await bench.open()
        await bench.apply(usage("e1"))
        await void(bench.connection, request("e1"))
        before = await ledger(bench)
        answer = await void(bench.connection, request("e1"))
        assert (answer.changed, answer.sequence, answer.amount_change_micro) == (False, 1, 0)
        assert await ledger(bench) == before


async def test_an_amended_charge_costs_what_the_right_usage_costs(settings: Settings) -> None:
    async with desk(settings) as bench:
        await bench.open()
        await bench.apply(usage("e1", tokens={"input": 1_000, "output": 7}))
        seven_output = 7 * 15  # 10 dollars a million, tier free
        answer = await amend(bench.connection, request("e1"), TWICE)
        assert (answer.rated_micro, answer.amount_change_micro) == (
            2 * GPT_4O + seven_output,
            GPT_4O,
        )
        assert await _balance(bench) == WELCOME - 2 * GPT_4O - seven_output
        now = (await read_charge(bench.connection, "acct", "e1"))["now"]
        assert (now["input_tokens"], now["output_tokens"], now["sequence"]) == (2_000, 7, 1)
        assert await wrong(bench) == []


async def test_amending_to_what_stands_changes_nothing(settings: Settings) -> None:
    async with desk(settings) as bench:
        await bench.open()
        await bench.apply(usage("e1"))
        before = await ledger(bench)
        for patch in ({}, {"tokens": {"input": 1_000}}, {"quantity": None}):
            answer = await amend(bench.connection, request("e1"), patch)
            assert (answer.changed, answer.amount_micro) == (False, GPT_4O)
        assert await ledger(bench) == before


async def test_a_charge_is_amended_then_voided_then_brought_back(settings: Settings) -> None:
    async with desk(settings) as bench:
        await bench.open()
        await bench.apply(usage("e1"))
        await amend(bench.connection, request("e1"), TWICE)
        gone = await void(bench.connection, request("e1"))
        assert (gone.sequence, gone.amount_change_micro) == (2, -2 * GPT_4O)
        assert await _balance(bench) == WELCOME
        back = await amend(bench.connection, request("e1"), {})
        assert (back.sequence, back.voided, back.amount_change_micro) == (3, False, 2 * GPT_4O)
        assert await _balance(bench) == WELCOME - 2 * GPT_4O
        assert await wrong(bench) == []


async def test_a_retry_of_a_corrected_event_is_still_a_duplicate(settings: Settings) -> None:
    async with desk(settings) as bench:
        await bench.open()
        await bench.apply(usage("e1"), usage("e2"))
        await void(bench.connection, request("e1"))
        await amend(bench.connection, request("e2"), TWICE)
        figures = await bench.apply(usage("e1"), usage("e2"), first=2)
        assert (figures.charged, figures.duplicate) == (0, 2)
        assert await _balance(bench) == WELCOME - 2 * GPT_4O


async def test_a_demo_account_gets_a_new_price_and_pays_nothing(settings: Settings) -> None:
    async with desk(settings) as bench:
        await bench.open()
        await create_account(bench.connection, "acct", tier="free", demo=True, welcome=None)
        await bench.apply(usage("e1"))
        answer = await amend(bench.connection, request("e1"), TWICE)
        assert (answer.rated_micro, answer.amount_micro) == (2 * GPT_4O, 0)
        assert (answer.amount_change_micro, answer.balance_after_micro) == (0, None)
        # The charge was of demo use, and stays so when the account is not demo any more.
        await change_account(bench.connection, "acct", tier=None, demo=False)
        assert (await void(bench.connection, request("e1"))).amount_change_micro == 0
        assert await _balance(bench) == 0
        assert await bench.value("SELECT count(*) FROM credit_transaction") == 0
        assert await wrong(bench) == []


async def test_a_correction_keeps_the_tier_of_the_charge(settings: Settings) -> None:
    async with desk(settings) as bench:
        await bench.open()
        await bench.apply(usage("e1"))
        tiers = await bench.connection.fetch(
            "SELECT jsonb_object_keys(document -> 'tiers') AS tier FROM price_version"
        )
        other = next(row["tier"] for row in tiers if row["tier"] != "free")
        await change_account(bench.connection, "acct", tier=other, demo=None)
        answer = await amend(bench.connection, request("e1"), TWICE)
        assert answer.rated_micro == 2 * GPT_4O


async def test_what_is_given_back_repays_overdraft_and_is_a_grant_for_the_rest(
    settings: Settings,
) -> None:
    async with desk(settings, welcome_credits_micro=5_000) as bench:
        await bench.open()
        await bench.apply(usage("e1"), usage("e2"))  # 7,500 of 5,000: 2,500 of overdraft
        await void(bench.connection, request("e1"))
        account = await bench.connection.fetchrow("SELECT * FROM account")
        assert (account["balance_micro"], account["overdraft_micro"]) == (1_250, 0)
        grants = await bench.connection.fetch(
            "SELECT source, granted_by, amount_micro, remaining_micro FROM credit_grant "
            "ORDER BY grant_id"
        )
        assert [tuple(grant) for grant in grants] == [
            ("welcome", "rater", 5_000, 0),
            ("correction", "tests", 1_250, 1_250),
        ]
        await void(bench.connection, request("e2"))
        assert await _balance(bench) == 5_000
        assert await wrong(bench) == []


async def test_a_dearer_amendment_burns_grants_in_order_and_goes_into_overdraft(
    settings: Settings,
) -> None:
    async with desk(settings, welcome_credits_micro=5_000) as bench:
        await bench.open()
        await bench.apply(usage("e1"))
        for amount_micro, priority in ((2_000, 50), (1_000, 500)):
            gift = GrantRequest("acct", amount_micro, actor="tests", priority=priority)
            await give(bench.connection, gift)
        await amend(bench.connection, request("e1"), {"tokens": {"input": 1_800}})  # 3,000 more
        left = "SELECT array_agg(remaining_micro ORDER BY grant_id) FROM credit_grant"
        assert await bench.value(left) == [250, 0, 1_000]
        number = await bench.value("SELECT max(transaction_id) FROM credit_transaction")
        drawn = "SELECT sum(amount_micro) FROM grant_draw WHERE cause = $1"
        assert await bench.value(drawn, f"correction:{number}") == 3_000
        await amend(bench.connection, request("e1"), {"tokens": {"input": 2_800}})  # 3,750 more
        assert await bench.value(left) == [0, 0, 0]
        assert await bench.value("SELECT overdraft_micro FROM account") == 2_500
        assert await wrong(bench) == []


async def test_the_same_key_answers_as_the_first_time_and_stands_for_nothing_else(
    settings: Settings,
) -> None:
    async with desk(settings) as bench:
        await bench.open()
        await bench.apply(usage("e1"), usage("e2"), usage("e1", "other"))
        first = await amend(bench.connection, request("e1", key="k1"), TWICE)
        await void(bench.connection, request("e1", key="k2"))
        before = await ledger(bench)
        again = await amend(bench.connection, request("e1", key="k1"), TWICE)
        assert again.repeated
        assert (again.sequence, again.rated_micro, again.balance_after_micro) == (
            first.sequence,
            first.rated_micro,
            first.balance_after_micro,
        )
        assert (await void(bench.connection, request("e1", key="k2"))).sequence == 2
        for refused in (
            amend(bench.connection, request("e1", key="k1"), {"quantity": 2}),
            amend(bench.connection, request("e2", key="k1"), TWICE),
            amend(bench.connection, request("e1", "other", key="k1"), TWICE),
            void(bench.connection, request("e1", key="k1")),
        ):
            with pytest.raises(Failure, match="stands for another correction"):
                await refused
        assert await ledger(bench) == before


@pytest.mark.parametrize(
    ("patch", "line"),
    [
        ({"model": "no-such-model"}, "has no price.*does not know model openai/no-such-model"),
        ({"tokens": {"input": -1}}, "data.tokens.input: .*greater than or equal to 0"),
        ({"tokens": {"input": 10**9 + 1}}, "data.tokens.input: .*less than or equal"),
        ({"tokens": {"cache_read": 1_001}}, "parts of the input exceed input"),
        ({"tokens": {"thoughts": 1}}, "data.tokens.thoughts"),
        ({"modle": "gpt-4o-mini"}, "'modle' can not be amended; what can is action"),
        ({"hold_id": "h1"}, "'hold_id' can not be amended"),
        ({"power_level": "most"}, "data.power_level"),
    ],
)
async def test_an_amendment_that_breaks_a_limit_or_has_no_price_is_refused(
    settings: Settings, patch: dict[str, object], line: str
) -> None:
    async with desk(settings) as bench:
        await bench.open()
        await bench.apply(usage("e1"))
        before = await ledger(bench)
        with pytest.raises(Failure, match=line):
            await amend(bench.connection, request("e1"), patch)
        assert await ledger(bench) == before


async def test_a_charge_that_does_not_exist_is_told(settings: Settings) -> None:
    async with desk(settings) as bench:
        await bench.open()
        await bench.apply(usage("e1"))
        for work in (
            void(bench.connection, request("e2")),
            void(bench.connection, request("e1", "nobody")),
            amend(bench.connection, request("e2"), {}),
            read_charge(bench.connection, "acct", "e2"),
        ):
            with pytest.raises(Failure, match="was never charged for an event"):
                await work


async def test_a_correction_is_never_changed(settings: Settings) -> None:
    async with desk(settings) as bench:
        await bench.open()
        await bench.apply(usage("e1"))
        await void(bench.connection, request("e1"))
        for statement in (
            "UPDATE charge_correction SET rated_micro = 1",
            "DELETE FROM charge_correction",
        ):
            with pytest.raises(asyncpg.RaiseError, match="append-only"):
                await bench.connection.execute(statement)


async def test_a_counted_charge_gives_back_the_margin_and_the_month_stays_its_definition(
    settings: Settings,
) -> None:
    async with desk(settings) as bench:
        await bench.open()
        await count_scans(bench)
        await bench.apply(scan("s1", 10), scan("s2", 10), usage("e1"))
        assert await _balance(bench) == WELCOME - 150_000 - GPT_4O
        gone = await void(bench.connection, request("s1", key="k1"))
        # s2 is the month's first now: its 10 units cost 0.05 more.
        assert (gone.rated_micro, gone.amount_change_micro, gone.moved_micro) == (
            0,
            -100_000,
            50_000,
        )
        assert gone.balance_after_micro == await _balance(bench) == WELCOME - 100_000 - GPT_4O
        again = await void(bench.connection, request("s1", key="k1"))
        assert (again.repeated, again.moved_micro) == (True, 50_000)
        (beside,) = (await read_charge(bench.connection, "acct", "s2"))["corrections"]
        assert (beside["kind"], beside["rated_micro"]) == ("amend", 100_000)
        assert beside["reason"] == "the price of the month, when s1 was corrected"
        counted = "SELECT units FROM usage_counter"
        assert await bench.value(counted) == 10
        # What follows is counted on from there: 12 more units are two above ten.
        await bench.apply(scan("s3", 12), first=3)
        assert await bench.value("SELECT rated_micro FROM charge WHERE event_id = 's3'") == 60_000
        for event_id in ("s2", "s3"):
            await void(bench.connection, request(event_id))
        assert await _balance(bench) == WELCOME - GPT_4O
        assert await bench.value(counted) == 0
        assert await wrong(bench) == []


async def test_usage_of_another_month_carries_nothing(settings: Settings) -> None:
    async with desk(settings) as bench:
        await bench.open()
        await count_scans(bench)
        before = {**scan("s0", 10), "time": (NOW - timedelta(days=31)).isoformat()}
        await bench.apply(before, scan("s1", 10))
        answer = await void(bench.connection, request("s1"))
        assert (answer.amount_change_micro, answer.moved_micro) == (-100_000, 0)
        assert await wrong(bench) == []


async def test_an_amendment_may_take_a_charge_out_of_its_counter(settings: Settings) -> None:
    async with desk(settings) as bench:
        await bench.open()
        await count_scans(bench)
        await bench.apply(scan("s1", 10), scan("s2", 10))
        patch = {"action": "data_export", "quantity": 3}
        answer = await amend(bench.connection, request("s1"), patch)
        assert (answer.rated_micro, answer.moved_micro) == (30_000, 50_000)
        assert await _balance(bench) == WELCOME - 100_000 - 30_000
        assert await wrong(bench) == []
