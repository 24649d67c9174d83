"""Every charge model against figures worked out by hand or published by others; sources beside."""

from datetime import UTC, date, datetime
from typing import Any

import pytest

from core.prices import PriceHistory
from core.rating import COUNTED_UNITS_MAX, AccountFacts, Counting, Rated, rate
from schemas.reasons import Reason, Rejected
from schemas.usage import BilledCost, PowerLevel, ServiceTier, UsageEvent
from tests.priced_usage import FREE, NOVEMBER, PRO, history, usage

CREDIT = 1_000_000


def _steps(*steps: tuple[str | None, str] | tuple[str | None, str, str]) -> list[dict[str, str]]:
    rows = []
    for up_to, price, *fee in steps:
        row = {"credits": price}
        if up_to is not None:
            row["up_to"] = up_to
        if fee:
            row["fee"] = fee[0]
        rows.append(row)
    return rows


FONTS = _steps(("5", "7"), ("10", "6.5"), (None, "6"))
CALLS = _steps(
    ("10000", "0.0010", "10"),
    ("50000", "0.0008", "10"),
    ("100000", "0.0006", "10"),
    (None, "0.0004", "10"),
)
REQUESTS = _steps(("1000", "0.01"), ("10000", "0.008"), (None, "0.005"))
SLABS = _steps(("1000", "0.10"), ("10000", "0.05"), (None, "0.01"))
TRANSFERS = _steps(("1000", "0.01", "200"), ("10000", "0.02", "300"), (None, "0.03", "400"))


def _counting(event: UsageEvent, prices: PriceHistory, facts: AccountFacts = PRO) -> Counting:
    answer = rate(event, prices, facts)
    assert isinstance(answer, Counting), answer
    return answer


def _micro(event: UsageEvent, prices: PriceHistory, before: int = 0) -> int:
    answer = rate(event, prices, PRO)
    if isinstance(answer, Counting):
        answer = answer.rated(before)
    assert isinstance(answer, Rated), answer
    return answer.rated_micro


def _refused(event: UsageEvent, prices: PriceHistory) -> str:
    answer = rate(event, prices, PRO)
    assert isinstance(answer, Rejected), answer
    assert answer.reason is Reason.UNPRICED
    return answer.detail


