"""`tollgate explain` and `tollgate calculate-cost` beside a rater on a real PostgreSQL."""

import json
from datetime import timedelta
from typing import Any

from adapters.charges import amend, void
from adapters.price_store import publish
from adapters.settings import Settings
from tests.batches import NOW, Desk, desk, usage
from tests.commands import report, run_tollgate
from tests.corrected import request

LADDER = {"charge": "graduated", "steps": [{"up_to": "10", "credits": "1"}, {"credits": "0.5"}]}


async def _with_counted_actions(bench: Desk) -> None:
    document = json.loads(await bench.value("SELECT document FROM price_version"))
    document["actions"] |= {"ocr": LADDER, "scan": LADDER | {"charge": "volume"}}
    document["billed"] = {"providers": ["openrouter"], "markup": "1.1"}
    start = NOW - timedelta(days=40)
    await publish(bench.connection, document, start, "tests", correction=True)


def _work(event_id: str, quantity: int, action: str = "ocr") -> dict[str, Any]:
    event = usage(event_id)
    return event | {"data": {"action": action, "quantity": quantity}}


async def test_every_kind_of_charge_is_explained_to_what_was_charged(
    settings: Settings, environment: dict[str, str]
) -> None:
    routed = {"provider": "openrouter", "model": "anthropic/claude-sonnet-4.5"}
    async with desk(settings) as bench:
        await bench.open()
        await _with_counted_actions(bench)
        figures = await bench.apply(
            usage("plain", tokens={"input": 1000, "cache_read": 800, "output": 7}),
            usage("bill", billed={"amount": "0.0042"}, **routed),
            usage("tier", service_tier="batch", power_level="precision"),
            usage("key", own_key=True),
            _work("first", 8),
            _work("across", 7),
            _work("volume", 11, "scan"),
            _work("back", 1, "scan"),
            _work("task", 3, "scheduled_task"),
        )
        assert (figures.charged, dict(figures.dead)) == (9, {})
        charges = await bench.connection.fetch("SELECT * FROM charge")
    for charge in charges:
        told = await report(environment, "explain", charge["event_id"])
        assert told["equal"], told
        assert told["remark"] == ""
        assert told["explanation"]["rated_micro"] == charge["rated_micro"]
        assert told["explanation"]["rule"] == charge["rule"]
        assert told["explanation"]["counter_before"] == charge["counter_before"]
    by_id = {charge["event_id"]: charge["rated_micro"] for charge in charges}
    assert by_id["bill"] == 4_620
    assert (by_id["first"], by_id["across"]) == (8_000_000, 2_000_000 + 2_500_000)
    assert (by_id["volume"], by_id["back"]) == (5_500_000, 500_000)


async def test_an_explanation_in_words(settings: Settings, environment: dict[str, str]) -> None:
    async with desk(settings) as bench:
        await bench.open()
        await _with_counted_actions(bench)
        await bench.apply(_work("first", 8), _work("across", 7))
    shown = (await run_tollgate(environment, "explain", "across", "--account", "acct")).stdout
    for line in (
        "event       across of acct (tier free)",
        "rule        action:ocr (graduated), price version 2",
        "counter     action:ocr: 7 units after 8 of the month",
        "= 4.5 credits exactly",
        "price       4.500000 credits",
        "this is the price in the ledger",
    ):
        assert line in shown, shown
    assert "step 1 (1 to 10)" in shown
    assert "step 2 (above 10)" in shown


async def test_a_corrected_charge_is_explained_as_it_stands(
    settings: Settings, environment: dict[str, str]
) -> None:
    async with desk(settings) as bench:
        await bench.open()
        await bench.apply(usage("e1"), usage("e2"))
        await amend(bench.connection, request("e1"), {"tokens": {"input": 2000}})
        await void(bench.connection, request("e2"))
    amended = await report(environment, "explain", "e1")
    assert (amended["corrections"], amended["rated_micro"], amended["equal"]) == (1, 7_500, True)
    voided = await report(environment, "explain", "e2")
    assert (voided["voided"], voided["rated_micro"], voided["equal"]) == (True, 0, False)
    shown = (await run_tollgate(environment, "explain", "e2")).stdout
    assert "the charge was voided: it counts for nothing" in shown


async def test_a_corrected_counted_charge_says_what_it_holds_besides(
    settings: Settings, environment: dict[str, str]
) -> None:
    async with desk(settings) as bench:
        await bench.open()
        await _with_counted_actions(bench)
        await bench.apply(_work("first", 8), _work("across", 7))
        await amend(bench.connection, request("first"), {"quantity": 4})
        total = "SELECT sum(rated_micro) FROM ("
        total += "SELECT rated_micro FROM charge WHERE event_id = 'across' UNION ALL "
        total += "SELECT rated_micro FROM charge_correction) AS standing"
        # 11 units are left of 15: 10 x 1 + 1 x 0.5
        assert await bench.value(total) == 10_500_000
    told = await report(environment, "explain", "first")
    # its 4 units after 7 are worth 3 + 0.5; the rest is what the 7 cost more since they come first
    assert told["explanation"]["rated_micro"] == 3_500_000
    assert (told["rated_micro"], told["equal"]) == (6_000_000, False)
    assert "other events of the month" in told["remark"]


