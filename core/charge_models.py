"""The charge models: how one rule of a price book turns counts into an exact amount.

Amounts stay integers until the one rounding in core.rating. The unit of a numerator here is
10**-PRICE_DECIMALS of a micro-credit (of a micro-dollar where the rule is in dollars): dollars per
million tokens times tokens is micro-dollars.
"""

from __future__ import annotations

from dataclasses import dataclass
from datetime import UTC
from enum import IntFlag, StrEnum
from typing import TYPE_CHECKING, NamedTuple

from schemas.reasons import Reason

if TYPE_CHECKING:
    from datetime import datetime, time

    from schemas.usage import TokenCounts, UsageData

PRICE_DECIMALS = 18
MULTIPLIER_DECIMALS = 6
MICRO = 10**6


class ChargeModel(StrEnum):
    """How a rule charges. A rule may name its model: a new one is a new member, not a new shape."""

    MODEL_TOKENS = "model_tokens"
    FLAT_TOKENS = "flat_tokens"
    PER_UNIT = "per_unit"


class Multiplier(IntFlag):
    """What scales a rule's amount, as a set."""

    NONE = 0
    POWER_LEVEL = 1
    TIER = 2
    USD = 4  # the rule is in dollars: credits_per_usd applies


class TokenKind(StrEnum):
    """A kind of token that can have a price of its own; the fields of schemas.usage.TokenCounts."""

    INPUT = "input"
    OUTPUT = "output"
    CACHE_READ = "cache_read"
    CACHE_WRITE = "cache_write"
    CACHE_WRITE_1H = "cache_write_1h"
    REASONING = "reasoning"
    AUDIO_INPUT = "audio_input"
    AUDIO_OUTPUT = "audio_output"
    IMAGE_INPUT = "image_input"


# Each kind is counted inside another one. A kind without a price costs what the kind around it
# costs, as in genai-prices, and a kind with a price is taken out of it: nothing is priced twice.
CONTAINED_IN = {
    TokenKind.CACHE_READ: TokenKind.INPUT,
    TokenKind.CACHE_WRITE: TokenKind.INPUT,
    TokenKind.CACHE_WRITE_1H: TokenKind.CACHE_WRITE,
    TokenKind.AUDIO_INPUT: TokenKind.INPUT,
    TokenKind.IMAGE_INPUT: TokenKind.INPUT,
    TokenKind.REASONING: TokenKind.OUTPUT,
    TokenKind.AUDIO_OUTPUT: TokenKind.OUTPUT,
}


@dataclass(frozen=True, slots=True)
class Refusal:
    """Why a rule cannot price this usage."""

    reason: Reason
    detail: str


class Surcharge(NamedTuple):
    """What one contained kind costs more (or less) than the kind it is counted in."""

    kind: str
    difference: int


@dataclass(frozen=True, slots=True)
class Rates:
    """Prices per token of each kind, in force together."""

    input: int
    output: int
    per_request: int
    surcharges: tuple[Surcharge, ...]
    priced: frozenset[TokenKind]
    gaps: tuple[TokenKind, ...]  # input or output where it has no price
    cached_apart: tuple[TokenKind, ...]

    def numerator(self, tokens: TokenCounts, requests: int) -> int | Refusal:
        """The exact amount, or why the counts cannot be priced."""
        total = tokens.input * self.input + tokens.output * self.output
        for kind, difference in self.surcharges:
            count: int = getattr(tokens, kind)
            total += count * difference
        if self.per_request:
            total += requests * self.per_request
        if self.gaps or self.cached_apart:
            return self._refusal(tokens) or total
        return total

    def _refusal(self, tokens: TokenCounts) -> Refusal | None:
        for kind in self.cached_apart:
            if tokens.cache_read and getattr(tokens, kind):
                return Refusal(
                    Reason.UNPRICED,
                    f"cached {kind} tokens have a price of their own, and the event does not say"
                    " how many of its cached tokens they are",
                )
        for kind in self.gaps:
            priced = sum(getattr(tokens, part) for part in self._outermost(kind))
            if getattr(tokens, kind) > priced:
                return Refusal(Reason.UNPRICED, f"there is no price for {kind} tokens")
        return None

    def _outermost(self, total: TokenKind) -> list[TokenKind]:
        """The priced kinds inside a total that no other priced kind contains."""
        kinds = []
        for kind in self.priced & CONTAINED_IN.keys():
            around = CONTAINED_IN[kind]
            if around not in self.priced and CONTAINED_IN.get(around, around) is total:
                kinds.append(kind)
        return kinds


class Band(NamedTuple):
    """Prices of the whole request once its input exceeds a number of tokens: a cliff."""

    above_input_tokens: int
    rates: Rates


@dataclass(frozen=True, slots=True)
class DatedPrices:
    """Prices of a model from a day on, or within hours of each day; unbounded where None."""

    starts_at: datetime | None
    between: tuple[time, time] | None
    base: Rates
    bands: tuple[Band, ...]  # the highest first

    def in_force(self, when: datetime) -> bool:
        """Whether these prices hold at that moment."""
        if self.starts_at is not None and when < self.starts_at:
            return False
        if self.between is None:
            return True
        start, end = self.between
        clock = when.astimezone(UTC).time()
        if end < start:
            return clock >= start or clock < end
        return start <= clock < end

    def rates_for(self, input_tokens: int) -> Rates:
        """The prices for a request of that many input tokens."""
        for band in self.bands:
            if input_tokens > band.above_input_tokens:
                return band.rates
        return self.base


@dataclass(frozen=True, slots=True)
class TokenRule:
    """Model pricing (M1, M2): tokens by kind at dollars per million tokens.

    `prices` are tried last to first; when none is in force the first one holds.
    """

    name: str
    free: bool
    multipliers: Multiplier
    prices: tuple[DatedPrices, ...]

    def numerator(self, data: UsageData, when: datetime) -> int | Refusal:
        """The exact amount; zero for counted tokens is a gap unless the model is listed as free."""
        prices = self.prices
        chosen = prices[0]
        if len(prices) > 1:
            for candidate in reversed(prices):
                if candidate.in_force(when):
                    chosen = candidate
                    break
        tokens = data.tokens
        rates = chosen.rates_for(tokens.input) if chosen.bands else chosen.base
        if self.free:
            return 0
        total = rates.numerator(tokens, data.quantity)
        if total == 0 and (tokens.input or tokens.output):
            return Refusal(Reason.UNPRICED, "the price is zero and the model is not listed as free")
        return total


@dataclass(frozen=True, slots=True)
class FlatRule:
    """Flat token pricing (M3): one credit buys a number of tokens, whatever the model."""

    name: str
    multipliers: Multiplier
    tokens_per_credit: int  # in 10**-MULTIPLIER_DECIMALS tokens


@dataclass(frozen=True, slots=True)
class UnitRule:
    """Action pricing (M4): credits for each unit of the event's quantity."""

    name: str
    multipliers: Multiplier
    credits_per_unit: int  # in 10**-PRICE_DECIMALS credits
