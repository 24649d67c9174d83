"""An explanation says what the rating says, for every kind of rule, and its parts add up."""

from datetime import UTC, datetime, timedelta
from fractions import Fraction
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from core.explain import Explanation, explain
from core.fixed_point import exact_text
from core.rating import AccountFacts, Counting, rate_with
from schemas.reasons import Rejected
from schemas.usage import BilledCost, PowerLevel, ServiceTier, UsageEvent
from tests.counted_rows import COUNTED, UNITS, defined
from tests.drawn_usage import MODELS, token_counts
from tests.priced_usage import EPOCH, FREE, PRO, book, usage

REAL = book(models={})


def _explained(event: UsageEvent, facts: AccountFacts = PRO, **changes: Any) -> Explanation:
    answer = explain(event, book(**changes), facts)
    assert isinstance(answer, Explanation), answer
    return answer


def _holds(event: UsageEvent, prices: Any, facts: AccountFacts, before: int = 0) -> None:
    """Both say the same; the lines times the multipliers are the exact amount."""
    rating = rate_with(event, prices, facts)
    if isinstance(rating, Counting):
        rating = rating.rated(before)
    answer = explain(event, prices, facts, before)
    if isinstance(rating, Rejected):
        assert answer == rating
        return
    assert isinstance(answer, Explanation)
    assert (answer.rated_micro, answer.price_version, answer.rule) == rating[:3]
    assert (answer.counter, answer.counter_units, answer.counter_before) == rating[3:]
    shown = answer.as_json()
    exact = sum((Fraction(line["amount"]) for line in shown["lines"]), Fraction(0))  # type: ignore[attr-defined]
    for multiplier in shown["multipliers"]:  # type: ignore[attr-defined]
        exact *= Fraction(multiplier["value"])
    assert exact == Fraction(str(shown["exact_credits"]))
    assert answer.rated_micro == exact * 10**6 + Fraction(str(shown["rounding_micro"]))
    assert abs(answer.rounding_micro) <= (1 if answer.counter else Fraction(1, 2))


_FACTS = st.sampled_from((PRO, FREE, AccountFacts("enterprise", demo=True)))
_POWERS = st.sampled_from(list(PowerLevel))
_OWN_KEYS: st.SearchStrategy[dict[str, bool]] = st.sampled_from(({}, {"own_key": True}))
_TIERS = st.sampled_from(list(ServiceTier))


@given(
    st.sampled_from(MODELS),
    token_counts(10**6),
    _FACTS,
    _POWERS,
    st.sampled_from((ServiceTier.STANDARD, ServiceTier.BATCH, ServiceTier.PRIORITY)),
    _OWN_KEYS,
    st.integers(0, 3 * 365),
)
def test_every_model_of_the_catalog(
    model: tuple[str, str],
    counts: dict[str, Any],
    facts: AccountFacts,
    power: PowerLevel,
    tier: ServiceTier,
    own_key: dict[str, bool],
    days: int,
) -> None:
    when = datetime(2024, 1, 1, 12, tzinfo=UTC) + timedelta(days=days)
    fields = {"power_level": power, "service_tier": tier} | own_key | counts
    event = usage(model[1], provider=model[0], time=when, **fields)
    _holds(event, REAL, facts)


_EVERY_PRICE = {
    "usd_per_mtok": {
        "input": "3",
        "cache_read": "0.3",
        "cache_write": "3.75",
        "cache_write_1h": "6",
        "video_input": "1",
        "output": "15",
        "reasoning": "16",
    },
    "usd_per_request": "0.0035",
    "above_input_tokens": [{"tokens": 500_000, "usd_per_mtok": {"input": "6", "output": "22.5"}}],
    "service_tiers": {
        "batch": {"usd_per_mtok": {"input": "1.5", "image_output": "7"}},
        "fast": {"usd_per_mtok": {"output": "99.000001"}, "usd_per_request": "1"},
    },
}


@given(token_counts(10**6), _FACTS, _TIERS, _POWERS, st.integers(0, 5))
def test_prices_by_kind_tier_length_and_request(
    counts: dict[str, Any],
    facts: AccountFacts,
    tier: ServiceTier,
    power: PowerLevel,
    quantity: int,
) -> None:
    row = {"prices": [_EVERY_PRICE]}
    rates = {"USD": [{"credits": "1"}, {"from": "2026-11-01", "credits": "7.12345678"}]}
    models = {"acme/m": row, "acme/gift": row | {"free": True}}
    prices = book(models=models, currencies=rates, credits_per_usd=None)
    fields = {"power_level": power, "quantity": quantity, "own_key": True} | counts
    for model in models:
        _holds(usage(model, service_tier=tier, **fields), prices, facts)


@given(COUNTED, UNITS, st.integers(0, 1_000), _FACTS, _OWN_KEYS)
def test_counted_prices(
    row: dict[str, Any], units: int, before: int, facts: AccountFacts, own_key: dict[str, bool]
) -> None:
    prices = book(actions={"work": row}, models={"acme/m": row})
    _holds(usage(action="work", quantity=units), prices, facts, before)
    _holds(usage("acme/m", input=units, **own_key), prices, facts, before)
    explained = explain(usage(action="work", quantity=units), prices, facts, before)
    assert isinstance(explained, Explanation)
    exact = defined(row, before + units) - defined(row, before)
    assert explained.exact_micro == exact * 10**6


