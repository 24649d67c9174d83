"""What one event costs the rater before the database: decode, hash, rate; beside genai-prices.

Run: python bench/rating.py. Best of five rounds on one core; prints microseconds per event.
"""

import random
import sys
import time
from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from typing import TypeVar

from genai_prices import Usage, calc_price

from adapters.model_prices import snapshot
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


def main() -> int:
    """Measures and prints; fails when an event of the mix has no price."""
    chance = random.Random(7)
    events = [_event(chance, number) for number in range(EVENTS)]
    values = [(encode(event), event.subject.encode()) for event in events]
    appended_at_ms = int(NOW.timestamp() * 1000)
    begun = time.perf_counter()
    document = default_document(snapshot())
    book = parse_book(document, version=1, effective_from=datetime(2020, 1, 1, tzinfo=UTC))
    print(f"book of 2,330 models from genai-prices: {(time.perf_counter() - begun) * 1e3:.0f} ms")
    prices = PriceHistory([book])
    if not all(isinstance(rate(event, prices, FACTS), Rated) for event in events):
        print("an event of the mix has no price")
        return 1

    def whole(value: tuple[bytes, bytes]) -> None:
        event = decode(*value, appended_at_ms, WINDOW)
        if isinstance(event, UsageEvent):
            payload_hash(event)
            rate(event, prices, FACTS)

    _measure("decode and validate", values, lambda value: decode(*value, appended_at_ms, WINDOW))
    _measure("hash the payload", events, payload_hash)
    rating = _measure("rate", events, lambda event: rate(event, prices, FACTS))
    _measure("all three", values, whole)
    theirs = _measure("genai-prices, called per event", events[: EVENTS // 10], _genai)
    print(f"rating is {theirs / rating:.0f} times as fast as calling genai-prices per event")
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


def _measure(name: str, items: list[Item], work: Callable[[Item], object]) -> float:
    """Microseconds for one item, best of the rounds: the others were disturbed."""
    best = float("inf")
    for _ in range(ROUNDS):
        begun = time.perf_counter()
        for item in items:
            work(item)
        best = min(best, time.perf_counter() - begun)
    each_us = best / len(items) * 1e6
    print(f"{name:32} {each_us:7.2f} us/event {1e6 / each_us:12,.0f} events/s")
    return each_us


if __name__ == "__main__":
    sys.exit(main())
