"""Our snapshot of genai-prices against genai-prices itself: every model, tier, date and kind."""

import random
from datetime import UTC, datetime, timedelta
from decimal import ROUND_HALF_EVEN, Decimal, localcontext
from functools import cache
from typing import Any

import pytest
from genai_prices import Usage, calc_price, types
from genai_prices.data import providers
from hypothesis import given
from hypothesis import strategies as st

from adapters import model_prices
from core.prices import PriceHistory
from core.rating import Rated, rate
from schemas.reasons import Reason, Rejected
from schemas.usage import ServiceTier
from tests.priced_usage import NOVEMBER, PRO, book, usage

REAL = PriceHistory([book(models={})])
MODELS = [(provider, model) for provider in providers for model in provider.models]
TIERED = [(provider, model) for provider, model in MODELS if model.price_variants]
_MICRO = Decimal(1_000_000)
# The same service tier in the words of genai-prices; OpenAI says fast where Anthropic says speed.
_CONTEXT = {
    ServiceTier.STANDARD: None,
    ServiceTier.BATCH: {"processing": "batch"},
    ServiceTier.FLEX: {"service_tier": "flex"},
    ServiceTier.PRIORITY: {"service_tier": "priority"},
    ServiceTier.FAST: {"service_tier": "fast", "speed": "fast"},
}
_THEIR_KIND = {
    "input": "input_tokens",
    "output": "output_tokens",
    "cache_read": "cache_read_tokens",
    "cache_write": "cache_write_tokens",
    "cache_write_1h": "cache_write_1h_tokens",
    "reasoning": "output_reasoning_tokens",
    "audio_input": "input_audio_tokens",
    "audio_output": "output_audio_tokens",
    "image_input": "input_image_tokens",
    "image_output": "output_image_tokens",
    "video_input": "input_video_tokens",
}
_INPUTS = ("cache_read", "cache_write", "audio_input", "image_input", "video_input")
_OUTPUTS = ("reasoning", "audio_output", "image_output")


@st.composite
def token_counts(draw: st.DrawFn) -> dict[str, int]:
    """Counts that an event may carry, the edges of the known context steps among them."""
    edges = st.sampled_from((127_999, 128_001, 200_000, 200_001, 272_000, 272_001))
    counts = {"output": draw(st.integers(0, 10**6)), "input": draw(st.integers(0, 10**6) | edges)}
    for kinds, total in ((_INPUTS, "input"), (_OUTPUTS, "output")):
        left = counts[total]
        for kind in kinds:
            counts[kind] = draw(st.just(0) | st.integers(0, left))
            left -= counts[kind]
    counts["cache_write_1h"] = draw(st.integers(0, counts["cache_write"]))
    return counts


def _theirs(
    provider: str, model: str, counts: dict[str, int], when: datetime, tier: ServiceTier
) -> int | None:
    """What genai-prices says in whole micro-dollars, None when it refuses."""
    used = Usage(**{_THEIR_KIND[kind]: count for kind, count in counts.items()})
    with localcontext(prec=60):
        try:
            price = calc_price(
                used,
                model,
                provider_id=provider,
                genai_request_timestamp=when,
                price_context=_CONTEXT[tier],
            )
        except (LookupError, ValueError):
            return None
        return int((price.total_price * _MICRO).to_integral_value(ROUND_HALF_EVEN))


@cache
def _resolved(provider: str, model: str) -> tuple[bool, types.ModelInfo]:
    """The model that genai-prices takes a name for, and whether the provider itself lists it."""
    found = calc_price(Usage(), model, provider_id=provider)
    own = next(each for each in providers if each.id == provider)
    return any(found.model is each for each in own.models), found.model


def _has_tier(provider: str, model: str, tier: ServiceTier, when: datetime) -> bool:
    """Whether genai-prices has a price of that tier then, rather than the standard one instead."""
    listed, found = _resolved(provider, model)
    context = _CONTEXT[tier] or {}
    return listed and any(
        variant.when.items() <= context.items()
        and (variant.constraint is None or variant.constraint.active(when))
        for variant in found.price_variants or ()
    )


def _disagreement(
    provider: str, model: str, counts: dict[str, int], when: datetime, tier: ServiceTier
) -> str | None:
    theirs = _theirs(provider, model, counts, when, tier)
    event = usage(model, provider=provider, time=when, service_tier=tier, **counts)
    ours = rate(event, REAL, PRO)
    if isinstance(ours, Rated):
        tierless = tier is not ServiceTier.STANDARD and not _has_tier(provider, model, tier, when)
        if tierless:
            return f"{tier} has no price and was charged"
        return None if ours.rated_micro == theirs else f"{ours.rated_micro} is not {theirs}"
    assert isinstance(ours, Rejected)
    assert ours.reason is Reason.UNPRICED
    if "no price for service tier" in ours.detail:
        return f"{tier} was refused" if _has_tier(provider, model, tier, when) else None
    # We refuse what they cannot price, and what they would give away: a total or a kind at nothing.
    given_away = theirs is None or theirs == 0 or "no price" in ours.detail
    return None if given_away else f"{ours.detail}, and they say {theirs}"


_TIMES = st.datetimes(
    datetime(2024, 1, 1),  # noqa: DTZ001 - hypothesis takes naive bounds and adds the zone
    datetime(2027, 6, 1),  # noqa: DTZ001
    timezones=st.just(UTC),
)


@given(st.sampled_from(MODELS), token_counts(), _TIMES, st.sampled_from(ServiceTier))
def test_any_usage_of_any_model_costs_what_genai_prices_says(
    listed: Any, counts: dict[str, int], when: datetime, tier: ServiceTier
) -> None:
    provider, model = listed
    assert _disagreement(provider.id, model.id, counts, when, tier) is None


