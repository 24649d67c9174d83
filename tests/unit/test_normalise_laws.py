"""What holds for any usage: an answer and never an exception, nothing invented, the same again."""

import copy
import json
from datetime import UTC, datetime
from decimal import Decimal
from enum import Enum
from types import SimpleNamespace
from typing import Any

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st
from pydantic import BaseModel, ConfigDict
from pydantic.alias_generators import to_camel

from producers.normalise.hosts import model_in_path, model_name, provider_name
from producers.normalise.outcome import Normalised, Refusal, Refused
from producers.normalise.response import normalise
from producers.provider_tracking import details_of
from producers.tracking import build_event
from schemas.events import TOKENS_MAX, BilledCost, ServiceTier, TokenCounts
from tests.unit.test_normalise_providers import CASES

NOW = datetime(2026, 11, 21, 9, 0, tzinfo=UTC)


def one_line(response: Any, **call: str) -> Any:
    found = normalise(response, **call)
    assert isinstance(found, Normalised), found
    [line] = found.lines
    return line


def refusal(response: Any, **call: str) -> Refusal:
    found = normalise(response, **call)
    assert isinstance(found, Refused), found
    return found.reason


def chat(**usage: Any) -> dict[str, Any]:
    counts = {"prompt_tokens": 10, "completion_tokens": 5, "total_tokens": 15}
    return {"model": "gpt-4o", "usage": {**counts, **usage}}


def well_formed(found: Normalised | Refused) -> None:
    """A refusal quotes nothing; every line can be published."""
    if isinstance(found, Refused):
        assert found.detail.isascii()
        assert found.detail.isprintable()
        assert 0 < len(found.detail) <= 300
        assert not found.detail.startswith("it cannot be read"), found
        return
    suffixes = [line.suffix for line in found.lines]
    assert suffixes[:1] == [""]
    assert len(set(suffixes)) == len(suffixes)
    for line in found.lines:
        action, details = details_of(line, {"occurred_at": NOW}, "e-1")
        event = build_event("app/chat", "acct-1", f"e-1{line.suffix}", action, details)
        assert event.data.tokens == line.tokens


def names_in(node: Any) -> set[str]:
    if isinstance(node, dict):
        return set(node).union(*map(names_in, node.values()))
    return set().union(*map(names_in, node)) if isinstance(node, list) else set()


NAMES = sorted(set().union(*(names_in(case["response"]) for case in CASES)))
PROVIDERS = sorted({case["call"].get("provider", "openai") for case in CASES})
numbers = st.integers(0, 40) | st.integers() | st.floats() | st.just(10**400)
leaves = st.none() | st.booleans() | numbers | st.text(max_size=8) | st.sampled_from(["1h", "TEXT"])
json_values = st.recursive(
    leaves,
    lambda inner: (
        st.lists(inner, max_size=3)
        | st.dictionaries(st.sampled_from(NAMES) | st.text(max_size=6), inner, max_size=5)
    ),
    max_leaves=14,
)


@given(json_values, st.sampled_from(["", *PROVIDERS, "my.vllm", "BAD NAME"]))
@settings(max_examples=1500, deadline=None)
@example({"usage_metadata": {"prompt_token_count": "5"}}, "google")
@example({"inputTokens": 1, "outputTokens": 1, "cacheDetails": [{"ttl": []}]}, "aws")
@example({"input_tokens": 1, "output_tokens": 1, "iterations": [{"type": []}]}, "anthropic")
def test_any_json_gets_an_answer(value: Any, provider: str) -> None:
    well_formed(normalise(value, provider=provider, request_model="m"))


def places(node: Any, path: tuple[Any, ...] = ()) -> list[tuple[Any, ...]]:
    inner = node.items() if isinstance(node, dict) else enumerate(node)
    found: list[tuple[Any, ...]] = []
    for name, value in inner:
        found.append((*path, name))
        if isinstance(value, dict | list):
            found += places(value, (*path, name))
    return found


