"""What a tracking call costs the app that makes it, while events really leave for Kafka."""

import asyncio
import time

from bench.site import Place
from producers.client import UsageClient
from producers.worker import Options
from tollgate.demo_figures import percentile

PACE_CALLS = 10
PACE_SECONDS = 0.01
WARM_UP_CALLS = 1_000


async def caller_cost(place: Place, calls: int) -> dict[str, float]:
    """Median and 99th percentile of `track_ai_usage` in microseconds, at about 1,000 calls/s.

    Every event must be delivered: a client that throws events away would be fast.
    """
    options = Options(topic=place.topic)
    client = UsageClient(place.settings.kafka, "bench", options=options)
    costs_us: list[float] = []
    async with client:
        for n in range(WARM_UP_CALLS + calls):
            began = time.perf_counter_ns()
            client.track_ai_usage(
                f"account-{n % 500}", "openai", "gpt-4o", 1_200, 350, cache_read_tokens=600
            )
            costs_us.append((time.perf_counter_ns() - began) / 1_000)
            if n % PACE_CALLS == 0:
                await asyncio.sleep(PACE_SECONDS)
    timed = costs_us[WARM_UP_CALLS:]
    return {
        "calls": calls,
        "p50_us": round(percentile(timed, 0.5), 1),
        "p99_us": round(percentile(timed, 0.99), 1),
        "delivered": client.stats().delivered,
    }
