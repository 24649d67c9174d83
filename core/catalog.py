"""The catalog: which model a provider and a model name mean, by the matching rules of genai-prices.

The rules are data of the book, so a version resolves a name the same way for ever, whatever
version of the library is installed.
"""

from __future__ import annotations

import re
from dataclasses import dataclass, replace
from datetime import date
from typing import TYPE_CHECKING, TypeAlias

from core.matching import Matcher, matcher
from core.rules import TOKEN_RULE_FIELDS, token_rule

if TYPE_CHECKING:
    from core.charge_models import TokenRule
    from core.document import Node

_COMPACT_DATE = re.compile(r"-(20\d{2})(0[1-9]|1[0-2])(0[1-9]|[12]\d|3[01])(?=-|:|$)")
# A provider of this name says that the model's name carries the provider.
_GATEWAY = "litellm"


@dataclass(frozen=True, slots=True)
class Provider:
    """One seller of models; its models are tried in the order of the catalog."""

    name: str
    matches_name: Matcher | None
    matches_model: Matcher | None
    fallbacks: tuple[str, ...]
    models: tuple[TokenRule, ...]
    exact: dict[str, int]
    patterns: tuple[tuple[int, Matcher], ...]

    def first_match(self, model: str) -> TokenRule | None:
        """The first of its own models that the lower-case name means."""
        position = self.exact.get(model)
        for candidate, pattern in self.patterns:
            if position is not None and candidate > position:
                break
            if pattern(model):
                return self.models[candidate]
        return None if position is None else self.models[position]


class Catalog:
    """All providers and models of one snapshot. Finding is a pure function of the names."""

    def __init__(self, source: str, providers: tuple[Provider, ...]) -> None:
        self.source = source
        self._providers = providers
        self._by_name = {provider.name: provider for provider in providers}

    def models(self) -> list[TokenRule]:
        """Every model's rule, in the order of the catalog."""
        return [model for provider in self._providers for model in provider.models]

    def find(self, provider: str, model: str) -> TokenRule | None:
        """The rule for a model as an app names it, or None: never a guess across providers.

        With a provider: its own name of the model, with or without the provider as a prefix. With
        none: the prefix if it names a provider that has the model, else the maker by the name.
        """
        name = model.lower()
        prefix, slash, rest = name.partition("/")
        if provider and provider.lower() != _GATEWAY:
            owner = self._provider(provider)
            if owner is None:
                return None
            found = self._find_model(owner, name)
            if found is None and slash and self._provider(prefix) is owner:
                found = self._find_model(owner, rest)
            return found
        if slash and (owner := self._provider(prefix)) and (found := self._find_model(owner, rest)):
            return found
        for owner in self._providers:
            if owner.matches_model is not None and owner.matches_model(name):
                return self._find_model(owner, name)
        return None

    def _provider(self, name: str) -> Provider | None:
        wanted = name.lower().strip()
        if wanted in self._by_name:
            return self._by_name[wanted]
        for provider in self._providers:
            if provider.matches_name is not None and provider.matches_name(wanted):
                return provider
        return None

    def _find_model(self, owner: Provider, model: str) -> TokenRule | None:
        dated = _with_dashed_date(model)
        for name in (model,) if dated == model else (model, dated):
            for seller in (owner.name, *owner.fallbacks):
                found = self._by_name[seller].first_match(name)
                if found is not None:
                    return found if seller == owner.name else _standard_only(found)
        return None


def _standard_only(rule: TokenRule) -> TokenRule:
    """Another seller's standard price stands in; what its tiers would cost here nobody says."""
    if not any(prices.service_tiers for prices in rule.prices):
        return rule
    return replace(rule, prices=tuple(replace(prices, service_tiers={}) for prices in rule.prices))


def _with_dashed_date(model: str) -> str:
    """gpt-5.2-20251211 as gpt-5.2-2025-12-11: gateways write the dates of snapshots both ways."""

    def dashed(found: re.Match[str]) -> str:
        try:
            return f"-{date(int(found[1]), int(found[2]), int(found[3]))}"
        except ValueError:
            return found[0]

    return _COMPACT_DATE.sub(dashed, model)


def parse_catalog(node: Node) -> Catalog:
    """Reads the catalog section of a book document. Raises BookError naming the place."""
    fields = node.fields(frozenset({"source", "providers"}), frozenset())
    entries = fields["providers"].elements()
    providers = tuple(_provider(entry) for entry in entries)
    known = {provider.name for provider in providers}
    for provider, entry in zip(providers, entries, strict=True):
        if unknown := [name for name in provider.fallbacks if name not in known]:
            raise entry.error(f"falls back on {unknown[0]!r}, which is not in the catalog")
    return Catalog(fields["source"].text(), providers)


_Indexed: TypeAlias = tuple[dict[str, int], list[tuple[int, Matcher]]]


def _provider(node: Node) -> Provider:
    fields = node.fields(
        frozenset({"provider", "models"}), frozenset({"named", "makes", "falls_back_on"})
    )
    name = fields["provider"].text()
    rules: list[TokenRule] = []
    index: _Indexed = ({}, [])
    for position, entry in enumerate(fields["models"].elements()):
        rules.append(_model(name, entry, position, index))
    fallbacks = fields["falls_back_on"].elements() if "falls_back_on" in fields else []
    return Provider(
        name=name,
        matches_name=matcher(fields["named"]).whole() if "named" in fields else None,
        matches_model=matcher(fields["makes"]).whole() if "makes" in fields else None,
        fallbacks=tuple(fallback.text() for fallback in fallbacks),
        models=tuple(rules),
        exact=index[0],
        patterns=tuple(index[1]),
    )


def _model(provider: str, node: Node, position: int, index: _Indexed) -> TokenRule:
    fields = node.fields(frozenset({"model", "match", "prices"}), TOKEN_RULE_FIELDS)
    parsed = matcher(fields["match"])
    exact, patterns = index
    for name in parsed.names:
        exact.setdefault(name, position)
    if parsed.pattern is not None:
        patterns.append((position, parsed.pattern))
    return token_rule(f"model:{provider}/{fields['model'].text()}", fields, fields["prices"])
