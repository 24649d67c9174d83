"""The price book: dated, append-only versions of everything that has a price.

A version never changes. An event is priced by the version in force at the event's own time, so a
replay tomorrow gives the amount of today. The document's form is described in docs/pricing.md.
"""

from __future__ import annotations

from bisect import bisect_right
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, TypeAlias

from core.catalog import Catalog, parse_catalog
from core.charge_models import ChargeModel, FlatRule, TokenRule
from core.counted import CountedRule
from core.credit_rules import COUNTED_MODELS, action_rule, billed_prices, counted_rule
from core.currencies import USD, parse_currencies
from core.document import BookError, Node
from core.multipliers import parse_multipliers
from core.rules import TOKEN_RULE_FIELDS, charge_model, flat_rule, token_rule
from core.volume_counts import clash

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping
    from datetime import datetime

    from core.charge_models import UnitRule
    from core.credit_rules import BilledPrices
    from core.currencies import Currencies
    from core.multipliers import FactorKey, Multipliers

__all__ = ["BookError", "PriceBook", "PriceHistory", "parse_book"]

# Names come from events, so a stranger chooses them: the memo is emptied when it is full.
MEMO_NAMES_MAX = 4096
_BOOK_FIELDS = frozenset({"power_levels", "tiers", "own_key_share", "actions", "models", "catalog"})
_OPTIONAL_FIELDS = frozenset({"credits_per_usd", "currencies", "billed", "flat", "catalog"})
ModelRule: TypeAlias = TokenRule | FlatRule | CountedRule
_EVERY_MODEL = "*"


@dataclass(frozen=True, slots=True)
class PriceBook:
    """One version of all prices. Immutable; the memo of resolved names changes no answer."""

    version: int
    effective_from: datetime
    actions: Mapping[str, UnitRule | CountedRule]
    flat: FlatRule | None
    billed: BilledPrices | None
    currencies: Currencies
    multipliers: Multipliers
    _factors: tuple[tuple[datetime | None, Mapping[FactorKey, int]], ...]
    _flat_models: frozenset[str]
    _own_models: Mapping[str, TokenRule | CountedRule]
    _catalog: Catalog
    _memo: dict[tuple[str, str], ModelRule | None] = field(
        default_factory=dict, compare=False, repr=False
    )

    def factor(self, key: FactorKey, when: datetime) -> int | None:
        """All multipliers of a price as one integer out of FACTOR_ONE, dollars as credits of then.

        None when the book does not know the tier.
        """
        periods = self._factors
        if len(periods) == 1:
            return periods[0][1].get(key)
        for starts_at, factors in reversed(periods):
            if starts_at is None or when >= starts_at:
                return factors.get(key)
        raise AssertionError("the first rate has no start")

    def counted_rules(self) -> list[CountedRule]:
        """The rules whose price depends on the month, each under all of its names."""
        rules = (*self.actions.values(), *self._own_models.values())
        return [rule for rule in rules if isinstance(rule, CountedRule)]

    def model_rule(self, provider: str, model: str) -> ModelRule | None:
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

    def _resolve(self, provider: str, model: str) -> ModelRule | None:
        if _EVERY_MODEL in self._flat_models:
            return self.flat
        name = f"{provider}/{model}".lower() if provider else model.lower()
        found = self._own_models.get(name)
        if found is None and (listed := self._catalog.find(provider, model)) is not None:
            found = self._own_models.get(listed.name.removeprefix("model:").lower(), listed)
        names = {name} if found is None else {name, found.name.removeprefix("model:").lower()}
        return self.flat if names & self._flat_models else found


class PriceHistory:
    """All versions; answers which one holds at a moment."""

    def __init__(self, books: Iterable[PriceBook]) -> None:
        self._books = sorted(books, key=lambda book: (book.effective_from, book.version))
        self._starts = [book.effective_from for book in self._books]
        self.latest_version = max((book.version for book in self._books), default=0)

    def with_newer(self, books: Iterable[PriceBook]) -> PriceHistory:
        """Another history, of these versions as well; versions never change, so they are shared."""
        return PriceHistory([*self._books, *books])

    def at(self, when: datetime) -> PriceBook | None:
        """The version with the latest start not after `when`; of equal starts the newest version.

        None before the first version.
        """
        starts = self._starts
        if starts and when >= starts[-1]:
            return self._books[-1]
        position = bisect_right(starts, when)
        return self._books[position - 1] if position else None

    def numbered(self, version: int) -> PriceBook | None:
        """The version of that number, whenever it holds; None when there is none."""
        return next((book for book in self._books if book.version == version), None)


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
    fields = root.fields(required, _OPTIONAL_FIELDS)
    currencies, scaled_by = parse_currencies(fields, root), parse_multipliers(fields)
    flat, flat_models = flat_rule(fields["flat"]) if "flat" in fields else (None, frozenset())
    book = PriceBook(
        version=version,
        effective_from=effective_from,
        actions={action: action_rule(action, row) for action, row in fields["actions"].items()},
        flat=flat,
        billed=billed_prices(fields["billed"]) if "billed" in fields else None,
        currencies=currencies,
        multipliers=scaled_by,
        _factors=tuple(
            (rate.starts_at, scaled_by.factors(rate.credits_each)) for rate in currencies.rates[USD]
        ),
        _flat_models=flat_models,
        _own_models=_own_models(fields["models"]),
        _catalog=parse_catalog(fields["catalog"]) if catalog is None else catalog,
    )
    if (found := clash(book.counted_rules())) is not None:
        raise root.error(
            f"{found[0].name} and {found[1].name} share the counter {found[0].counter!r}, and a"
            " volume price shares it only with an equal one"
        )
    return book


def _own_models(node: Node) -> dict[str, TokenRule | CountedRule]:
    rules: dict[str, TokenRule | CountedRule] = {}
    for name, row in node.items():
        provider, slash, model = name.partition("/")
        if not (provider and slash and model):
            raise row.error("a model is named provider/model")
        fields = dict(row.items())
        rule = _model_rule(f"model:{name}", row)
        aliases = fields["aliases"].elements() if "aliases" in fields else []
        known = [name, *(form for a in aliases for form in (a.text(), f"{provider}/{a.text()}"))]
        for known_as in known:
            if rules.setdefault(known_as.lower(), rule) is not rule:
                raise row.error(f"{known_as!r} is a name of {rules[known_as.lower()].name} already")
    return rules


def _model_rule(name: str, row: Node) -> TokenRule | CountedRule:
    aliases = frozenset({"aliases"})
    model = charge_model(dict(row.items()), ChargeModel.MODEL_TOKENS, *COUNTED_MODELS)
    if model is not ChargeModel.MODEL_TOKENS:
        return counted_rule(name, row, of_tokens=True, beside=aliases)
    fields = row.fields(frozenset({"prices"}), TOKEN_RULE_FIELDS | aliases)
    return token_rule(name, fields, fields["prices"])
