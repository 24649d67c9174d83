"""Prices worked out by hand. Each row says where its figures come from."""

from datetime import UTC, datetime, timedelta
from typing import Any

import pytest

from core.prices import PriceHistory
from core.rating import RATED_MICRO_MAX, AccountFacts, Rated, rate
from schemas.reasons import Reason, Rejected
from schemas.usage import PowerLevel, UsageEvent
from tests.priced_usage import EPOCH, FREE, NOVEMBER, PRO, book, history, usage

REAL = history()


def _micro(event: UsageEvent, facts: AccountFacts = FREE, prices: PriceHistory = REAL) -> int:
    answer = rate(event, prices, facts)
    assert isinstance(answer, Rated), answer
    return answer.rated_micro


def _refused(event: UsageEvent, facts: AccountFacts = FREE, prices: PriceHistory = REAL) -> str:
    answer = rate(event, prices, facts)
    assert isinstance(answer, Rejected), answer
    assert answer.reason is Reason.UNPRICED
    assert (answer.account_id, answer.event_id) == ("acme", "e-1")
    return answer.detail


@pytest.mark.parametrize(
    ("power", "tier", "micro"),
    [
        # M1: 1000 / 1000 x 0.0025 x 1.0 x 1.5 = 0.00375 credits; gpt-4o is 2.50 dollars a million.
        ("balanced", "free", 3750),
        ("eco", "free", 1875),  # x 0.5
        ("precision", "free", 7500),  # x 2.0
        ("balanced", "starter", 3000),  # 2500 x 1.2
        ("balanced", "pro", 2500),  # x 1.0
        ("balanced", "enterprise", 2250),  # x 0.9
        ("eco", "enterprise", 1125),  # 2500 x 0.5 x 0.9
    ],
)
def test_a_thousand_tokens_of_gpt_4o(power: str, tier: str, micro: int) -> None:
    event = usage("gpt-4o", input=1000, power_level=PowerLevel(power))
    answer = rate(event, REAL, AccountFacts(tier, demo=False))
    assert answer == Rated(micro, 1, "model:openai/gpt-4o")


@pytest.mark.parametrize(
    ("model", "counts", "dollars_micro"),
    [
        # Anthropic's published prices: 3 in, 15 out, 0.30 cache read, 3.75 write, 6 write for 1 h.
        # 1,000 in of which 8,00 read: 200 x 3 + 800 x 0.3 = 840, not 1,000 x 3 + 240.
        ("claude-sonnet-4-5", {"input": 1000, "cache_read": 800}, 840),
        ("claude-sonnet-4-5", {"input": 1000, "cache_write": 1000}, 3750),
        ("claude-sonnet-4-5", {"input": 1000, "cache_write": 1000, "cache_write_1h": 1000}, 6000),
        # 100 x 3 + 300 x 0.3 + 400 x 3.75 + 200 x 6 + 50 x 15 = 300 + 90 + 1500 + 1200 + 750.
        (
            "claude-sonnet-4-5",
            {
                "input": 1000,
                "cache_read": 300,
                "cache_write": 600,
                "cache_write_1h": 200,
                "output": 50,
            },
            3840,
        ),
        # gpt-4o: 2.50, cached 1.25, out 10; reasoning has no price of its own: it is output.
        ("gpt-4o", {"input": 1000, "cache_read": 1000}, 1250),
        ("gpt-4o", {"output": 100, "reasoning": 60}, 1000),
        # Audio of gpt-4o-audio-preview: 40 in, 80 out beside text at 2.50 and 10.
        ("gpt-4o-audio-preview", {"input": 1000, "audio_input": 400}, 600 * 2.5 + 400 * 40),
        ("gpt-4o-audio-preview-2024-12-17", {"output": 10, "audio_output": 10}, 800),
        # An embedding has no output price; it needs none while there is no output.
        ("openai/text-embedding-3-small", {"input": 1_000_000}, 20_000),
    ],
)
def test_tokens_are_priced_by_kind_and_never_twice(
    model: str, counts: dict[str, Any], dollars_micro: int
) -> None:
    assert _micro(usage(model, **counts), PRO) == dollars_micro


def test_one_credit_buys_200_flat_tokens() -> None:
    # M3. The flat price has no multiplier unless the book says so.
    flat = history(flat={"tokens_per_credit": "200", "models": ["acme/llama"]})
    event = usage("llama", provider="acme", input=150, output=50)
    assert rate(event, flat, FREE) == Rated(1_000_000, 1, "flat")
    assert _micro(usage("llama", provider="acme", input=1), FREE, flat) == 5000
    assert _micro(usage("gpt-4o", input=1000), FREE, flat) == 3750


def test_a_flat_price_for_every_model_prices_tokens_without_one_too() -> None:
    flat = history(flat={"tokens_per_credit": "200", "models": ["*"]})
    for model in ("", "gpt-4o", "nobody-knows-it"):
        assert (
            _micro(usage(model, input=200, power_level=PowerLevel.PRECISION), FREE, flat) == 10**6
        )


