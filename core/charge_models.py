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
from schemas.usage import ServiceTier

if TYPE_CHECKING:
    from collections.abc import Mapping
    from datetime import datetime, time

    from schemas.usage import TokenCounts, UsageData

PRICE_DECIMALS = 18
MULTIPLIER_DECIMALS = 6
RATE_DECIMALS = 12
MICRO = 10**6
_STANDARD = ServiceTier.STANDARD
_REQUEST_UNITS = frozenset({"", "requests"})


class ChargeModel(StrEnum):
    """How a rule charges. A rule may name its model: a new one is a new member, not a new shape."""

    MODEL_TOKENS = "model_tokens"
    FLAT_TOKENS = "flat_tokens"
    PER_UNIT = "per_unit"
    PACKAGE = "package"
    GRADUATED = "graduated"
    VOLUME = "volume"
    BILLED = "billed"


class Multiplier(IntFlag):
    """What scales a rule's amount, as a set."""

    NONE = 0
    POWER_LEVEL = 1
    TIER = 2
    USD = 4  # the rule is in dollars: the credits for one dollar apply


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
    IMAGE_OUTPUT = "image_output"
    VIDEO_INPUT = "video_input"


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
    TokenKind.IMAGE_OUTPUT: TokenKind.OUTPUT,
    TokenKind.VIDEO_INPUT: TokenKind.INPUT,
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

    def per_token(self) -> dict[TokenKind, int]:
        """The price of every kind, that of the kind around it where it has none of its own."""
        differences = dict(self.surcharges)
        prices = {TokenKind.INPUT: self.input, TokenKind.OUTPUT: self.output}
        for kind, around in CONTAINED_IN.items():
            prices[kind] = prices[around] + differences.get(kind, 0)
        return prices

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
class TierPrices:
    """The prices of one service tier, complete: what the tier does not name is the standard's.

    gpt-4o by batch lists 1.25 dollars a million for input and 5 for output; 1,000 input tokens of
    which 400 are read from the cache cost 600 x 1.25 + 400 x 1.25 (the standard cache price, as
    the tier names none) = 1,250 micro-dollars.
    """

    base: Rates
    bands: tuple[Band, ...]  # the highest first

    def rates_for(self, input_tokens: int) -> Rates:
        """The prices for a request of that many input tokens."""
        for band in self.bands:
            if input_tokens > band.above_input_tokens:
                return band.rates
        return self.base


@dataclass(frozen=True, slots=True)
class DatedPrices:
    """Prices of a model from a day on, or within hours of each day; unbounded where None."""

    starts_at: datetime | None
    between: tuple[time, time] | None
    standard: TierPrices
    service_tiers: Mapping[ServiceTier, TierPrices]  # all but the standard one

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


@dataclass(frozen=True, slots=True)
class TokenRule:
    """Model pricing (M1, M2): tokens by kind at dollars per million tokens.

        credits = sum(tokens / 1,000,000 x dollars) x credits a dollar x power level x tier

    1,000 input tokens of gpt-4o at 2.50 dollars, balanced, free: 0.0025 x 1 x 1.0 x 1.5 = 0.00375.
    `prices` are tried last to first; when none is in force the first one holds.
    """

    name: str
    free: bool
    multipliers: Multiplier
    prices: tuple[DatedPrices, ...]

    def in_force(self, when: datetime) -> DatedPrices:
        """The prices that hold at that moment."""
        for candidate in reversed(self.prices):
            if candidate.in_force(when):
                return candidate
        return self.prices[0]

    def rates(self, data: UsageData, when: datetime) -> Rates | Refusal:
        """The prices for this usage at that moment, or why the model has none for it."""
        chosen = self.prices[-1]
        starts_at = chosen.starts_at
        if chosen.between is not None or (starts_at is not None and when < starts_at):
            chosen = self.in_force(when)
        tier = chosen.standard
        if data.service_tier is not _STANDARD:
            found = chosen.service_tiers.get(data.service_tier)
            if found is None:
                return no_service_tier(data.service_tier)
            tier = found
        return tier.rates_for(data.tokens.input) if tier.bands else tier.base

    def numerator(self, data: UsageData, when: datetime) -> int | Refusal:
        """The exact amount; zero for counted tokens is a gap unless the model is listed as free."""
        rates = self.rates(data, when)
        if isinstance(rates, Refusal):
            return rates
        if self.free:
            return 0
        if rates.per_request and data.unit not in _REQUEST_UNITS:
            return other_unit("requests", data.unit)
        tokens = data.tokens
        total = rates.numerator(tokens, data.quantity)
        if total == 0:
            return self._gap(rates, data) or 0
        return total

    def _gap(self, rates: Rates, data: UsageData) -> Refusal | None:
        """Why a total of zero is no price; None when nothing was used."""
        if data.tokens.input or data.tokens.output:
            return Refusal(Reason.UNPRICED, "the price is zero and the model is not listed as free")
        if not rates.priced and not rates.per_request:
            return Refusal(Reason.UNPRICED, "there is no price in a unit that an event can carry")
        if data.unit not in _REQUEST_UNITS:
            return other_unit("tokens", data.unit)
        return None


@dataclass(frozen=True, slots=True)
class FlatRule:
    """Flat token pricing (M3): one credit buys a number of tokens, whatever the model.

        credits = (input + output) / tokens_per_credit

    At 200 tokens a credit, 150 input and 50 output tokens cost 1 credit.
    """

    name: str
    multipliers: Multiplier
    tokens_per_credit: int  # in 10**-MULTIPLIER_DECIMALS tokens


@dataclass(frozen=True, slots=True)
class UnitRule:
    """Action pricing (M4): credits for each `per` units of the event's quantity.

        credits = quantity / per x credits

    0.3 credits per 60 seconds: 90 seconds cost 90 / 60 x 0.3 = 0.45 credits. Not by whole minutes:
    that is a package.
    """

    name: str
    multipliers: Multiplier
    credits_per_unit: int  # of `per` units, in 10**-PRICE_DECIMALS credits
    per: int = 1
    unit: str = ""


@dataclass(frozen=True, slots=True)
class BilledRule:
    """What the provider itself billed, passed through.

        credits = amount x credits for one unit of its currency x markup

    A bill of 0.0042 dollars at one credit a dollar and a markup of 1.1 costs 0.00462 credits.
    """

    name: str
    multipliers: Multiplier
    markup: int  # in 10**-MULTIPLIER_DECIMALS


def no_service_tier(service_tier: ServiceTier) -> Refusal:
    """Another tier is never priced as the standard one: it may cost the half or the double."""
    return Refusal(Reason.UNPRICED, f"there is no price for service tier {service_tier.value}")


def other_unit(priced: str, reported: str) -> Refusal:
    """A price for seconds says nothing about bytes."""
    return Refusal(Reason.UNPRICED, f"the price is for {priced}, and the event counts {reported}")
