"""The price book: dated, append-only versions of everything that has a price.

A version never changes. An event is priced by the version in force at the event's own time, so a
replay tomorrow gives the amount of today. The document's form is described in docs/pricing.md.
"""

from __future__ import annotations

from bisect import bisect_right
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from core.catalog import Catalog, parse_catalog
from core.charge_models import MICRO, MULTIPLIER_DECIMALS, FlatRule, Multiplier, TokenRule, UnitRule
from core.document import BookError, Node
from core.rules import TOKEN_RULE_FIELDS, flat_rule, token_rule, unit_rule
from schemas.usage import PowerLevel

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping
    from datetime import datetime

__all__ = ["BookError", "PriceBook", "PriceHistory", "parse_book"]

# Names come from events, so a stranger chooses them: the memo is emptied when it is full.
MEMO_NAMES_MAX = 4096
_BOOK_FIELDS = frozenset(
    {"credits_per_usd", "power_levels", "tiers", "own_key_share", "actions", "models", "catalog"}
)
_EVERY_MODEL = "*"


@dataclass(frozen=True, slots=True)
class PriceBook:
    """One version of all prices. Immutable; the memo of resolved names changes no answer.

    `factors` are integers of 10**-(4 * MULTIPLIER_DECIMALS), by (multipliers, power level, tier,
    own key): every multiplication that does not depend on the counts, done once.
    """

    version: int
    effective_from: datetime
    actions: Mapping[str, UnitRule]
    flat: FlatRule | None
    factors: Mapping[tuple[Multiplier, str, str, bool], int]
    _flat_models: frozenset[str]
    _own_models: Mapping[str, TokenRule]
    _catalog: Catalog
    _memo: dict[tuple[str, str], TokenRule | FlatRule | None] = field(
        default_factory=dict, compare=False, repr=False
    )

    def model_rule(self, provider: str, model: str) -> TokenRule | FlatRule | None:
        """The rule for a model as an app names it, or None when the book does not know it.

        The book's own rows come first, by name or alias; then the catalog, whose answer a row of
        the book with the same provider/model replaces. An empty model is work on tokens without
        one, which only a flat price for every model can price.
        """
        key = (provider, model)
        memo = self._memo
        try:
            return memo[key]
        except KeyError:
            if len(memo) >= MEMO_NAMES_MAX:
                memo.clear()
            rule = memo[key] = self._resolve(provider, model)
            return rule

    def _resolve(self, provider: str, model: str) -> TokenRule | FlatRule | None:
        if _EVERY_MODEL in self._flat_models:
            return self.flat
        name = f"{provider}/{model}".lower() if provider else model.lower()
        found = self._own_models.get(name)
        if found is None and (found := self._catalog.find(provider, model)) is not None:
            found = self._own_models.get(found.name.removeprefix("model:").lower(), found)
        names = {name} if found is None else {name, found.name.removeprefix("model:").lower()}
        return self.flat if names & self._flat_models else found


class PriceHistory:
    """All versions; answers which one holds at a moment."""

    def __init__(self, books: Iterable[PriceBook]) -> None:
        self._books = sorted(books, key=lambda book: (book.effective_from, book.version))
        self._starts = [book.effective_from for book in self._books]
        self.latest_version = max((book.version for book in self._books), default=0)

    def at(self, when: datetime) -> PriceBook | None:
        """The version with the latest start not after `when`; of equal starts the newest version.

        None before the first version.
        """
        starts = self._starts
        if starts and when >= starts[-1]:
            return self._books[-1]
        position = bisect_right(starts, when)
        return self._books[position - 1] if position else None


def parse_book(
    document: Mapping[str, object],
    *,
    version: int,
    effective_from: datetime,
    catalog: Catalog | None = None,
) -> PriceBook:
    """Turns a document into integers, once.

    Versions with the same catalog section may share one parsed `catalog`; it is then not read
    from the document.

    Raises:
        BookError: the document cannot be used; the message starts with the place at fault.
    """
    root = Node(dict(document))
    required = _BOOK_FIELDS if catalog is None else _BOOK_FIELDS - {"catalog"}
    fields = root.fields(required, frozenset({"flat", "catalog"}))
    flat, flat_models = flat_rule(fields["flat"]) if "flat" in fields else (None, frozenset())
    return PriceBook(
        version=version,
        effective_from=effective_from,
        actions={action: unit_rule(action, row) for action, row in fields["actions"].items()},
        flat=flat,
        factors=_factors(fields),
        _flat_models=flat_models,
        _own_models=_own_models(fields["models"]),
        _catalog=parse_catalog(fields["catalog"]) if catalog is None else catalog,
    )


def _factors(fields: Mapping[str, Node]) -> dict[tuple[Multiplier, str, str, bool], int]:
    one = 10**MULTIPLIER_DECIMALS
    powers = fields["power_levels"].fields(frozenset(PowerLevel), frozenset())
    per_usd = _positive(fields["credits_per_usd"])
    shares = {False: one, True: fields["own_key_share"].scaled(MULTIPLIER_DECIMALS)}
    if shares[True] > one:
        raise fields["own_key_share"].error("is a share: at most 1")
    factors = {}
    for tier, tier_node in fields["tiers"].items():
        for power, power_node in powers.items():
            by_power, by_tier = _positive(power_node), _positive(tier_node)
            for kinds in range(8):
                flags = Multiplier(kinds)
                factor = by_power if Multiplier.POWER_LEVEL in flags else one
                factor *= by_tier if Multiplier.TIER in flags else one
                factor *= per_usd if Multiplier.USD in flags else one
                for own_key, share in shares.items():
                    factors[flags, power, tier, own_key] = factor * share
    return factors


def _positive(node: Node) -> int:
    value = node.scaled(MULTIPLIER_DECIMALS)
    if not 0 < value <= MICRO * 10**MULTIPLIER_DECIMALS:
        raise node.error("must be more than 0 and at most 1000000")
    return value


def _own_models(node: Node) -> dict[str, TokenRule]:
    rules: dict[str, TokenRule] = {}
    for name, row in node.items():
        provider, slash, model = name.partition("/")
        if not (provider and slash and model):
            raise row.error("a model is named provider/model")
        fields = row.fields(frozenset({"prices"}), TOKEN_RULE_FIELDS | {"aliases"})
        rule = token_rule(f"model:{name}", fields, fields["prices"])
        aliases = fields["aliases"].elements() if "aliases" in fields else []
        known = [name, *(form for a in aliases for form in (a.text(), f"{provider}/{a.text()}"))]
        for known_as in known:
            if rules.setdefault(known_as.lower(), rule) is not rule:
                raise row.error(f"{known_as!r} is a name of {rules[known_as.lower()].name} already")
    return rules
