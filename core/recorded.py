"""A charge read back as the usage event that it recorded, to be priced again.

A row is anything with the columns of the table `charge` by name, overlaid by the charge's latest
correction (sql/postgres/queries/corrections.sql, charges_in_force). `unit` is not recorded: a
quantity that was charged was of the unit that its price wanted, which `unit_charged` finds.
"""

from __future__ import annotations

import json
from operator import itemgetter
from typing import TYPE_CHECKING, Any, Final, Protocol, TypeVar

from core.rating import AccountFacts
from schemas.usage import (
    EVENT_TYPE,
    BilledCost,
    PowerLevel,
    ServiceTier,
    TokenCounts,
    UsageData,
    UsageEvent,
)

if TYPE_CHECKING:
    from collections.abc import Callable

    from core.prices import PriceBook

__all__ = [
    "USAGE_COLUMNS", "Row", "facts_of", "recorded_event", "unit_charged", "usage_columns",
    "usage_recorded",
]  # fmt: skip

# The columns that say what was used: the same names in `charge` and in `charge_correction`.
USAGE_COLUMNS: Final = (
    "action", "provider", "model", "power_level", "service_tier", "input_tokens",
    "cache_read_tokens", "cache_write_tokens", "output_tokens", "reasoning_tokens", "other_meters",
    "quantity", "own_key", "billed_currency", "billed_pico",
)  # fmt: skip
RARE_KINDS: Final = (
    "cache_write_1h", "audio_input", "audio_output", "image_input", "image_output", "video_input",
)  # fmt: skip
_NO_RARE: Final = dict.fromkeys(RARE_KINDS, 0)
_PICO_DIGITS: Final = 12
Made = TypeVar("Made")
_to_json = json.JSONEncoder(sort_keys=True, ensure_ascii=False).encode


class Row(Protocol):
    """Columns by name: a dict, or a record of the database."""

    def __getitem__(self, name: str, /) -> Any:
        """The value of the column; KeyError when there is none."""


def recorded_event(row: Row, unit: str = "") -> UsageEvent:
    """The usage event that the row records; rating it again gives what the row was rated from.

    Its quantity is of `unit`; '' stands for any. Not validated: it was when it was charged, and a
    limit that is tighter today does not unmake it.
    """
    rare: dict[str, int] = json.loads(row["other_meters"]) if row["other_meters"] else {}
    tokens = _trusted(
        TokenCounts,
        input=row["input_tokens"],
        output=row["output_tokens"],
        cache_read=row["cache_read_tokens"],
        cache_write=row["cache_write_tokens"],
        reasoning=row["reasoning_tokens"],
        **(_NO_RARE | rare if rare else _NO_RARE),
    )
    data = _trusted(
        UsageData,
        action=row["action"],
        provider=row["provider"],
        model=row["model"],
        tokens=tokens,
        quantity=row["quantity"],
        power_level=PowerLevel(row["power_level"]),
        hold_id=row["hold_id"],
        resource_id=row["resource_id"],
        own_key=row["own_key"],
        attributes=json.loads(row["attributes"]) if row["attributes"] else {},
        service_tier=ServiceTier(row["service_tier"]),
        unit=unit,
        billed=_billed(row["billed_currency"], row["billed_pico"]),
    )
    return _trusted(
        UsageEvent,
        specversion="1.0",
        id=row["event_id"],
        source=row["source"],
        type=EVENT_TYPE,
        subject=row["account_id"],
        time=row["occurred_at"],
        data=data,
    )


def _trusted(kind: type[Made], **fields: Any) -> Made:
    """An object of a frozen class from all of its fields, past its constructor's validation."""
    made = object.__new__(kind)
    for name, value in fields.items():
        object.__setattr__(made, name, value)
    return made


def unit_charged(row: Row, book: PriceBook | None) -> str:
    """The unit of the price that the row was charged by, `book` being that version; '' without.

    Another price holds for the quantity only if it is of the same unit, or of none.
    """
    action = None if book is None else book.actions.get(row["action"])
    return action.unit if action is not None and action.name == row["rule"] else ""


def facts_of(row: Row) -> AccountFacts:
    """The account's tier and mode when the event was charged: a correction keeps them."""
    return AccountFacts(row["tier"], row["demo"])


def usage_columns(event: UsageEvent) -> tuple[object, ...]:
    """What the event used, in the order of USAGE_COLUMNS: the inverse of `recorded_event`."""
    data = event.data
    tokens = data.tokens
    billed = data.billed
    return (
        data.action, data.provider, data.model, data.power_level.value, data.service_tier.value,
        tokens.input, tokens.cache_read, tokens.cache_write, tokens.output, tokens.reasoning,
        _other_meters(tokens), data.quantity, data.own_key,
        "" if billed is None else billed.currency, 0 if billed is None else _pico(billed.amount),
    )  # fmt: skip


usage_recorded: Callable[[Row], tuple[Any, ...]] = itemgetter(*USAGE_COLUMNS)
"""What the row says was used, in the order of USAGE_COLUMNS."""


def _other_meters(tokens: TokenCounts) -> str:
    """As core.batch writes them: a JSON object of the rarer kinds that are not zero, or ''."""
    meters = {kind: count for kind in RARE_KINDS if (count := getattr(tokens, kind))}
    return _to_json(meters) if meters else ""


def _billed(currency: str, amount_pico: int) -> BilledCost | None:
    """The shortest decimal of the same value."""
    if not currency:
        return None
    whole, pico = divmod(amount_pico, 10**_PICO_DIGITS)
    amount = f"{whole}.{pico:0{_PICO_DIGITS}d}".rstrip("0").rstrip(".")
    return BilledCost(amount=amount, currency=currency)


def _pico(amount: str) -> int:
    whole, _, fraction = amount.partition(".")
    return int(whole + fraction.ljust(_PICO_DIGITS, "0"))