def test_a_flat_price_can_be_multiplied() -> None:
    row = {"tokens_per_credit": "200", "models": ["*"], "multipliers": ["power_level", "tier"]}
    event = usage("gpt-4o", input=200, power_level=PowerLevel.PRECISION)
    assert _micro(event, FREE, history(flat=row)) == 3_000_000


@pytest.mark.parametrize(
    ("action", "quantity", "micro"),
    [
        ("scheduled_task", 1, 500),  # M4: 0.0005 credits
        ("scheduled_task", 3, 1500),
        ("workflow_execution", 2, 20_000),
        ("scheduled_task", 0, 0),
    ],
)
def test_actions_cost_their_row_for_each_unit(action: str, quantity: int, micro: int) -> None:
    answer = rate(usage(action=action, quantity=quantity), REAL, FREE)
    assert answer == Rated(micro, 1, f"action:{action}")


def test_the_action_table_has_the_actions_of_the_platform() -> None:
    rows = book().actions.keys()
    assert len(rows) == 12
    platform = {"video_sync", "comment_fetch", "video_analysis", "analytics_report"}
    assert rows >= platform | {"workflow_execution", "scheduled_task", "bulk_operation"}


def test_tokens_decide_whether_the_model_or_the_action_is_charged() -> None:
    assert _micro(usage("gpt-4o", action="video_analysis", input=1000), PRO) == 2500
    assert _micro(usage("gpt-4o", action="video_analysis"), PRO) == 50_000
    assert _micro(usage("gpt-4o", action="ai_chat_message"), PRO) == 0


def test_usage_on_an_own_key_costs_the_platform_fee() -> None:
    # 2500 x 5 %
    assert _micro(usage("gpt-4o", input=1000, own_key=True), PRO) == 125
    assert _micro(usage(action="scheduled_task", own_key=True), PRO) == 500


def test_a_demo_account_is_rated_like_any_other() -> None:
    assert _micro(usage("gpt-4o", input=1000), AccountFacts("free", demo=True)) == 3750


@pytest.mark.parametrize(
    ("when", "micro"),
    [
        (datetime(2025, 6, 9, 23, 59, 59, 999999, tzinfo=UTC), 10_000 + 40_000),
        (datetime(2025, 6, 10, tzinfo=UTC), 2_000 + 8_000),
    ],
)
def test_o3_became_cheaper_on_2025_06_10(when: datetime, micro: int) -> None:
    # OpenAI: 10 and 40 dollars a million before, 2 and 8 from that day on.
    assert _micro(usage("o3", input=1000, output=1000, time=when), PRO) == micro


@pytest.mark.parametrize(
    ("when", "micro"),
    [(datetime(2026, 8, 15, tzinfo=UTC), 800_000), (datetime(2026, 11, 20, tzinfo=UTC), 600_000)],
)
def test_gpt_5_6_sol_by_the_time_of_the_event(when: datetime, micro: int) -> None:
    event = usage("gpt-5.6-sol", input=100_000, output=10_000, time=when)
    assert _micro(event, PRO) == micro


def test_hours_of_the_day_can_have_a_price() -> None:
    # genai-prices: deepseek-chat was cheaper from 00:30 to 16:30 UTC.
    row = {
        "acme/night": {
            "prices": [
                {"usd_per_mtok": {"input": "10"}},
                {"usd_per_mtok": {"input": "1"}, "between": ["22:00", "06:00"]},
            ]
        }
    }
    prices = history(models=row)
    for hour, micro in ((21, 10), (22, 1), (23, 1), (0, 1), (5, 1), (6, 10), (12, 10)):
        event = usage("night", provider="acme", input=1, time=NOVEMBER.replace(hour=hour))
        assert _micro(event, PRO, prices) == micro, hour


@pytest.mark.parametrize(("tokens", "micro"), [(200_000, 600_000), (200_001, 1_200_006)])
def test_a_long_context_costs_more_for_the_whole_request(tokens: int, micro: int) -> None:
    # claude-sonnet-4-5 above 200,000 input tokens: 6 instead of 3 dollars, from the first token on.
    assert _micro(usage("claude-sonnet-4-5", input=tokens), PRO) == micro


def test_the_highest_step_that_the_input_exceeds_holds() -> None:
    steps = [
        {"tokens": tokens, "usd_per_mtok": {"input": price}}
        for tokens, price in ((10, "2"), (20, "3"))
    ]
    row = {"prices": [{"usd_per_mtok": {"input": "1"}, "above_input_tokens": steps}]}
    for written in (row, {"prices": [row["prices"][0] | {"above_input_tokens": steps[::-1]}]}):
        prices = history(models={"acme/steps": written})
        for tokens, micro in ((10, 10), (11, 22), (20, 40), (21, 63)):
            event = usage("steps", provider="acme", input=tokens)
            assert _micro(event, PRO, prices) == micro


def test_a_request_fee_is_charged_for_each_request() -> None:
    row = {
        "acme/search": {"prices": [{"usd_per_mtok": {"input": "1"}, "usd_per_request": "0.014"}]}
    }
    prices = history(models=row)
    assert _micro(usage("search", provider="acme", input=10), PRO, prices) == 14_010
    assert _micro(usage("search", provider="acme", input=10, quantity=2), PRO, prices) == 28_010


