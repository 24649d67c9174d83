"""What one event costs the rater before the database: decode, validate, hash, rate.

Beside genai-prices and LiteLLM, each called per event with the same events. One core.
Run alone: python -m bench.rating.
"""

import json
import random
import sys
import time
from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from typing import Any, TypeVar

from genai_prices import Usage, calc_price

from adapters.failures import Failure
from adapters.model_prices import snapshot
from bench.peers import litellm_cost
from core.default_book import default_document
from core.prices import PriceHistory, parse_book
from core.rating import AccountFacts, Rated, rate
from schemas.events import (
    TimeWindow,
    TokenCounts,
    UsageData,
    UsageEvent,
    decode,
    encode,
    payload_hash,
)

Item = TypeVar("Item")
EVENTS = 20_000
ROUNDS = 5
NOW = datetime(2026, 11, 21, 9, 0, tzinfo=UTC)
WINDOW = TimeWindow()
FACTS = AccountFacts("free", demo=False)
_LITELLM_PROVIDERS = {"google": "gemini"}
MODELS = (
    ("openai", "gpt-4o"),
    ("openai", "gpt-4o-mini"),
    ("openai", "gpt-5.6-sol"),
    ("openai", "o3"),
    ("anthropic", "claude-sonnet-4-5"),
    ("anthropic", "claude-haiku-4-5"),
    ("google", "gemini-2.5-flash"),
    ("mistral", "mistral-large-latest"),
    ("deepseek", "deepseek-chat"),
    ("openrouter", "anthropic/claude-sonnet-4.5"),
)


def rating_cost() -> dict[str, Any]:
    """Microseconds and events per second of each step, beside two libraries on the same events.

    Best of the rounds: the others were disturbed. Raises Failure when an event of the mix has no
    price, or when LiteLLM's environment cannot be made.
    """
    chance = random.Random(7)
    events = [_event(chance, number) for number in range(EVENTS)]
    values = [(encode(event), event.subject.encode()) for event in events]
    appended_at_ms = int(NOW.timestamp() * 1000)
    document = default_document(snapshot())
    begun = time.perf_counter()
    book = parse_book(document, version=1, effective_from=datetime(2020, 1, 1, tzinfo=UTC))
    book_ms = round((time.perf_counter() - begun) * 1e3)
    prices = PriceHistory([book])
    if not all(isinstance(rate(event, prices, FACTS), Rated) for event in events):
        raise Failure("an event of the mix has no price")

    def decode_and_rate(value: tuple[bytes, bytes]) -> None:
        event = decode(*value, appended_at_ms, WINDOW)
        if isinstance(event, UsageEvent):
            rate(event, prices, FACTS)

    def whole(value: tuple[bytes, bytes]) -> None:
        event = decode(*value, appended_at_ms, WINDOW)
        if isinstance(event, UsageEvent):
            payload_hash(event)
            rate(event, prices, FACTS)

    some = events[: EVENTS // 10]
    theirs = litellm_cost([_shape(event) for event in some])
    return {
        "parse_book_ms": book_ms,
        "decode_us": _measure(values, lambda value: decode(*value, appended_at_ms, WINDOW)),
        "rate_us": _measure(events, lambda event: rate(event, prices, FACTS)),
        "decode_and_rate_us": _measure(values, decode_and_rate),
        "decode_hash_and_rate_us": _measure(values, whole),
        "genai_prices_us": _measure(some, _genai),
        "litellm_us": theirs["each_us"],
        "litellm_version": theirs["version"],
        "litellm_priced_at_zero": theirs["zeros"],
        "litellm_events": theirs["events"],
    }


def main() -> int:
    """Prints the document of `rating_cost`."""
    print(json.dumps(rating_cost(), indent=2))
    return 0


def _event(chance: random.Random, number: int) -> UsageEvent:
    provider, model = chance.choice(MODELS)
    tokens = max(1, int(chance.lognormvariate(6.6, 1.0)))
    output = int(chance.lognormvariate(5.0, 0.9))
    cached = chance.choice((0, 0, tokens // 2))
    return UsageEvent(
        specversion="1.0",
        id=f"01JD{number:022}",
        source="app/chat",
        type="tollgate.usage.v1",
        subject=f"account-{number % 500}",
        time=NOW - timedelta(milliseconds=chance.randrange(60_000)),
        data=UsageData(
            action="ai_chat_message",
            provider=provider,
            model=model,
            tokens=TokenCounts(input=tokens, output=output, cache_read=cached),
            resource_id=f"conversation-{number % 977}",
        ),
    )


def _genai(event: UsageEvent) -> None:
    tokens = event.data.tokens
    calc_price(
        Usage(
            input_tokens=tokens.input,
            output_tokens=tokens.output,
            cache_read_tokens=tokens.cache_read,
        ),
        event.data.model,
        provider_id=event.data.provider,
        genai_request_timestamp=event.time,
    )


def _shape(event: UsageEvent) -> dict[str, Any]:
    """What LiteLLM is told of an event: its own name of the provider, the model, the counts."""
    data, tokens = event.data, event.data.tokens
    return {
        "provider": _LITELLM_PROVIDERS.get(data.provider, data.provider),
        "model": data.model,
        "input": tokens.input,
        "output": tokens.output,
        "cache_read": tokens.cache_read,
    }


def _measure(items: list[Item], work: Callable[[Item], object]) -> float:
    best = float("inf")
    for _ in range(ROUNDS):
        begun = time.perf_counter()
        for item in items:
            work(item)
        best = min(best, time.perf_counter() - begun)
    return round(best / len(items) * 1e6, 2)


if __name__ == "__main__":
    sys.exit(main())
