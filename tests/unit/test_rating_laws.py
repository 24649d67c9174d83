"""What holds for every price, and the comparison with genai-prices, the source of model prices."""

import random
import re
from datetime import UTC, datetime, timedelta
from decimal import ROUND_HALF_EVEN, Decimal, localcontext
from fractions import Fraction
from typing import Any

import pytest
from genai_prices import Usage, calc_price
from genai_prices.data import providers
from hypothesis import assume, given
from hypothesis import strategies as st

from core.charge_models import CONTAINED_IN, TokenKind
from core.fixed_point import rounded_half_even, scaled
from core.prices import PriceHistory
from core.rating import Rated, rate
from schemas.reasons import Reason, Rejected
from schemas.usage import PowerLevel
from tests.drawn_usage import MODELS, token_counts
from tests.priced_usage import PRO, book, history, usage

BOOK = book(models={})
REAL = PriceHistory([BOOK])
_MICRO = Decimal(1_000_000)

# The kinds of an event in the words of genai-prices.
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


_PRICE = st.integers(1, 10**7).map(lambda mills: f"{mills // 1000}.{mills % 1000:03}")
_POWERS = st.sampled_from(list(PowerLevel))


@st.composite
def priced_models(draw: st.DrawFn) -> dict[str, str]:
    """A price for input and output, and for any of the kinds inside them."""
    kinds = draw(st.sets(st.sampled_from([*CONTAINED_IN])))
    wanted = [TokenKind.INPUT, TokenKind.OUTPUT, *sorted(kinds)]
    return {kind.value: draw(_PRICE) for kind in wanted}


def _counted_once(per_token: dict[str, str], counts: dict[str, Any]) -> Fraction:
    """The definition, written the long way: every token in one kind, each kind at its price."""
    left = dict(counts)
    total = Fraction(0)
    for kind in (TokenKind.CACHE_WRITE_1H, *CONTAINED_IN, TokenKind.INPUT, TokenKind.OUTPUT):
        mine = left.pop(kind.value, None)
        if mine is None:
            continue
        around = CONTAINED_IN.get(kind)
        priced_as = kind
        while priced_as not in per_token:
            priced_as = CONTAINED_IN[priced_as]
        total += mine * Fraction(per_token[priced_as])
        while around is not None:
            left[around.value] -= mine
            around = CONTAINED_IN.get(around)
    return total


def _rated(per_token: dict[str, str], counts: dict[str, Any], **fields: Any) -> int:
    prices = history(models={"acme/m": {"prices": [{"usd_per_mtok": per_token}]}})
    answer = rate(usage("m", provider="acme", **counts, **fields), prices, PRO)
    assert isinstance(answer, Rated), answer
    return answer.rated_micro


@given(priced_models(), token_counts(10**8), _POWERS)
def test_the_price_is_the_sum_of_its_components_rounded_once(
    per_token: dict[str, str], counts: dict[str, Any], power: PowerLevel
) -> None:
    exact = _counted_once(per_token, counts)
    exact *= {"eco": Fraction(1, 2), "balanced": Fraction(1), "precision": Fraction(2)}[power]
    micro = _rated(per_token, counts, power_level=power)
    assert micro >= 0
    assert abs(micro - exact) <= Fraction(1, 2)
    assert micro == round(exact)


@given(priced_models(), token_counts(10**8), st.sampled_from(("input", "output")))
def test_more_tokens_never_cost_less(
    per_token: dict[str, str], counts: dict[str, Any], kind: str
) -> None:
    more = counts | {kind: counts[kind] + 1}
    assert _rated(per_token, more) >= _rated(per_token, counts)


@given(st.integers(0, 10**40), st.integers(1, 10**30))
def test_rounding_is_to_the_nearest_and_ties_to_even(numerator: int, denominator: int) -> None:
    assert rounded_half_even(numerator, denominator) == round(Fraction(numerator, denominator))


@given(st.integers(0, 10**18 - 1), st.integers(0, 10**18 - 1))
def test_a_decimal_loses_nothing_on_its_way_to_an_integer(whole: int, fraction: int) -> None:
    assert scaled(f"{whole}.{fraction:018}", 18) == whole * 10**18 + fraction


