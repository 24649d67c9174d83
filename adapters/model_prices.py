"""Prices of real models, read once from the pinned genai-prices into a price book's catalog.

The only importer of genai_prices. Nothing here reaches the network: its updater is never started.
"""

from collections.abc import Iterator
from dataclasses import dataclass
from datetime import UTC, date, datetime, time
from decimal import Decimal
from typing import TypeAlias

from genai_prices import __version__, types
from genai_prices.data import providers

from schemas.usage import ServiceTier

Prices: TypeAlias = dict[str, Decimal | types.TieredPrices]

# The token prices a usage event can be charged by; other meters (searches, pages, hours) are not
# tokens of the event and stay out of the catalog: `gaps` names them.
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
    "output_image_mtok": "image_output",
    "input_video_mtok": "video_input",
}
# A cached part with a price of its own that the event cannot tell apart.
_CACHED_APART = {
    "cache_audio_read_mtok": "audio_input",
    "cache_image_read_mtok": "image_input",
    "cache_video_read_mtok": "video_input",
}
_REQUESTS = "requests_kcount"
_CARRIED = _KINDS.keys() | _CACHED_APART.keys() | {_REQUESTS}
# How genai-prices names what an event calls its service tier. OpenAI's "default" is the standard.
_TIERS = {
    ("processing", "batch"): ServiceTier.BATCH,
    ("service_tier", "flex"): ServiceTier.FLEX,
    ("service_tier", "priority"): ServiceTier.PRIORITY,
    ("service_tier", "fast"): ServiceTier.FAST,
    ("speed", "fast"): ServiceTier.FAST,
    ("service_tier", "default"): ServiceTier.STANDARD,
}
_FREE_SUFFIX = ":free"
_BEFORE = date.min


@dataclass(frozen=True, slots=True)
class Gaps:
    """What the snapshot has and an event cannot be charged by; nothing of it is taken as zero.

    `units` are models by the name of a price that is not carried. `contexts` are models by the
    request context (a route, a kind of search) that is no service tier: such a price is left out.
    `unpriced` are the models that are left without any price and are not free.
    """

    units: dict[str, list[str]]
    contexts: dict[str, list[str]]
    unpriced: list[str]


def snapshot() -> dict[str, object]:
    """The catalog section of a price book: every provider and model, retired ones included.

    Deterministic for one version of genai-prices. Figures are decimals as text.
    """
    return {
        "source": f"genai-prices {__version__}",
        "providers": [_provider(provider) for provider in providers],
    }


def gaps() -> Gaps:
    """What `snapshot` leaves out, for the person who imports it. Models are provider/model."""
    units: dict[str, list[str]] = {}
    contexts: dict[str, list[str]] = {}
    unpriced = []
    for provider in providers:
        for model in provider.models:
            name = f"{provider.id}/{model.id}"
            carried = False
            for key in sorted(_price_keys(model)):
                carried |= key in _KINDS or key == _REQUESTS
                if key not in _CARRIED:
                    units.setdefault(key, []).append(name)
            if not carried and not model.id.endswith(_FREE_SUFFIX):
                unpriced.append(name)
            for variant in model.price_variants or ():
                if _tier(model, variant) is None:
                    context = ", ".join(f"{key}: {value}" for key, value in variant.when.items())
                    named = contexts.setdefault(context, [])
                    named += [name] if name not in named else []
    return Gaps(units, contexts, unpriced)


def _price_keys(model: types.ModelInfo) -> set[str]:
    everything = [entry.prices for entry in _conditional(model)]
    everything += [variant.prices for variant in model.price_variants or ()]
    return {key for prices in everything for key in _said(prices)}


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
    row: dict[str, object] = {
        "model": model.id,
        "match": _match(model.match),
        "prices": list(_entries(model)),
    }
    if model.id.endswith(_FREE_SUFFIX):
        row["free"] = True
    return row


def _conditional(model: types.ModelInfo) -> list[types.ConditionalPrice]:
    if isinstance(model.prices, types.ModelPrice):
        return [types.ConditionalPrice(prices=model.prices)]
    return model.prices


def _said(prices: types.ModelPrice) -> Prices:
    return {key: value for key, value in prices.__dict__.items() if value is not None}