@given(
    st.data(), st.sampled_from([case for case in CASES if not isinstance(case["response"], str)])
)
@settings(max_examples=800, deadline=None)
def test_a_documented_answer_with_anything_planted_gets_an_answer(
    data: st.DataObject, case: dict[str, Any]
) -> None:
    spoilt = copy.deepcopy(case["response"])
    for place in data.draw(st.lists(st.sampled_from(places(spoilt) or [()]), max_size=3)):
        node = spoilt
        for name in place[:-1]:
            node = node[name] if isinstance(node, dict | list) and name in _keys(node) else {}
        if place and isinstance(node, dict | list) and place[-1] in _keys(node):
            node[place[-1]] = data.draw(json_values)
    found = normalise(spoilt, **case["call"])
    well_formed(found)
    assert normalise(spoilt, **case["call"]) == found


def _keys(node: Any) -> Any:
    return node.keys() if isinstance(node, dict) else range(len(node))


@given(
    fresh=st.integers(0, 10**6),
    read=st.integers(0, 10**6),
    short=st.integers(0, 10**6),
    long=st.integers(0, 10**6),
    output=st.integers(0, 10**6),
)
def test_anthropic_and_bedrock_say_the_same_in_their_own_words(
    fresh: int, read: int, short: int, long: int, output: int
) -> None:
    anthropic = {
        "input_tokens": fresh,
        "cache_read_input_tokens": read,
        "cache_creation_input_tokens": short + long,
        "cache_creation": {"ephemeral_5m_input_tokens": short, "ephemeral_1h_input_tokens": long},
        "output_tokens": output,
    }
    converse = {
        "inputTokens": fresh,
        "cacheReadInputTokens": read,
        "cacheWriteInputTokens": short + long,
        "cacheDetails": [{"ttl": "1h", "inputTokens": long}, {"ttl": "5m", "inputTokens": short}],
        "outputTokens": output,
        "totalTokens": fresh + read + short + long + output,
    }
    lines = [
        one_line({"usage": usage}, provider="aws", request_model="m")
        for usage in (anthropic, converse)
    ]
    assert lines[0] == lines[1]
    assert lines[0].tokens == TokenCounts(
        input=fresh + read + short + long,
        output=output,
        cache_read=read,
        cache_write=short + long,
        cache_write_1h=long,
    )


class TestCounts:
    @pytest.mark.parametrize("number", [10.0, Decimal(10), Decimal("10.0")])
    def test_a_whole_number_in_another_type_is_a_count(self, number: Any) -> None:
        assert one_line(chat(prompt_tokens=number), provider="openai").tokens.input == 10

    @pytest.mark.parametrize(
        "number",
        [10.5, -1, True, "10", float("nan"), float("inf"), 10**400, TOKENS_MAX + 1, [], {}],
    )
    def test_anything_else_is_none(self, number: Any) -> None:
        assert refusal(chat(prompt_tokens=number), provider="openai") is Refusal.NOT_A_COUNT

    def test_null_is_not_said(self) -> None:
        line = one_line(chat(prompt_tokens_details={"cached_tokens": None}), provider="openai")
        assert line.tokens == TokenCounts(input=10, output=5)
        assert refusal(chat(prompt_tokens=None), provider="openai") is Refusal.INCOMPLETE

    def test_a_sum_can_be_too_large_as_well(self) -> None:
        usage = {"input_tokens": TOKENS_MAX, "output_tokens": 1, "cache_read_input_tokens": 1}
        found = refusal({"model": "m", "usage": usage}, provider="anthropic")
        assert found is Refusal.NOT_A_COUNT

    def test_timings_and_zeros_of_unknown_names_change_nothing(self) -> None:
        usage = chat(queue_time=0.5, prompt_time=1e-3, dream_tokens=0, note="tokens")
        assert one_line(usage, provider="groq").tokens == TokenCounts(input=10, output=5)

    @pytest.mark.parametrize("name", ["dream_tokens", "tool_calls", "readUnits", "audio_seconds"])
    def test_but_what_was_counted_under_one_is_refused_by_name(self, name: str) -> None:
        found = normalise(chat(**{name: 3}), provider="openai")
        assert found == Refused(Refusal.UNKNOWN_UNITS, f"{name} is not known")

    def test_a_refusal_quotes_only_words(self) -> None:
        found = normalise(chat(**{"é 4111 tokens": 3}), provider="openai")
        assert found == Refused(Refusal.UNKNOWN_UNITS, "? is not known")


