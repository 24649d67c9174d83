"""Prices of real models, read once from the pinned genai-prices into a price book's catalog.

The only importer of genai_prices. Nothing here reaches the network: its updater is never started.
"""

from datetime import time
from decimal import Decimal

from genai_prices import __version__, types
from genai_prices.data import providers

# The token prices a usage event can be charged by; other meters (searches, pages, hours) are not
# tokens of the event and stay out of the catalog.
_KINDS = {
    "input_mtok": "input",
    "output_mtok": "output",
    "cache_read_mtok": "cache_read",
    "cache_write_mtok": "cache_write",
    "cache_write_1h_mtok": "cache_write_1h",
    "output_reasoning_mtok": "reasoning",
    "input_audio_mtok": "audio_input",
    "output_audio_mtok": "audio_output",
    "input_image_mtok": "image_input",
}
# A cached part with a price of its own that the event cannot tell apart.
_CACHED_APART = {"cache_audio_read_mtok": "audio_input", "cache_image_read_mtok": "image_input"}
_FREE_SUFFIX = ":free"


def snapshot() -> dict[str, object]:
    """The catalog section of a price book: every provider and model, retired ones included.

    Deterministic for one version of genai-prices. Figures are decimals as text.
    """
    return {
        "source": f"genai-prices {__version__}",
        "providers": [_provider(provider) for provider in providers],
    }


def _provider(provider: types.Provider) -> dict[str, object]:
    section: dict[str, object] = {"provider": provider.id}
    if provider.provider_match is not None:
        section["named"] = _match(provider.provider_match)
    if provider.model_match is not None:
        section["makes"] = _match(provider.model_match)
    if provider.fallback_model_providers:
        section["falls_back_on"] = list(provider.fallback_model_providers)
    section["models"] = [_model(model) for model in provider.models]
    return section


def _model(model: types.ModelInfo) -> dict[str, object]:
    conditional = (
        [types.ConditionalPrice(prices=model.prices)]
        if isinstance(model.prices, types.ModelPrice)
        else model.prices
    )
    row: dict[str, object] = {
        "model": model.id,
        "match": _match(model.match),
        "prices": [_dated(price) for price in conditional],
    }
    if model.id.endswith(_FREE_SUFFIX):
        row["free"] = True
    return row


def _dated(price: types.ConditionalPrice) -> dict[str, object]:
    entry: dict[str, object] = {}
    constraint = price.constraint
    if isinstance(constraint, types.StartDateConstraint):
        entry["from"] = constraint.start_date.isoformat()
    elif isinstance(constraint, types.TimeOfDateConstraint):
        entry["between"] = [_utc(constraint.start_time), _utc(constraint.end_time)]
    base: dict[str, str] = {}
    bands: dict[int, dict[str, str]] = {}
    for key, value in price.prices.__dict__.items():
        kind = _KINDS.get(key)
        if kind is None or value is None:
            continue
        if isinstance(value, types.TieredPrices):
            base[kind] = _decimal(value.base)
            for tier in value.tiers:
                bands.setdefault(tier.start, {})[kind] = _decimal(tier.price)
        else:
            base[kind] = _decimal(value)
    entry["usd_per_mtok"] = base
    if bands:
        entry["above_input_tokens"] = [
            {"tokens": start, "usd_per_mtok": bands[start]} for start in sorted(bands)
        ]
    return entry | _beside_tokens(price.prices)


def _beside_tokens(prices: types.ModelPrice) -> dict[str, object]:
    entry: dict[str, object] = {}
    per_thousand = prices.__dict__.get("requests_kcount")
    if isinstance(per_thousand, Decimal):
        entry["usd_per_request"] = _decimal(per_thousand / 1000)
    apart = [kind for key, kind in _CACHED_APART.items() if prices.__dict__.get(key) is not None]
    if apart:
        entry["cached_apart"] = apart
    return entry


def _utc(value: time) -> str:
    if value.tzinfo is not None and value.utcoffset():
        raise ValueError(f"a price changes at {value}, which is not in UTC")
    return value.replace(tzinfo=None).isoformat()


def _decimal(value: Decimal) -> str:
    return f"{value:f}"


def _match(rule: types.MatchLogic) -> dict[str, object]:
    if isinstance(rule, types.ClauseOr):
        return {"or": [_match(part) for part in rule.or_]}
    if isinstance(rule, types.ClauseAnd):
        return {"and": [_match(part) for part in rule.and_]}
    return dict(vars(rule))