def _entries(model: types.ModelInfo) -> Iterator[dict[str, object]]:
    """The dated prices in our form: service tiers stand in each entry, so that a day on which only
    a tier's price begins starts an entry too.
    """
    conditional = _conditional(model)
    if not any(_tier(model, variant) for variant in model.price_variants or ()):
        for price in conditional:
            yield _condition(price) | _entry(_said(price.prices), {})
        return
    last = None
    for start in _starts(model):
        # In force all day, as its price hours have no tiers (see `_tier`).
        moment = datetime.combine(start, time(12), UTC)
        entry = _entry(_said(model.get_prices(moment)), _tier_prices(model, moment))
        if entry != last:
            yield entry if start == _BEFORE else {"from": start.isoformat()} | entry
        last = entry


def _condition(price: types.ConditionalPrice) -> dict[str, object]:
    match price.constraint:
        case types.StartDateConstraint(start_date=start):
            return {"from": start.isoformat()}
        case types.TimeOfDateConstraint(start_time=start_time, end_time=end_time):
            return {"between": [_utc(start_time), _utc(end_time)]}
        case _:
            return {}


def _starts(model: types.ModelInfo) -> list[date]:
    constraints = [entry.constraint for entry in _conditional(model)]
    constraints += [
        variant.constraint for variant in model.price_variants or () if _tier(model, variant)
    ]
    starts = {_BEFORE}
    starts |= {
        each.start_date for each in constraints if isinstance(each, types.StartDateConstraint)
    }
    return sorted(starts)


def _tier(model: types.ModelInfo, variant: types.PriceVariant) -> ServiceTier | None:
    """The service tier that the variant is the price of, or None: then it is left out, by name.

    Left out is what depends on anything but the tier, or on the hour of the day beside it, and a
    "default" that differs from the standard price.
    """
    tier = _TIERS.get(next(iter(variant.when.items()))) if len(variant.when) == 1 else None
    conditions = [entry.constraint for entry in _conditional(model)] + [variant.constraint]
    if tier is None or any(isinstance(each, types.TimeOfDateConstraint) for each in conditions):
        return None
    if variant.prices.__dict__.keys() & _CACHED_APART.keys() - _said_always(model):
        return None
    if tier is ServiceTier.STANDARD:
        standard = [_said(entry.prices) for entry in _conditional(model)]
        said = _said(variant.prices).items()
        return tier if all(said <= prices.items() for prices in standard) else None
    return tier


def _said_always(model: types.ModelInfo) -> set[str]:
    return set.intersection(*(set(_said(entry.prices)) for entry in _conditional(model)))


def _tier_prices(model: types.ModelInfo, moment: datetime) -> dict[ServiceTier, Prices]:
    """What each tier says at that moment; of two variants the first that says it, as they do."""
    found: dict[ServiceTier, Prices] = {}
    for variant in model.price_variants or ():
        tier = _tier(model, variant)
        begun = variant.constraint is None or variant.constraint.active(moment)
        if tier is not None and tier is not ServiceTier.STANDARD and begun:
            found[tier] = _said(variant.prices) | found.get(tier, {})
    return found


def _entry(standard: Prices, tiers: dict[ServiceTier, Prices]) -> dict[str, object]:
    entry = _figures(standard)
    apart = [kind for key, kind in _CACHED_APART.items() if key in standard]
    if apart:
        entry["cached_apart"] = apart
    if tiers:
        entry["service_tiers"] = {tier.value: _figures(prices) for tier, prices in tiers.items()}
    return entry


def _figures(prices: Prices) -> dict[str, object]:
    """Prices of tokens and requests; every step says every price that has steps."""
    carried = {kind: prices[key] for key, kind in _KINDS.items() if key in prices}
    tiered = {
        kind: price for kind, price in carried.items() if isinstance(price, types.TieredPrices)
    }
    section: dict[str, object] = {
        "usd_per_mtok": {
            kind: _decimal(price.base if isinstance(price, types.TieredPrices) else price)
            for kind, price in carried.items()
        }
    }
    if tiered:
        steps = sorted({tier.start for price in tiered.values() for tier in price.tiers})
        section["above_input_tokens"] = [
            {
                "tokens": step,
                "usd_per_mtok": {
                    kind: _decimal(_above(price, step)) for kind, price in tiered.items()
                },
            }
            for step in steps
        ]
    request = prices.get(_REQUESTS)
    if isinstance(request, Decimal):
        section["usd_per_request"] = _decimal(request / 1000)
    return section


def _above(price: types.TieredPrices, step: int) -> Decimal:
    reached = [tier.price for tier in price.tiers if tier.start <= step]
    return reached[-1] if reached else price.base


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