class TestTools:
    @pytest.mark.parametrize("name", ["", "\x1f", "Web Search", "x" * 99, "é"])
    def test_any_name_of_a_tool_becomes_an_action(self, name: str) -> None:
        usage = {"input_tokens": 1, "output_tokens": 1, "server_tool_use": {name: 2}}
        found = normalise({"model": "m", "usage": usage}, provider="anthropic")
        well_formed(found)
        assert isinstance(found, Normalised)
        assert found.lines[1].quantity == 2
        well_formed(normalise(chat(cost=1, server_tool_use={name: 2}), provider="openrouter"))

    @pytest.mark.parametrize("name", ["", "\x1f", "x" * 99])
    def test_a_refusal_shows_none_that_is_no_word(self, name: str) -> None:
        usage = {"input_tokens": 1, "output_tokens": 1, "server_tool_use": {name: -2}}
        found = normalise({"model": "m", "usage": usage}, provider="anthropic")
        detail = "server_tool_use.? is not within 0 and 1000000000"
        assert found == Refused(Refusal.NOT_A_COUNT, detail)


class TestWhoAndWhich:
    @pytest.mark.parametrize(
        ("host", "provider"),
        [
            ("api.openai.com", "openai"),
            ("wss://API.OpenAI.com/v1/", "openai"),
            ("acme.openai.azure.com", "azure"),
            ("bedrock-runtime.eu-central-1.amazonaws.com", "aws"),
            ("europe-west1-aiplatform.googleapis.com", "google"),
            ("api.writer.com:443", "writer"),
            ("api.openai.com.example.com", ""),
            ("evil-api.openai.com", ""),
            ("localhost:8000", ""),
            ("", ""),
        ],
    )
    def test_a_host_says_who_answers(self, host: str, provider: str) -> None:
        assert provider_name("", host) == provider

    def test_a_name_that_is_given_overrules_the_host(self) -> None:
        assert provider_name("Bedrock", "api.openai.com") == "aws"
        assert provider_name("vllm", "localhost:8000") == "vllm"
        assert provider_name("our own", "api.openai.com") == ""

    @pytest.mark.parametrize(
        ("path", "model"),
        [
            ("/model/amazon.nova-lite-v1%3A0/converse", "amazon.nova-lite-v1:0"),
            ("/model/amazon.nova-lite-v1:0/converse-stream", "amazon.nova-lite-v1:0"),
            ("/v1beta/models/gemini-2.5-flash:streamGenerateContent?alt=sse", "gemini-2.5-flash"),
            ("/openai/deployments/our-gpt/chat/completions?api-version=1", "our-gpt"),
            ("/v1/chat/completions", ""),
        ],
    )
    def test_a_path_may_name_the_model(self, path: str, model: str) -> None:
        assert model_in_path(path) == model

    def test_a_model_that_cannot_be_named_is_none(self) -> None:
        assert model_name("openai", "gpt 4o\n", "") == ""
        assert model_name("openai", 7, "x" * 201) == ""
        assert model_name("google", "models/gemini-2.5-pro", "") == "gemini-2.5-pro"