@given(
    st.integers(0, 10**17),
    st.sampled_from(("USD", "CNY", "EUR")),
    _FACTS,
    _OWN_KEYS,
    st.lists(st.sampled_from(("power_level", "tier")), max_size=2),
)
def test_the_providers_bill(
    pico: int, currency: str, facts: AccountFacts, own_key: dict[str, bool], multipliers: list[str]
) -> None:
    prices = book(
        billed={"providers": ["*"], "markup": "1.05", "multipliers": multipliers},
        currencies={"USD": [{"credits": "1"}], "CNY": [{"credits": "14.0625"}]},
        credits_per_usd=None,
    )
    bill = BilledCost(f"{pico // 10**12}.{pico % 10**12:012}", currency)
    _holds(usage("gpt-4o", input=9, billed=bill, **own_key), prices, facts)


@given(st.integers(0, 10**9), st.integers(1, 10**4), _FACTS)
def test_units_and_flat_tokens(count: int, per: int, facts: AccountFacts) -> None:
    row = {"credits": "0.3", "per": str(per), "multipliers": ["tier"]}
    flat = {"tokens_per_credit": f"{per}.5", "models": ["*"], "multipliers": ["power_level"]}
    prices = book(actions={"work": row}, flat=flat)
    _holds(usage(action="work", quantity=count), prices, facts)
    _holds(usage("m", output=count, own_key=True), prices, facts)


def test_the_figure_of_the_first_requirement() -> None:
    # M1: (1000 / 1000) x 0.0025 x 1.0 x 1.5 = 0.00375
    explained = _explained(usage("gpt-4o", input=1000), FREE)
    assert explained.as_json() == {
        "price_version": 1,
        "effective_from": EPOCH.isoformat(),
        "rule": "model:openai/gpt-4o",
        "charge_model": "model_tokens",
        "conditions": explained.as_json()["conditions"],
        "lines": [
            {
                "component": "input",
                "quantity": "1000",
                "unit": "tokens",
                "unit_price": "2.5",
                "per": 1_000_000,
                "currency": "USD",
                "amount": "0.0025",
            }
        ],
        "multipliers": [
            {"name": "credits for 1 USD", "value": "1"},
            {"name": "power level balanced", "value": "1"},
            {"name": "tier free", "value": "1.5"},
        ],
        "exact_credits": "0.00375",
        "rounding_micro": "0",
        "rated_micro": 3750,
        "counter": "",
        "counter_units": 0,
        "counter_before": 0,
    }


def test_every_token_stands_in_one_line() -> None:
    writes = {"cache_write": 600, "cache_write_1h": 200}
    event = usage("claude-sonnet-4-5", input=1000, cache_read=300, output=50, **writes)
    lines = [(line.component, line.quantity, line.unit_price) for line in _explained(event).lines]
    assert lines == [
        ("input", 100, 3),
        ("cache_read", 300, Fraction("0.3")),
        ("cache_write", 400, Fraction("3.75")),
        ("cache_write_1h", 200, 6),
        ("output", 50, 15),
    ]


def test_what_was_chosen_is_named() -> None:
    entry = {"usd_per_mtok": {"input": "1"}, "from": "2026-11-01", "between": ["08:00", "10:00"]}
    long = {"above_input_tokens": [{"tokens": 5, "usd_per_mtok": {"input": "2"}}]}
    tier = {"service_tiers": {"batch": {}}}
    explained = _explained(
        usage("acme/m", input=6, service_tier=ServiceTier.BATCH),
        models={"acme/m": {"prices": [entry | long | tier]}},
    )
    assert explained.conditions == (
        "prices from 2026-11-01 00:00 UTC",
        "prices between 08:00 and 10:00 UTC",
        "service tier batch",
        "more than 5 input tokens",
    )


@pytest.mark.parametrize(
    ("charge", "components"),
    [
        (
            "graduated",
            [
                ("step 1 (1 to 10)", "4", "2"),
                ("step 2 (above 10)", "3", "1"),
                ("entry to step 2", "1", "5"),
            ],
        ),
        (
            "volume",
            [
                ("all units of the month", "13", "1"),
                ("all units of the month: fee", "1", "5"),
                ("less those before, at their step", "-6", "2"),
            ],
        ),
    ],
)
def test_a_step_is_crossed_in_plain_sight(charge: str, components: list[tuple[str, ...]]) -> None:
    row = {
        "charge": charge,
        "steps": [{"up_to": "10", "credits": "2"}, {"credits": "1", "fee": "5"}],
    }
    explained = explain(usage(action="work", quantity=7), book(actions={"work": row}), PRO, 6)
    assert isinstance(explained, Explanation)
    shown = [line.as_json() for line in explained.lines]
    assert [
        (line["component"], line["quantity"], line["unit_price"]) for line in shown
    ] == components
    assert explained.rated_micro == (16 if charge == "graduated" else 6) * 10**6


@given(st.fractions(max_denominator=10**6))
def test_a_figure_is_shown_without_loss(value: Fraction) -> None:
    shown = exact_text(value)
    assert Fraction(shown) == value
    assert "e" not in shown
    assert ("/" in shown) == (10**20 % value.denominator != 0)
