"""The shape of generated traffic: published token sizes, real models, and gaps that are not even.

Token sizes are lognormal with the figures that public traces give: the Azure LLM inference trace
of 2023 (chat) and the per-client statistics of ServeGen (large, reasoning, image).
"""

import heapq
import math
import random
from bisect import bisect_right
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from enum import StrEnum
from itertools import accumulate, pairwise
from typing import Final


class Profile(StrEnum):
    """Which requests are generated; `mixed` gives each model the sizes that fit it."""

    MIXED = "mixed"
    CHAT = "chat"
    LARGE = "large"
    REASONING = "reasoning"
    IMAGE = "image"


@dataclass(frozen=True, slots=True)
class Sizes:
    """Natural logarithms of input and output tokens: mean, deviation, correlation; the largest."""

    input_mean: float
    input_sd: float
    output_mean: float
    output_sd: float
    correlation: float
    input_max: int
    output_max: int

    def draw(self, rng: random.Random) -> tuple[int, int]:
        """Input and output tokens of one request, at least 1 each."""
        first, second = rng.gauss(0.0, 1.0), rng.gauss(0.0, 1.0)
        rho = self.correlation
        second = rho * first + math.sqrt(1.0 - rho * rho) * second
        tokens_in = int(math.exp(self.input_mean + self.input_sd * first)) or 1
        tokens_out = int(math.exp(self.output_mean + self.output_sd * second)) or 1
        return min(tokens_in, self.input_max), min(tokens_out, self.output_max)


SIZES: Final = {
    Profile.CHAT: Sizes(6.63, 0.99, 5.02, 0.86, 0.09, 14_050, 1_000),
    Profile.LARGE: Sizes(6.08, 1.11, 3.74, 1.92, -0.04, 24_321, 8_192),
    Profile.REASONING: Sizes(5.24, 1.83, 6.78, 0.97, -0.30, 56_527, 32_768),
    Profile.IMAGE: Sizes(6.83, 0.80, 4.21, 1.37, -0.08, 4_697, 2_000),
}


@dataclass(frozen=True, slots=True)
class LoadModel:
    """A real, priced model; `caches`: a part of its prompts can be cached; `embeds`: no output."""

    provider: str
    name: str
    profile: Profile = Profile.CHAT
    caches: bool = False
    embeds: bool = False


MODELS: Final = (
    LoadModel("openai", "gpt-4o", caches=True),
    LoadModel("openai", "gpt-4o-mini", caches=True),
    LoadModel("anthropic", "claude-sonnet-4-5", Profile.LARGE, caches=True),
    LoadModel("openai", "gpt-4.1-mini", caches=True),
    LoadModel("google", "gemini-2.5-flash", Profile.IMAGE, caches=True),
    LoadModel("deepseek", "deepseek-reasoner", Profile.REASONING, caches=True),
    LoadModel("openai", "text-embedding-3-small", embeds=True),
    LoadModel("anthropic", "claude-haiku-4-5", caches=True),
    LoadModel("openai", "o4-mini", Profile.REASONING, caches=True),
    LoadModel("google", "gemini-2.5-pro", Profile.LARGE, caches=True),
    LoadModel("mistral", "mistral-small-latest"),
    LoadModel("openai", "gpt-5", Profile.REASONING, caches=True),
    LoadModel("groq", "llama-3.3-70b-versatile", Profile.LARGE),
    LoadModel("openai", "gpt-5-mini", Profile.REASONING, caches=True),
    LoadModel("deepseek", "deepseek-chat", caches=True),
    LoadModel("openai", "gpt-4.1", Profile.LARGE, caches=True),
    LoadModel("google", "gemini-2.5-flash-lite"),
    LoadModel("cohere", "command-r-plus", Profile.LARGE),
    LoadModel("openai", "o3", Profile.REASONING, caches=True),
    LoadModel("anthropic", "claude-opus-4-1", Profile.LARGE, caches=True),
)

ACTIONS: Final = ("ai_chat_message", "ai_comment_reply", "ai_content_suggestion")
WORK: Final = ("workflow_execution", "scheduled_task", "bulk_operation", "video_sync")

# Quantiles (probability, value) of published samples.
_REASONING_SHARE: Final = ((0.0, 0.1), (0.1, 0.36), (0.5, 0.76), (0.9, 0.95), (1.0, 1.0))
_IMAGE_TOKENS: Final = ((0.0, 85.0), (0.5, 468.0), (0.9, 1222.0), (1.0, 1280.0))


def _quantile(points: Sequence[tuple[float, float]], probability: float) -> float:
    for (low, start), (high, end) in pairwise(points):
        if probability <= high:
            return start + (end - start) * (probability - low) / (high - low)
    return points[-1][1]


def reasoning_tokens(tokens_out: int, probability: float) -> int:
    """The part of the output that was reasoning, at that point of the published distribution."""
    return int(tokens_out * _quantile(_REASONING_SHARE, probability))


def image_tokens(tokens_in: int, probability: float) -> int:
    """The part of the input that was an image, at that point of the published distribution."""
    return min(tokens_in, int(_quantile(_IMAGE_TOKENS, probability)))


def account_weights(accounts: int, hot_share: float) -> list[float]:
    """Shares of traffic that add up to 1: the first account's is `hot_share`, the rest is Zipf."""
    if accounts == 1:
        return [1.0]
    tail = [1.0 / rank for rank in range(1, accounts)]
    scale = (1.0 - hot_share) / sum(tail)
    return [hot_share, *(weight * scale for weight in tail)]


def zipf_picks(items: int) -> list[float]:
    """Cumulative shares of a Zipf law over that many items, for `pick`."""
    cumulative = list(accumulate(1.0 / rank for rank in range(1, items + 1)))
    return [share / cumulative[-1] for share in cumulative]


def pick(cumulative: Sequence[float], probability: float) -> int:
    """The index of the item at that point of the cumulative shares."""
    return min(bisect_right(cumulative, probability), len(cumulative) - 1)


def arrivals(
    weights: Sequence[float], rng: random.Random, *, steady: bool
) -> Iterator[tuple[float, int]]:
    """For ever: when (in mean gaps of the whole traffic) and from which account the next comes.

    Each account's gaps are Weibull with shape 0.7, so that its requests come in bursts; with
    `steady` they are exponential.
    """
    inverse = 1.0 if steady else 1.0 / 0.7
    mean = math.gamma(1.0 + inverse)
    scales = [1.0 / (weight * mean) for weight in weights]
    due = [(-math.log(1.0 - rng.random()) / weight, n) for n, weight in enumerate(weights)]
    heapq.heapify(due)
    uniform, log, replace = rng.random, math.log, heapq.heapreplace
    while True:
        when, account = due[0]
        yield when, account
        gap = scales[account] * (-log(1.0 - uniform())) ** inverse
        replace(due, (when + gap, account))


SLOT_SECONDS: Final = 10.0


def rate_levels(slots: int, rng: random.Random, *, steady: bool) -> list[float]:
    """How busy each ten seconds are, with mean 1: a slow drift, so that counts are no Poisson."""
    if steady:
        return [1.0] * slots
    deviation, memory = 0.2, 0.9
    level, levels = 0.0, []
    for _ in range(slots):
        level = memory * level + math.sqrt(1 - memory * memory) * deviation * rng.gauss(0.0, 1.0)
        levels.append(math.exp(level))
    mean = sum(levels) / slots
    return [level / mean for level in levels]