class TestTerms:
    @pytest.mark.parametrize(
        ("said", "tier"),
        [
            (None, ServiceTier.STANDARD),
            ("default", ServiceTier.STANDARD),
            ("on_demand", ServiceTier.STANDARD),
            ("SERVICE_TIER_PRIORITY", ServiceTier.PRIORITY),
            ("Flex", ServiceTier.FLEX),
        ],
    )
    def test_tiers(self, said: Any, tier: ServiceTier) -> None:
        assert one_line(chat() | {"service_tier": said}, provider="openai").service_tier is tier

    @pytest.mark.parametrize("said", ["auto", "scale", "reserved", "turbo", {"a": 1}])
    def test_a_tier_without_a_price_by_the_token_is_refused(self, said: Any) -> None:
        found = refusal(chat() | {"service_tier": said}, provider="openai")
        assert found is Refusal.UNKNOWN_TIER

    def test_the_caller_overrules(self) -> None:
        auto = chat() | {"service_tier": "auto"}
        line = one_line(auto, provider="openai", service_tier="batch")
        assert line.service_tier is ServiceTier.BATCH

    @pytest.mark.parametrize(
        ("cost", "amount"),
        [
            (0, "0"),
            (1, "1"),
            (0.1, "0.1"),
            (1e-7, "0.0000001"),
            (0.000123456789049, "0.000123456789"),
            ("0.25", "0.25"),
            (Decimal("12.50"), "12.5"),
            (999999.5, "999999.5"),
        ],
    )
    def test_a_bill_is_the_decimal_that_was_written(self, cost: Any, amount: str) -> None:
        assert one_line(chat(cost=cost), provider="openrouter").billed == BilledCost(amount)

    @pytest.mark.parametrize(
        "cost", [-0.1, 1e6, float("nan"), float("inf"), True, "1e3", "-1", "", [], Decimal("NaN")]
    )
    def test_no_other_bill(self, cost: Any) -> None:
        assert refusal(chat(cost=cost), provider="openrouter") is Refusal.NOT_A_COUNT

    def test_a_cost_of_another_provider_is_not_a_bill(self) -> None:
        assert one_line(chat(cost=0.5), provider="openai").billed is None


class TestObjects:
    """The objects of the providers' libraries are read as their JSON is."""

    def test_of_pydantic(self) -> None:
        class Usage(BaseModel):
            prompt_tokens: int = 10
            completion_tokens: int = 5
            total_tokens: int = 15

        class Completion(BaseModel):
            id: str = "chatcmpl-1"
            model: str = "gpt-4o"
            usage: Usage = Usage()

        found = normalise(Completion(), provider="openai")
        assert found == normalise(json.loads(Completion().model_dump_json()), provider="openai")
        assert isinstance(found, Normalised)
        usage = normalise(Usage(), provider="openai", request_model="gpt-4o")
        assert isinstance(usage, Normalised)
        assert usage.lines[0].tokens == found.lines[0].tokens

    def test_of_google_in_both_spellings(self) -> None:
        class Kind(Enum):
            AUDIO = "AUDIO"

        class Part(BaseModel):
            model_config = ConfigDict(alias_generator=to_camel, populate_by_name=True)
            modality: Kind = Kind.AUDIO
            token_count: int = 4

        class Usage(BaseModel):
            model_config = ConfigDict(alias_generator=to_camel, populate_by_name=True)
            prompt_token_count: int = 7
            total_token_count: int = 7
            prompt_tokens_details: list[Part] = [Part()]

        answer = SimpleNamespace(usage_metadata=Usage(), model_version="gemini-2.5-pro")
        spelled = {"model_version": "gemini-2.5-pro", "usage_metadata": Usage().model_dump()}
        for response in (answer, spelled):
            line = one_line(response, provider="google")
            assert line.tokens == TokenCounts(input=7, audio_input=4)
            assert line.model == "gemini-2.5-pro"

    def test_an_object_that_raises_says_nothing(self) -> None:
        class Trap:
            def __getattr__(self, name: str) -> Any:
                raise RuntimeError(name)

        assert refusal(Trap(), provider="openai") is Refusal.USAGE_MISSING

    def test_an_object_that_lies_is_unreadable(self) -> None:
        class Liar(dict[str, Any]):
            def get(self, *_: Any) -> Any:
                raise TypeError

        assert refusal(Liar(usage={}), provider="openai") is Refusal.UNREADABLE

    def test_nothing_is_touched_beside_the_usage(self) -> None:
        class Answer:
            model = "gpt-4o"
            usage = chat()["usage"]

            @property
            def choices(self) -> Any:
                raise AssertionError

        assert one_line(Answer(), provider="openai").tokens.input == 10


def test_a_deep_answer_is_answered() -> None:
    deep: Any = {}
    for _ in range(5_000):
        deep = {"usage_metadata": deep, "prompt_token_count": 1}
    assert isinstance(normalise(deep, provider="google"), Normalised | Refused)
