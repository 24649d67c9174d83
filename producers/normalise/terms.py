"""The terms of a call: the service tier that it was processed in, and the provider's own bill."""

import math
import re
from collections.abc import Mapping
from decimal import Decimal, InvalidOperation
from typing import Any

from producers.normalise.fields import Fields
from producers.normalise.outcome import Refusal
from schemas.events import BilledCost, ServiceTier

_STANDARD = {"", "default", "standard", "standard_only", "on_demand", "on_demand_default"}
_TIERS = {
    "batch": ServiceTier.BATCH,
    "flex": ServiceTier.FLEX,
    "on_demand_flex": ServiceTier.FLEX,
    "priority": ServiceTier.PRIORITY,
    "on_demand_priority": ServiceTier.PRIORITY,
    "fast": ServiceTier.FAST,
}
_AMOUNT_MAX = Decimal(1_000_000)
_PICO = Decimal("0.000000000001")
_TICKS_OF_A_DOLLAR = 10_000_000_000
_DECIMAL_TEXT = re.compile(r"\d{1,6}(\.\d{1,30})?", re.ASCII)


def service_tier(fields: Fields, *said: Any) -> ServiceTier:
    """The one tier that differs from the standard in what the caller and the response say.

    Notes a problem when two of them differ, or one is not known ("auto" says nothing of what was
    done, "scale" and provisioned throughput are not paid by the token).
    """
    special = set()
    for text in said:
        name = str(text or "").lower().removeprefix("service_tier_")
        if name in _TIERS:
            special.add(_TIERS[name])
        elif name not in _STANDARD and name != "service_tier_unspecified":
            fields.refuse(Refusal.UNKNOWN_TIER, "the service tier is none that is known")
    if len(special) > 1:
        fields.refuse(Refusal.UNKNOWN_TIER, "two service tiers are named")
    return special.pop() if special else ServiceTier.STANDARD


def provider_bill(fields: Fields, provider: str) -> BilledCost | None:
    """What the provider says that it billed, in US dollars; None when it says nothing.

    OpenRouter: `cost`, one credit is one dollar; not with the caller's own key at the upstream
    provider (`is_byok`), where it is the fee alone. xAI: `cost_in_usd_ticks`, 10^10 a dollar.
    Perplexity: `cost.total_cost`.
    """
    match provider:
        case "openrouter":
            said = fields.value("cost")
            return None if fields.value("is_byok") is True else _dollars(fields, said)
        case "x-ai":
            ticks = fields.value("cost_in_usd_ticks")
            if isinstance(ticks, int) and not isinstance(ticks, bool) and ticks >= 0:
                return _dollars(fields, Decimal(ticks) / _TICKS_OF_A_DOLLAR)
            return _dollars(fields, ticks)
        case "perplexity":
            cost = fields.value("cost")
            return _dollars(fields, cost.get("total_cost") if isinstance(cost, Mapping) else cost)
        case _:
            return None


def _dollars(fields: Fields, said: Any) -> BilledCost | None:
    if said is None:
        return None
    amount = _decimal(said)
    if amount is None or not 0 <= amount < _AMOUNT_MAX:
        fields.refuse(Refusal.NOT_A_COUNT, "the cost is no decimal from 0 to 999999")
        return None
    # A thousandth of a millionth of a micro-dollar is noise of the provider's own float.
    text = f"{amount.quantize(_PICO):f}".rstrip("0").rstrip(".")
    return BilledCost(text or "0")


def _decimal(said: Any) -> Decimal | None:
    """The shortest decimal that reads as the same number: what stood in the JSON."""
    if isinstance(said, bool):
        return None
    if isinstance(said, float):
        return Decimal(repr(said)) if math.isfinite(said) else None
    if isinstance(said, str) and not _DECIMAL_TEXT.fullmatch(said):
        return None
    if not isinstance(said, int | str | Decimal):
        return None
    try:
        amount = Decimal(said)
    except (InvalidOperation, ValueError):
        return None
    return amount if amount.is_finite() else None
