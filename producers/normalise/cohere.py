"""Cohere's usage. What is billed is `billed_units`; `tokens` counts the template too."""

from collections.abc import Mapping
from typing import Final

from producers.normalise.fields import Fields
from producers.normalise.outcome import Refusal

_UNITS: Final = {
    "search_units": "search_units",
    "classifications": "classifications",
    "images": "images",
}


def cohere_counts(fields: Fields) -> dict[str, int]:
    """Billed tokens; empty when something else is billed. Problems are noted in `fields`.

    Cached tokens are counted among `tokens`, which are not what is billed, and the cache has no
    price of its own: they are left out.
    """
    fields.ignore(("tokens",), ("cached_tokens",), ("api_version",), ("billed_units",))
    units = fields.value("billed_units")
    if not isinstance(units, Mapping):
        fields.refuse(Refusal.INCOMPLETE, "the billed units are not said")
        return {}
    billed = Fields(units, "billed_units: ")
    counts = {
        "input": billed.count("input_tokens"),
        "output": billed.count("output_tokens"),
    }
    billed.ignore(*((name,) for name in _UNITS))
    billed.refuse_unread()
    if billed.refused is not None:
        fields.refuse(billed.refused.reason, billed.refused.detail)
    return {kind: number for kind, number in counts.items() if number is not None}


def cohere_units(fields: Fields) -> dict[str, int]:
    """What is billed by something else than tokens, by unit."""
    return {
        unit: number
        for name, unit in _UNITS.items()
        if (number := fields.count("billed_units", name))
    }