@pytest.mark.parametrize(
    "text", ["", "-1", "1e3", ".5", "1.", "1,5", " 1", "\u0661", "NaN", "0.0000001"]
)
def test_what_is_no_plain_decimal_is_refused(text: str) -> None:
    with pytest.raises(ValueError, match="decimal"):
        scaled(text, 6)


def _theirs(provider: str, model: str, counts: dict[str, Any], when: datetime) -> int | None:
    """What genai-prices says in whole micro-dollars, None when it refuses."""
    used = Usage(**{_THEIR_KIND[kind]: count for kind, count in counts.items()})
    with localcontext(prec=60):
        try:
            price = calc_price(
                used, model, provider_id=provider or None, genai_request_timestamp=when
            )
        except (LookupError, ValueError):
            return None
        return int((price.total_price * _MICRO).to_integral_value(ROUND_HALF_EVEN))


def _agrees(provider: str, model: str, counts: dict[str, Any], when: datetime) -> bool:
    theirs = _theirs(provider, model, counts, when)
    ours = rate(usage(model, provider=provider, time=when, **counts), REAL, PRO)
    if isinstance(ours, Rated):
        return ours.rated_micro == theirs
    assert ours.reason is Reason.UNPRICED, ours
    # We refuse what they cannot price, and what they would give away: a total or a kind at nothing.
    return theirs is None or "no price for" in ours.detail or theirs == 0


_TIMES = st.datetimes(
    datetime(2024, 1, 1),  # noqa: DTZ001 - hypothesis takes naive bounds and adds the zone
    datetime(2027, 1, 1),  # noqa: DTZ001
    timezones=st.just(UTC),
)


@given(st.sampled_from(MODELS), token_counts(10**6), _TIMES)
def test_model_prices_equal_those_of_genai_prices(
    model: tuple[str, str], counts: dict[str, Any], when: datetime
) -> None:
    assert _agrees(*model, counts, when)


def test_every_model_of_genai_prices_is_priced_alike() -> None:
    chance = random.Random(20_261_121)
    priced = 0
    for provider, model in MODELS:
        tokens = chance.choice((1000, 127_999, 200_000, 200_001, 300_000))
        counts = {"input": tokens, "cache_read": chance.randint(0, tokens), "output": 1000}
        when = datetime(2024, 1, 1, tzinfo=UTC) + timedelta(minutes=chance.randrange(1_500_000))
        assert _agrees(provider, model, counts, when), (provider, model, counts, when)
        answer = rate(usage(model, provider=provider, time=when, **counts), REAL, PRO)
        priced += isinstance(answer, Rated) and answer.rated_micro > 0
    assert priced > 1900


def _names(rule: object) -> set[str]:
    """Names that a matching rule of genai-prices means, and some that it nearly means."""
    text = next(iter(vars(rule).values()))
    if isinstance(text, str):
        return {text, f"{text}-20251211", f"{text}-2025-12-11", f"x{text}", f"{text}:free"}
    return {name for part in text for name in _names(part)}


SENDABLE = re.compile(r"[A-Za-z0-9_.:/@+~-]{1,200}")  # what an event may call its model
NAMES = sorted(
    name
    for name in {name for p in providers for m in p.models for name in _names(m.match)}
    if SENDABLE.fullmatch(name)
)


@given(
    st.sampled_from(NAMES), st.sampled_from(["", "litellm", "OpenAI", *(p.id for p in providers)])
)
def test_a_name_means_the_model_that_genai_prices_takes_it_for(name: str, provider: str) -> None:
    assume(provider or "/" not in name)  # a prefix we read as the provider; they do not
    try:
        theirs = calc_price(Usage(), name, provider_id=provider or None).model.id
    except LookupError:
        assume("/" not in name)  # and we take the provider's own prefix off
        theirs = None
    ours = BOOK.model_rule(provider, name)
    assert (ours and ours.name.split("/", 1)[1]) == theirs


def test_no_price_is_given_to_a_name_that_nobody_sells() -> None:
    for provider in ("", "openai", "nobody"):
        answer = rate(usage("zz-nothing", provider=provider, input=1), REAL, PRO)
        assert isinstance(answer, Rejected)
