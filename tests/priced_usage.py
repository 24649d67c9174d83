"""Events and books for the pricing tests; what a test does not speak of has a usual value."""

from datetime import UTC, datetime
from functools import cache
from typing import Any

from adapters.model_prices import snapshot
from core.catalog import Catalog, parse_catalog
from core.default_book import default_document
from core.document import Node
from core.prices import PriceBook, PriceHistory, parse_book
from core.rating import AccountFacts
from schemas.usage import TokenCounts, UsageData, UsageEvent

EPOCH = datetime(2020, 1, 1, tzinfo=UTC)
NOVEMBER = datetime(2026, 11, 21, 9, 0, tzinfo=UTC)
FREE = AccountFacts("free", demo=False)
PRO = AccountFacts("pro", demo=False)


@cache
def real_catalog() -> Catalog:
    return parse_catalog(Node(snapshot()))


def document(**changes: Any) -> dict[str, Any]:
    """The default book with an empty catalog and the given sections in place of its own.

    A section given as None is left out.
    """
    whole = default_document({"source": "none", "providers": []})
    if changes.get("credits_per_usd"):
        del whole["currencies"]
    whole |= changes
    return {name: section for name, section in whole.items() if section is not None}


def book(version: int = 1, effective_from: datetime = EPOCH, **changes: Any) -> PriceBook:
    """The default book, real catalog included unless `catalog` is given."""
    catalog = None if "catalog" in changes else real_catalog()
    return parse_book(
        document(**changes), version=version, effective_from=effective_from, catalog=catalog
    )


def history(**changes: Any) -> PriceHistory:
    return PriceHistory([book(**changes)])


def usage(model: str = "", *, time: datetime = NOVEMBER, **fields: Any) -> UsageEvent:
    """An event; fields that are kinds of tokens count them, the others are fields of the data."""
    kinds = TokenCounts.__dataclass_fields__.keys()
    tokens = TokenCounts(**{kind: fields.pop(kind) for kind in kinds & fields.keys()})
    return UsageEvent(
        specversion="1.0",
        id="e-1",
        source="app/chat",
        type="tollgate.usage.v1",
        subject="acme",
        time=time,
        data=UsageData(model=model, tokens=tokens, **fields),
    )