def test_a_tie_goes_to_the_even_micro_credit() -> None:
    prices = history(models={"acme/half": {"prices": [{"usd_per_mtok": {"input": "0.5"}}]}})
    for tokens, micro in ((1, 0), (2, 1), (3, 2), (5, 2), (7, 4)):
        assert _micro(usage("half", provider="acme", input=tokens), PRO, prices) == micro


def test_credits_can_be_another_currency_than_dollars() -> None:
    # 1 CNY = 100 credits, at 7.1 CNY a dollar.
    prices = history(credits_per_usd="710")
    assert _micro(usage("gpt-4o", input=1000), PRO, prices) == 1_775_000


def test_the_version_in_force_at_the_events_time_prices_it() -> None:
    dearer = book(2, NOVEMBER, actions={"scheduled_task": {"credits": "0.002"}})
    prices = PriceHistory([dearer, book(1)])
    before = usage(action="scheduled_task", time=NOVEMBER - timedelta(microseconds=1))
    assert rate(before, prices, FREE) == Rated(500, 1, "action:scheduled_task")
    after = usage(action="scheduled_task", time=NOVEMBER)
    assert rate(after, prices, FREE) == Rated(2000, 2, "action:scheduled_task")
    early = usage(action="scheduled_task", time=EPOCH - timedelta(microseconds=1))
    assert _refused(early, FREE, prices) == "no price version is in force so early"


@pytest.mark.parametrize(
    ("fields", "detail"),
    [
        ({"model": "nobody-knows-it"}, "price version 1 does not know model nobody-knows-it"),
        (
            {"model": "gpt-4o", "provider": "vllm"},
            "price version 1 does not know model vllm/gpt-4o",
        ),
        ({"model": ""}, "tokens without a model"),
        # github-copilot sells it by the seat: the catalog has no price, which is not a price of 0.
        (
            {"model": "gpt-4o", "provider": "github-copilot"},
            "model:github-copilot/gpt-4o in price version 1: there is no price for input tokens",
        ),
    ],
)
def test_what_has_no_price_is_refused_and_never_free(fields: dict[str, Any], detail: str) -> None:
    assert _refused(usage(input=1000, **fields)) == detail


def test_an_unknown_action_is_refused() -> None:
    assert "has no action video_sing" in _refused(usage(action="video_sing"))


def test_a_kind_of_token_without_a_price_is_refused() -> None:
    # whatever is not inside a priced kind: here 10 of 100 input tokens are not cached
    row = {"acme/odd": {"prices": [{"usd_per_mtok": {"cache_read": "1", "output": "1"}}]}}
    prices = history(models=row)
    event = usage("odd", provider="acme", input=100, cache_read=90)
    assert _refused(event, FREE, prices).endswith("there is no price for input tokens")
    covered = usage("odd", provider="acme", input=100, cache_read=100)
    assert _micro(covered, PRO, prices) == 100
    assert "no price for output tokens" in _refused(
        usage("openai/text-embedding-3-small", output=1)
    )


def test_cached_audio_with_a_price_of_its_own_is_refused_when_it_cannot_be_told_apart() -> None:
    fields: dict[str, Any] = {"model": "gemini-2.5-flash", "input": 100}
    assert "cached audio_input tokens" in _refused(usage(cache_read=10, audio_input=10, **fields))
    assert _micro(usage(audio_input=10, **fields), PRO) == 37  # 90 x 0.3 + 10 x 1.0
    assert _micro(usage(cache_read=10, **fields), PRO) > 0


def test_a_price_of_zero_needs_a_model_listed_as_free() -> None:
    zero = {"prices": [{"usd_per_mtok": {"input": "0", "output": "0"}}]}
    event = usage("gift", provider="acme", input=1000)
    detail = _refused(event, FREE, history(models={"acme/gift": zero}))
    assert "the price is zero and the model is not listed as free" in detail
    assert _micro(event, FREE, history(models={"acme/gift": zero | {"free": True}})) == 0
    assert _micro(usage("deepseek/deepseek-r1:free", provider="openrouter", input=9)) == 0


def test_a_tier_without_a_multiplier_is_refused() -> None:
    detail = _refused(usage("gpt-4o", input=1000), AccountFacts("gold", demo=False))
    assert detail == "price version 1 has no multiplier for tier 'gold'"


def test_an_amount_that_no_balance_could_hold_is_refused() -> None:
    prices = history(actions={"flood": {"credits": "1000"}})
    largest = usage(action="flood", quantity=RATED_MICRO_MAX // 10**9)
    assert _micro(largest, FREE, prices) == RATED_MICRO_MAX
    answer = rate(usage(action="flood", quantity=10**12), prices, FREE)
    assert isinstance(answer, Rejected)
    assert answer.reason is Reason.UNPROCESSABLE


def test_a_detail_fits_its_column_whatever_the_event_names() -> None:
    detail = _refused(usage("x" * 200, provider="y" * 64, input=1))
    assert len(detail) <= 300