@pytest.mark.parametrize(
    ("row", "units", "credits_micro"),
    [
        # Stripe, "Set up tiered pricing": fonts at 7 up to 5, 6.50 up to 10, 6 above.
        ({"charge": "volume", "steps": FONTS}, 5, 35 * CREDIT),
        ({"charge": "volume", "steps": FONTS}, 6, 39 * CREDIT),
        ({"charge": "volume", "steps": FONTS}, 20, 120 * CREDIT),
        ({"charge": "volume", "steps": FONTS}, 25, 150 * CREDIT),
        ({"charge": "graduated", "steps": FONTS}, 5, 35 * CREDIT),
        # the same prices, each unit at its own step: 5 x 7 + 1 x 6.5
        ({"charge": "graduated", "steps": FONTS}, 6, 41_500_000),
        # 5 x 7 + 5 x 6.5 + 10 x 6
        ({"charge": "graduated", "steps": FONTS}, 20, 127_500_000),
        # Autumn, "Graduated pricing": 15,000 requests cost 10 + 72 + 25 = 107.
        ({"charge": "graduated", "steps": REQUESTS}, 15_000, 107 * CREDIT),
        # Zuplo, "Pricing models": 15,000 units graduated 100 + 450 + 50, by volume 150.
        ({"charge": "graduated", "steps": SLABS}, 15_000, 600 * CREDIT),
        ({"charge": "volume", "steps": SLABS}, 15_000, 150 * CREDIT),
        # Lago, "Volume": 65,000 x 0.0006 + 10 = 49.
        ({"charge": "volume", "steps": CALLS}, 65_000, 49 * CREDIT),
        # Lago, "Graduated percentage", its first two transactions as units: 5 + 200 = 205 for 500.
        ({"charge": "graduated", "steps": TRANSFERS}, 500, 205 * CREDIT),
        # ... and 550 more: 500 x 1 % + 50 x 2 % + 300 = 306, together 511.
        ({"charge": "graduated", "steps": TRANSFERS}, 1050, 511 * CREDIT),
        # Lago, "Package": 5 for each 100, the first 100 free: 201 units cost 0 + 5 + 5 = 10.
        ({"charge": "package", "credits": "5", "size": "100", "free_units": "100"}, 201, 10**7),
        (
            {"charge": "package", "credits": "5", "size": "100", "free_units": "100"},
            200,
            5 * CREDIT,
        ),
        (
            {"charge": "package", "credits": "5", "size": "100", "free_units": "100"},
            101,
            5 * CREDIT,
        ),
        ({"charge": "package", "credits": "5", "size": "100", "free_units": "100"}, 100, 0),
        # Flexprice, "Tiered": a package of 1,000 calls for 1.00; 4,500 are 5 packages.
        ({"charge": "package", "credits": "1", "size": "1000"}, 4500, 5 * CREDIT),
        # 0.3 credits for 60 seconds: 90 seconds are 0.45, one second is 0.005.
        ({"credits": "0.3", "per": "60", "unit": "seconds"}, 90, 450_000),
        ({"charge": "per_unit", "credits": "0.3", "per": "60"}, 1, 5_000),
        # 1 GiB for 0.09 credits: 100 MiB are 0.09 x 100 / 1024 = 0.0087890625.
        ({"credits": "0.09", "per": "1073741824", "unit": "bytes"}, 104_857_600, 8_789),
        ({"charge": "graduated", "per": "1000", "steps": _steps((None, "2"))}, 1, 2_000),
        ({"charge": "volume", "per": "1000", "steps": _steps((None, "2"))}, 500, CREDIT),
    ],
)
def test_a_month_of_an_action(row: dict[str, Any], units: int, credits_micro: int) -> None:
    prices = history(actions={"work": row})
    assert _micro(usage(action="work", quantity=units), prices) == credits_micro
    # the same month as two events, wherever it is cut
    for first in (1, units // 2, units - 1):
        halves = (
            _micro(usage(action="work", quantity=first), prices),
            _micro(usage(action="work", quantity=units - first), prices, first),
        )
        # each event of an uncounted price is rounded by itself, a counted month once
        loss = 0 if row.get("charge", "per_unit") != "per_unit" else 1
        assert abs(sum(halves) - credits_micro) <= loss


@pytest.mark.parametrize(
    ("charge", "units_before", "credits_micro"),
    [
        ("graduated", 1000, 5_000),
        # The 1,001st unit makes all of them cheaper: 5.005 less the 10 charged before.
        ("volume", 1000, -4_995_000),
        ("volume", 1001, 5_000),
        ("volume", 999, 10_000),
    ],
)
def test_one_unit_at_the_edge_of_a_step(charge: str, units_before: int, credits_micro: int) -> None:
    row = {"charge": charge, "steps": _steps(("1000", "0.01"), (None, "0.005"))}
    prices = history(actions={"work": row})
    assert _micro(usage(action="work"), prices, units_before) == credits_micro


def test_a_counted_event_says_what_it_counts() -> None:
    row = {"charge": "graduated", "steps": _steps((None, "0.01")), "unit": "pages"}
    last_moment = datetime(2026, 10, 31, 23, 59, 59, 999999, tzinfo=UTC)
    event = usage(action="ocr", quantity=7, time=last_moment)
    counting = _counting(event, history(actions={"ocr": row}))
    assert (counting.counter, counting.month, counting.units) == (
        "action:ocr",
        date(2026, 10, 1),
        7,
    )
    assert counting.rated(100) == Rated(70_000, 1, "action:ocr", "action:ocr", 7, 100)
    shared = history(actions={"ocr": row | {"counter": "documents"}})
    assert _counting(event, shared).counter == "documents"


def test_models_can_be_counted_in_tokens() -> None:
    # 2 credits per 1,000 tokens up to a million, then 1; x 1.5 for the tier where the row says so
    row = {
        "charge": "graduated",
        "per": "1000",
        "steps": _steps(("1000000", "2"), (None, "1")),
        "aliases": ["big"],
    }
    event = usage("big", input=600, output=400)
    prices = history(models={"acme/big": row})
    counting = _counting(event, prices)
    assert (counting.counter, counting.units) == ("model:acme/big", 1000)
    assert _micro(event, prices) == 2 * CREDIT
    assert _micro(event, prices, 999_500) == 1_500_000
    dearer = history(models={"acme/big": row | {"multipliers": ["tier"]}})
    assert _counting(event, dearer, FREE).rated(0) == Rated(
        3 * CREDIT, 1, "model:acme/big", "model:acme/big", 1000, 0
    )
    own = usage("big", input=1000, own_key=True)
    assert _micro(own, prices) == CREDIT // 10  # the share of the own key, 5 %


def test_a_volume_price_has_no_share_for_an_own_key() -> None:
    row = {"charge": "volume", "per": "1000", "steps": _steps(("10", "2"), (None, "1"))}
    prices = history(models={"acme/big": row})
    assert _micro(usage("acme/big", input=11), prices) == 11_000
    assert "no share for an own key" in _refused(usage("acme/big", input=11, own_key=True), prices)


def test_a_counter_that_would_leave_its_column_is_refused() -> None:
    row = {"charge": "package", "credits": "0.000001", "size": "1000000000000"}
    counting = _counting(usage(action="flood"), history(actions={"flood": row}))
    assert isinstance(counting.rated(COUNTED_UNITS_MAX - 1), Rated)
    answer = counting.rated(COUNTED_UNITS_MAX)
    assert isinstance(answer, Rejected)
    assert answer.reason is Reason.UNPROCESSABLE
    dear = _counting(
        usage(action="flood", quantity=10**12),
        history(actions={"flood": {"charge": "package", "credits": "1000000000", "size": "1"}}),
    )
    assert isinstance(dear.rated(0), Rejected)


@pytest.mark.parametrize("charge", ["per_unit", "graduated"])
def test_a_price_for_one_unit_says_nothing_about_another(charge: str) -> None:
    row = {"credits": "1"} if charge == "per_unit" else {"steps": _steps((None, "1"))}
    prices = history(actions={"talk": row | {"charge": charge, "unit": "seconds"}})
    assert _micro(usage(action="talk", quantity=2, unit="seconds"), prices) == 2 * CREDIT
    assert _micro(usage(action="talk", quantity=2), prices) == 2 * CREDIT
    detail = _refused(usage(action="talk", quantity=2, unit="bytes"), prices)
    assert detail.endswith("the price is for seconds, and the event counts bytes")
    anything = history(actions={"talk": row | {"charge": charge}})
    assert _micro(usage(action="talk", quantity=2, unit="bytes"), anything) == 2 * CREDIT


def test_a_request_fee_is_for_requests_and_not_for_seconds() -> None:
    row = {"prices": [{"usd_per_mtok": {"input": "1"}, "usd_per_request": "0.01"}]}
    prices = history(models={"acme/search": row})
    assert _micro(usage("acme/search", input=1, quantity=2, unit="requests"), prices) == 20_001
    event = usage("acme/search", input=1, quantity=30, unit="seconds")
    assert "the price is for requests" in _refused(event, prices)


BILLED = {"billed": {"providers": ["openrouter"], "markup": "1.1"}}
ROUTED = {"provider": "openrouter", "model": "anthropic/claude-sonnet-4.5", "input": 1000}


@pytest.mark.parametrize(
    ("section", "fields", "credits_micro", "rule"),
    [
        # 0.0042 dollars x 1 credit x 1.1
        (BILLED, ROUTED, 4_620, "billed:openrouter"),
        # the provider in front of the model, with no provider beside it
        (
            BILLED,
            {"model": "openrouter/x-ai/grok-4", "provider": "litellm", "input": 9},
            4_620,
            "billed:openrouter",
        ),
        ({"billed": {"providers": ["*"]}}, ROUTED, 4_200, "billed:openrouter"),
        ({"billed": {"providers": ["*"]}}, {"action": "scan"}, 4_200, "billed:*"),
        # x 2.0 for precision x 1.0 for pro, and 5 % of it on the own key
        (
            {"billed": {"providers": ["*"], "multipliers": ["power_level", "tier"]}},
            ROUTED | {"power_level": PowerLevel.PRECISION, "own_key": True},
            420,
            "billed:openrouter",
        ),
        # without the section, and for another provider: claude-sonnet-4.5 at 3 dollars a million
        ({}, ROUTED, 3_000, "model:openrouter/anthropic/claude-sonnet-4.5"),
        (BILLED, {"model": "gpt-4o", "input": 1000}, 2_500, "model:openai/gpt-4o"),
    ],
)
def test_what_the_provider_billed_is_charged_where_the_book_says_so(
    section: dict[str, Any], fields: dict[str, Any], credits_micro: int, rule: str
) -> None:
    event = usage(billed=BilledCost("0.0042"), **fields)
    assert rate(event, history(**section), PRO) == Rated(credits_micro, 1, rule)


def test_a_bill_of_zero_is_no_price() -> None:
    # LiteLLM writes 0.0 for models that it does not know.
    for amount in ("0", "0.0", "000000.000000000000"):
        event = usage(billed=BilledCost(amount), **ROUTED)
        assert _micro(event, history(**BILLED)) == 3_000
    smallest = usage(billed=BilledCost("0.000001"), **ROUTED)
    assert _micro(smallest, history(billed={"providers": ["*"]})) == 1


def test_a_bill_in_another_currency_needs_its_rate() -> None:
    event = usage(billed=BilledCost("1.5", "CNY"), **ROUTED)
    section = {"providers": ["openrouter"]}
    only_dollars = history(billed=section, credits_per_usd="1")
    assert "there is no rate for CNY" in _refused(event, only_dollars)
    # M3, seed 000: 1 CNY = 100 credits
    rates = {"USD": [{"credits": "710"}], "CNY": [{"credits": "100"}]}
    prices = history(billed=section, credits_per_usd=None, currencies=rates)
    assert _micro(event, prices) == 150 * CREDIT


@pytest.mark.parametrize(
    ("when", "credits_micro"),
    [
        (datetime(2026, 11, 30, 23, 59, 59, tzinfo=UTC), 2_500),
        (datetime(2026, 12, 1, tzinfo=UTC), 2_750),
        (datetime(2027, 1, 1, tzinfo=UTC), 3_000),
    ],
)
def test_the_rate_of_the_events_day_holds(when: datetime, credits_micro: int) -> None:
    rates = [
        {"credits": "1"},
        {"from": "2026-12-01", "credits": "1.1"},
        {"from": "2027-01-01", "credits": "1.2"},
    ]
    prices = history(credits_per_usd=None, currencies={"USD": rates})
    assert _micro(usage("gpt-4o", input=1000, time=when), prices) == credits_micro
    billed = history(
        credits_per_usd=None, currencies={"USD": rates}, billed={"providers": ["openai"]}
    )
    event = usage("openai/gpt-4o", input=1000, time=when, billed=BilledCost("0.0025"))
    assert _micro(event, billed) == credits_micro


def test_a_currency_keeps_twelve_decimals() -> None:
    rates = {"USD": [{"credits": "1"}], "IDR": [{"credits": "0.000061234567"}]}
    prices = history(credits_per_usd=None, currencies=rates, billed={"providers": ["*"]})
    event = usage("x/y", input=1, billed=BilledCost("1000", "IDR"))
    assert _micro(event, prices) == 61_235


TIERED = {
    "usd_per_mtok": {"input": "10", "cache_read": "1", "output": "20"},
    "usd_per_request": "0.001",
    "above_input_tokens": [
        {"tokens": 100, "usd_per_mtok": {"input": "20"}},
        {"tokens": 200, "usd_per_mtok": {"input": "30", "output": "60"}},
    ],
    "service_tiers": {
        "batch": {
            "usd_per_mtok": {"output": "10"},
            "above_input_tokens": [{"tokens": 150, "usd_per_mtok": {"cache_read": "5"}}],
        },
        "flex": {"usd_per_mtok": {"input": "5"}, "usd_per_request": "0"},
        "priority": {"above_input_tokens": [{"tokens": 100, "usd_per_mtok": {"output": "99"}}]},
    },
}


@pytest.mark.parametrize(
    ("tier", "input_tokens", "micro"),
    [
        # 10 of them read from the cache at 1 dollar, 10 of output, one request
        ("standard", 100, 90 * 10 + 10 * 1 + 10 * 20 + 1000),
        ("standard", 101, 91 * 20 + 10 * 1 + 10 * 20 + 1000),
        ("standard", 201, 191 * 30 + 10 * 1 + 10 * 60 + 1000),
        # batch names output only: the rest is the standard's, at the same length of the input
        ("batch", 100, 90 * 10 + 10 * 1 + 10 * 10 + 1000),
        ("batch", 101, 91 * 20 + 10 * 1 + 10 * 10 + 1000),
        ("batch", 151, 141 * 20 + 10 * 5 + 10 * 10 + 1000),
        # its 10 dollars for output hold at every length, as in genai-prices
        ("batch", 201, 191 * 30 + 10 * 5 + 10 * 10 + 1000),
        ("flex", 201, 191 * 5 + 10 * 1 + 10 * 60),
        ("priority", 100, 90 * 10 + 10 * 1 + 10 * 20 + 1000),
        ("priority", 201, 191 * 30 + 10 * 1 + 10 * 99 + 1000),
    ],
)
def test_a_service_tier_has_prices_of_its_own(tier: str, input_tokens: int, micro: int) -> None:
    prices = history(models={"acme/m": {"prices": [TIERED]}})
    event = usage(
        "acme/m", input=input_tokens, cache_read=10, output=10, service_tier=ServiceTier(tier)
    )
    assert _micro(event, prices) == micro


@pytest.mark.parametrize(
    ("section", "fields"),
    [
        ({"models": {"acme/m": {"prices": [TIERED]}}}, {"model": "acme/m", "input": 1}),
        (
            {"models": {"acme/m": {"free": True, "prices": [TIERED]}}},
            {"model": "acme/m", "input": 1},
        ),
        ({"flat": {"tokens_per_credit": "200", "models": ["*"]}}, {"model": "x", "input": 1}),
        ({"actions": {"a": {"credits": "1"}}}, {"action": "a"}),
        ({"actions": {"a": {"charge": "graduated", "steps": FONTS}}}, {"action": "a"}),
        ({"actions": {"a": {"charge": "volume", "steps": FONTS}}}, {"action": "a"}),
    ],
)
def test_a_service_tier_without_a_price_is_never_priced_as_standard(
    section: dict[str, Any], fields: dict[str, Any]
) -> None:
    prices = history(**section)
    assert not isinstance(rate(usage(**fields), prices, PRO), Rejected)
    detail = _refused(usage(service_tier=ServiceTier.FAST, **fields), prices)
    assert detail.endswith("in price version 1: there is no price for service tier fast")


def test_the_providers_bill_covers_every_service_tier() -> None:
    event = usage(billed=BilledCost("0.0042"), service_tier=ServiceTier.BATCH, **ROUTED)
    assert _micro(event, history(**BILLED)) == 4_620


@pytest.mark.parametrize(
    ("fields", "model"),
    [
        ({"model": "m", "provider": "acme", "input": 1}, "acme/m"),
        ({"model": "m", "input": 1}, "m"),
        ({"action": "sing"}, "sing"),
    ],
)
def test_a_refusal_names_the_model_or_the_action(fields: dict[str, Any], model: str) -> None:
    answer = rate(usage(time=NOVEMBER, **fields), history(), PRO)
    assert isinstance(answer, Rejected)
    assert answer.model == model