@given(st.sampled_from(TIERED), token_counts(), _TIMES, st.sampled_from(ServiceTier))
def test_models_with_service_tiers_cost_what_genai_prices_says(
    listed: Any, counts: dict[str, int], when: datetime, tier: ServiceTier
) -> None:
    provider, model = listed
    assert _disagreement(provider.id, model.id, counts, when, tier) is None


def test_every_model_in_every_tier_on_both_sides_of_every_day_that_a_price_begins() -> None:
    chance = random.Random(20_261_121)
    charged = dict.fromkeys(ServiceTier, 0)
    for provider, model in MODELS:
        constraints = [entry.constraint for entry in _entries(model)]
        constraints += [variant.constraint for variant in model.price_variants or ()]
        days = {each.start_date for each in constraints if hasattr(each, "start_date")}
        midnights = [datetime(day.year, day.month, day.day, tzinfo=UTC) for day in days]
        moments = [NOVEMBER, *midnights, *(each - timedelta(microseconds=1) for each in midnights)]
        for tier in ServiceTier if model.price_variants else (ServiceTier.STANDARD,):
            for when in moments:
                tokens = chance.choice((1000, 200_000, 200_001, 272_001))
                counts = {"input": tokens, "cache_read": chance.randint(0, tokens), "output": 1000}
                wrong = _disagreement(provider.id, model.id, counts, when, tier)
                assert wrong is None, (provider.id, model.id, tier, when, counts)
                charged[tier] += _theirs(provider.id, model.id, counts, when, tier) is not None
    assert charged[ServiceTier.STANDARD] > 2200
    assert all(times > 100 for times in charged.values())


def _entries(model: types.ModelInfo) -> list[types.ConditionalPrice]:
    return [] if isinstance(model.prices, types.ModelPrice) else model.prices


def test_a_tier_of_another_seller_is_nobodys_price() -> None:
    """Azure has no row for it and sells OpenAI's models: its batch price is not OpenAI's."""
    chosen = ("o3", "gpt-5.4", "gpt-5.5", "claude-opus-4-6", "claude-fable-5")
    sold = [name for name in chosen if not _resolved("azure", name)[0]]
    assert sold
    for name in sold:
        event = usage(name, provider="azure", input=1000, service_tier=ServiceTier.BATCH)
        answer = rate(event, REAL, PRO)
        assert isinstance(answer, Rejected), name
        assert "service tier batch" in answer.detail
        assert isinstance(rate(usage(name, provider="azure", input=1000), REAL, PRO), Rated)


def test_what_an_event_cannot_be_charged_by_is_listed_and_not_taken_as_zero() -> None:
    gaps = model_prices.gaps()
    assert "openai/whisper-1" in gaps.units["audio_hours"]
    assert gaps.contexts == {
        "route: mistral/eu": ["openrouter/mistralai/mistral-large-4-0"],
        "search_type: fast": ["perplexity/perplexity/sonar"],
        "search_type: web": ["perplexity/perplexity/sonar"],
    }
    assert {"openai/whisper-1", "mistral/mistral-ocr-latest"} <= set(gaps.unpriced)
    for name in gaps.unpriced:
        provider, _, model = name.partition("/")
        for counts in ({}, {"input": 5}, {"output": 5}, {"quantity": 60, "unit": "seconds"}):
            answer = rate(usage(model, provider=provider, **counts), REAL, PRO)
            assert isinstance(answer, Rejected), (name, counts)
            assert answer.reason is Reason.UNPRICED


def test_seconds_of_a_model_that_is_priced_by_tokens_are_not_free() -> None:
    nothing = rate(usage("gpt-4o"), REAL, PRO)
    assert isinstance(nothing, Rated)
    assert nothing.rated_micro == 0
    answer = rate(usage("gpt-4o", quantity=60, unit="seconds"), REAL, PRO)
    assert isinstance(answer, Rejected)
    assert "the price is for tokens, and the event counts seconds" in answer.detail


def _variant(when: dict[str, str], **prices: str) -> types.PriceVariant:
    figures = {key: Decimal(price) for key, price in prices.items()}
    return types.PriceVariant(when=when, prices=types.ModelPrice(**figures))


@pytest.mark.parametrize(
    ("variant", "left_out"),
    [
        (_variant({"processing": "batch"}, input_mtok="1"), None),
        (_variant({"processing": "later"}, input_mtok="1"), "processing: later"),
        (_variant({"processing": "batch", "eu": "yes"}, input_mtok="1"), "processing: batch, eu:"),
        (_variant({"service_tier": "default"}, input_mtok="2"), None),
        (_variant({"service_tier": "default"}, input_mtok="1"), "service_tier: default"),
        (_variant({"processing": "batch"}, cache_audio_read_mtok="1"), "processing: batch"),
    ],
)
def test_a_context_that_is_no_service_tier_is_left_out_by_name(
    monkeypatch: pytest.MonkeyPatch, variant: types.PriceVariant, left_out: str | None
) -> None:
    standard = types.ModelPrice(input_mtok=Decimal(2), output_mtok=Decimal(3))
    match = types.ClauseEquals("m")
    model = types.ModelInfo(id="m", match=match, prices=standard, price_variants=[variant])
    provider = types.Provider(id="acme", name="Acme", api_pattern="x", models=[model])
    monkeypatch.setattr(model_prices, "providers", [provider])
    contexts = model_prices.gaps().contexts
    catalog: Any = model_prices.snapshot()
    (row,) = catalog["providers"][0]["models"]
    tiers = [name for entry in row["prices"] for name in entry.get("service_tiers", {})]
    if left_out is None:
        assert contexts == {}
        assert tiers == (["batch"] if "processing" in variant.when else [])
    else:
        assert [name.startswith(left_out) for name in contexts] == [True]
        assert tiers == []
