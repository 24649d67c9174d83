"""Credits for one unit of a currency, from the day on which they hold."""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import TYPE_CHECKING

from core.charge_models import MICRO, MULTIPLIER_DECIMALS, RATE_DECIMALS

if TYPE_CHECKING:
    from collections.abc import Mapping
    from datetime import datetime

    from core.document import Node

_CODE = re.compile(r"[A-Z]{3}")
USD = "USD"


@dataclass(frozen=True, slots=True)
class ExchangeRate:
    """Credits for one unit of a currency in 10**-RATE_DECIMALS, and their start (None: always)."""

    starts_at: datetime | None
    credits_each: int


@dataclass(frozen=True, slots=True)
class Currencies:
    """The rates of every currency, in the order of their starts.

    With USD at 1 credit, and 1.1 from 2026-12-01, 0.0025 dollars of an event of 30 November cost
    0.0025 credits and those of an event of 1 December 0.00275, whenever they are charged.
    """

    rates: Mapping[str, tuple[ExchangeRate, ...]]

    def at(self, currency: str, when: datetime) -> int | None:
        """Credits for one unit at that moment; None for a currency that the book does not have."""
        rates = self.rates.get(currency)
        if rates is None:
            return None
        for rate in reversed(rates):
            if rate.starts_at is None or when >= rate.starts_at:
                return rate.credits_each
        raise AssertionError("the first rate has no start")


def parse_currencies(fields: Mapping[str, Node], root: Node) -> Currencies:
    """From `currencies`, or from the older `credits_per_usd` that knows the dollar only.

    Raises:
        BookError: both or none of the two, no dollar, or rates out of order.
    """
    if ("currencies" in fields) == ("credits_per_usd" in fields):
        raise root.error("needs exactly one of currencies and credits_per_usd")
    if "credits_per_usd" in fields:
        per_usd = _positive(fields["credits_per_usd"], MULTIPLIER_DECIMALS)
        return Currencies({USD: (ExchangeRate(None, per_usd),)})
    rates = {}
    for code, node in fields["currencies"].items():
        if _CODE.fullmatch(code) is None:
            raise node.error("a currency is three capital letters (ISO 4217)")
        rates[code] = _rates(node)
    if USD not in rates:
        raise fields["currencies"].error("is missing USD, which the prices of models are in")
    return Currencies(rates)


def _rates(node: Node) -> tuple[ExchangeRate, ...]:
    rates: list[ExchangeRate] = []
    for entry in node.elements():
        starts = frozenset({"from"} if rates else ())
        fields = entry.fields(frozenset({"credits"}) | starts, frozenset())
        starts_at = fields["from"].instant() if rates else None
        earlier = rates[-1].starts_at if rates else None
        if starts_at is not None and earlier is not None and starts_at <= earlier:
            raise fields["from"].error("must be later than the one before")
        rates.append(ExchangeRate(starts_at, _positive(fields["credits"], RATE_DECIMALS)))
    if not rates:
        raise node.error("expected at least one rate")
    return tuple(rates)


def _positive(node: Node, decimals: int) -> int:
    value: int = node.scaled(decimals) * 10 ** (RATE_DECIMALS - decimals)
    if not 0 < value <= MICRO * 10**RATE_DECIMALS:
        raise node.error("must be more than 0 and at most 1000000")
    return value