async def test_a_ledger_that_says_something_else_is_told(
    settings: Settings, environment: dict[str, str]
) -> None:
    async with desk(settings) as bench:
        await bench.open()
        await bench.apply(usage("e1"))
        await bench.value("ALTER TABLE charge DISABLE TRIGGER USER")
        await bench.value("UPDATE charge SET rated_micro = 1")
    told = await report(environment, "explain", "e1")
    assert (told["equal"], told["rated_micro"]) == (False, 1)
    assert "another amount" in told["remark"]


async def test_an_event_that_was_not_charged_says_why(
    settings: Settings, environment: dict[str, str]
) -> None:
    async with desk(settings) as bench:
        await bench.open()
        await bench.apply(usage("lost", model="nobody-knows-it"), usage("both"))
        await bench.apply(usage("both", "other"), first=2)
    told = await report(environment, "explain", "lost")
    assert told["charged"] is False
    assert [letter["reason"] for letter in told["letters"]] == ["unpriced"]
    shown = (await run_tollgate(environment, "explain", "lost")).stdout
    assert "lost was not charged" in shown
    assert "does not know model openai/nobody-knows-it" in shown
    unknown = await run_tollgate(environment, "explain", "never-sent")
    assert (unknown.returncode, unknown.stdout) == (1, "")
    assert "no event 'never-sent' was charged or refused" in unknown.stderr
    twice = await run_tollgate(environment, "explain", "both")
    assert "several accounts have an event of this id: --account acct, other" in twice.stderr
    one = await report(environment, "explain", "both", "--account", "other")
    assert (one["account_id"], one["equal"]) == ("other", True)


async def test_the_cost_of_a_described_usage_is_what_it_would_be_charged(
    settings: Settings, environment: dict[str, str]
) -> None:
    async with desk(settings) as bench:
        await bench.open()
        await _with_counted_actions(bench)
        await bench.apply(_work("first", 8))
        await bench.value("UPDATE account SET tier = 'pro' RETURNING 1")

    async def micro(*options: str) -> int:
        found = await report(environment, "calculate-cost", *options)
        cost: int = found["rated_micro"]
        return cost

    # M1, seed 001: 1,000 tokens of gpt-4o, balanced, tier free
    gpt_4o = ("--model", "gpt-4o", "--input", "1000")
    assert await micro(*gpt_4o, "--power-level", "balanced") == 3_750
    assert await micro(*gpt_4o, "--account", "acct") == 2_500
    assert await micro(*gpt_4o, "--account", "acct", "--tier", "enterprise") == 2_250
    assert await micro(*gpt_4o, "--tokens", "cache_read=800", "--tier", "pro") == 500 + 1_000
    assert await micro(*gpt_4o, "--own-key", "--tier", "pro") == 125
    assert await micro("--action", "scheduled_task", "--quantity", "3") == 1_500
    assert await micro("--model", "openrouter/x/y", "--billed", "0.0042 USD") == 4_620
    # of a month: none used before, what the account has used, what is said to be used
    ocr = ("--action", "ocr", "--quantity", "7")
    assert await micro(*ocr) == 7_000_000
    assert await micro(*ocr, "--account", "acct") == 4_500_000
    assert await micro(*ocr, "--account", "acct", "--used", "10") == 3_500_000
    shown = (await run_tollgate(environment, "calculate-cost", *gpt_4o)).stdout
    assert "price       0.003750 credits" in shown
    assert "tier free" in shown


async def test_what_has_no_price_or_makes_no_sense_is_one_line(
    settings: Settings, environment: dict[str, str]
) -> None:
    for options, status, said in (
        (("--model", "nobody", "--input", "1"), 1, "does not know model nobody"),
        (("--model", "gpt-4o", "--input", "1", "--tier", "gold"), 1, "multiplier for tier 'gold'"),
        (("--model", "gpt-4o", "--account", "none"), 1, "no account none"),
        (("--model", "gpt-4o", "--version", "9"), 1, "there is no price version 9"),
        (("--model", "gpt-4o", "--at", "2019-01-01"), 1, "no price version is in force"),
        (("--tokens", "input=x"), 2, "is not like cache_read=800"),
        (("--tokens", "smell=1"), 2, "data.tokens.smell"),
        (("--input", "1", "--tokens", "cache_read=2"), 2, "parts of the input exceed input"),
        (("--billed", "1e3"), 2, "data.billed.amount"),
        (("--power-level", "turbo"), 2, "data.power_level: Input should be 'eco', 'balanced'"),
    ):
        done = await run_tollgate(environment, "calculate-cost", *options)
        assert (done.returncode, done.stdout) == (status, ""), done
        assert said in done.stderr
        assert done.stderr.count("\n") == 1
