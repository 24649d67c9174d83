"""What a price book document says, as facts about subjects that a person knows by name.

Two documents say the same exactly when their facts are equal: figures are compared as numbers, and
what a document leaves out is the value that rating takes for it.
"""

from __future__ import annotations

import json
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, NamedTuple, TypeAlias

from core.document import Node

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Mapping
    from datetime import datetime

_MTOK = "dollars a million tokens"
_COUNTED = frozenset({"package", "graduated", "volume"})


class Value(NamedTuple):
    """A figure or a text with what it counts; a fact that has no value has an empty text."""

    text: str
    unit: str = ""


# By where it holds (a service tier, a length of the input, a step), and what it is about.
Facts: TypeAlias = dict[tuple[str, str], Value]
_FLAG = Value("")


class Entry(NamedTuple):
    """Facts that hold from a moment on, None for always; `begins` is how the document says it."""

    start: datetime | None
    begins: str
    facts: Facts


@dataclass(frozen=True, slots=True)
class Series:
    """Dated facts in the order of the document; of those that have begun, the last one holds."""

    entries: tuple[Entry, ...]
    first_holds_before: bool

    def at(self, moment: datetime | None) -> Facts:
        """What holds from that moment on, None for before every start."""
        for entry in reversed(self.entries):
            if entry.start is None or (moment is not None and entry.start <= moment):
                return entry.facts
        return self.entries[0].facts if self.first_holds_before else {}


@dataclass(slots=True)
class Subject:
    """One thing that has a price or a multiplier; `series` by the hours of the day they are for."""

    name: str
    facts: Facts = field(default_factory=dict)
    series: dict[str, Series] = field(default_factory=dict)


def subjects(document: Mapping[str, Any]) -> dict[str, Subject]:
    """Every subject of a valid document by a key that is the same in all versions, in its order."""
    found = {}
    for subject in _all(document):
        found[subject.name.lower()] = subject
    return found


def _all(document: Mapping[str, Any]) -> Iterator[Subject]:
    for name, factor in document["power_levels"].items():
        yield Subject(f"power level {name}", {("", "multiplier"): Value(factor)})
    for name, factor in document["tiers"].items():
        yield Subject(f"tier {name}", {("", "multiplier"): Value(factor)})
    yield Subject("own key", {("", "share of the price"): Value(document["own_key_share"])})
    yield from _currencies(document)
    if "flat" in document:
        yield _flat(document["flat"])
    if "billed" in document:
        yield _billed(document["billed"])
    for name, row in document["actions"].items():
        yield Subject(f"action {name}", _credit_facts(f"action:{name}", row, "per_unit"))
    yield from _models(document)


def _currencies(document: Mapping[str, Any]) -> Iterator[Subject]:
    currencies = document.get("currencies")
    if currencies is None:
        currencies = {"USD": [{"credits": document["credits_per_usd"]}]}
    for code, rates in currencies.items():
        entries = [
            _entry(rate, {("", "rate"): Value(rate["credits"], "credits")}) for rate in rates
        ]
        yield Subject(
            f"currency {code}", series={"": Series(tuple(entries), first_holds_before=True)}
        )


def _flat(row: Mapping[str, Any]) -> Subject:
    facts: Facts = {("", "one credit"): Value(row["tokens_per_credit"], "tokens")}
    facts |= {("", f"for model {model}"): _FLAG for model in row["models"]}
    return Subject("flat price", facts | _scaled(row, ()))


def _billed(row: Mapping[str, Any]) -> Subject:
    facts: Facts = {("", "markup"): Value(row.get("markup", "1"))}
    facts |= {("", f"of provider {provider}"): _FLAG for provider in row["providers"]}
    return Subject("provider's own bill", facts | _scaled(row, ()))


def _scaled(row: Mapping[str, Any], default: Iterable[str]) -> Facts:
    return {("", f"multiplied by {name}"): _FLAG for name in row.get("multipliers", default)}


def _credit_facts(rule: str, row: Mapping[str, Any], usual: str) -> Facts:
    """A row in credits: an action, or a model under a counted charge model."""
    charge = row.get("charge", usual)
    unit = row.get("unit", "tokens" if rule.startswith("model:") else "units")
    each = _each(row.get("per", "1"), row.get("unit", ""), unit)
    facts: Facts = {("", "charge"): Value(charge), **_scaled(row, ())}
    if charge in _COUNTED:
        facts["", "counter"] = Value(row.get("counter", rule))
    if row.get("free"):
        facts["", "free"] = _FLAG
    if charge == "package":
        package = f"credits per package of {_grouped(row['size'])} {unit}"
        facts["", "price"] = Value(row["credits"], package)
        facts["", "free in a month"] = Value(row.get("free_units", "0"), unit)
    elif "steps" in row:
        below = "0"
        for step in row["steps"]:
            top = step.get("up_to")
            where = f"above {_grouped(below)} {unit}" + (f" up to {_grouped(top)}" if top else "")
            facts[where, "price"] = Value(step["credits"], each)
            facts[where, "fee"] = Value(step.get("fee", "0"), "credits")
            below = top or below
    else:
        facts["", "price"] = Value(row["credits"], each)
    return facts


def _each(per: str, named: str, unit: str) -> str:
    if int(per) != 1:
        return f"credits per {_grouped(per)} {unit}"
    return f"credits each ({named})" if named else "credits each"


def _models(document: Mapping[str, Any]) -> Iterator[Subject]:
    own = {name.lower(): (name, row) for name, row in document["models"].items()}
    catalog = document["catalog"]
    yield Subject("catalog", {("", "source"): Value(catalog["source"])})
    for provider in catalog["providers"]:
        yield _provider(provider)
        for listed in provider["models"]:
            name, row = f"{provider['provider']}/{listed['model']}", listed
            if name.lower() in own:
                name, row = own.pop(name.lower())
            subject = _model(name, row)
            subject.facts["", "matching rule"] = Value(json.dumps(listed["match"]))
            yield subject
    for name, row in own.values():
        yield _model(name, row)


def _provider(section: Mapping[str, Any]) -> Subject:
    facts: Facts = {
        ("", words): Value(json.dumps(section[key]))
        for key, words in (("named", "names"), ("makes", "makes"))
        if key in section
    }
    if section.get("falls_back_on"):
        facts["", "falls back on"] = Value(", ".join(section["falls_back_on"]))
    return Subject(f"provider {section['provider']}", facts)


def _model(name: str, row: Mapping[str, Any]) -> Subject:
    aliases: Facts = {("", f"alias {alias}"): _FLAG for alias in row.get("aliases", ())}
    if "prices" not in row:
        return Subject(name, _credit_facts(f"model:{name}", row, "package") | aliases)
    facts = _scaled(row, ("power_level", "tier")) | aliases
    if row.get("free"):
        facts["", "free"] = _FLAG
    hours: dict[str, list[Entry]] = {}
    for entry in row["prices"]:
        between = entry.get("between")
        key = f"from {between[0]} to {between[1]} UTC" if between else ""
        hours.setdefault(key, []).append(_entry(entry, _token_facts(entry)))
    series = {key: Series(tuple(entries), not key) for key, entries in hours.items()}
    return Subject(name, facts, series)


def _entry(row: Mapping[str, Any], facts: Facts) -> Entry:
    begins = row.get("from", "")
    return Entry(Node(begins).instant() if begins else None, begins, facts)


def _token_facts(prices: Mapping[str, Any], tier: str = "") -> Facts:
    facts: Facts = {}
    for kind, price in prices.get("usd_per_mtok", {}).items():
        facts[tier, kind] = Value(price, _MTOK)
    if "usd_per_request" in prices:
        facts[tier, "request"] = Value(prices["usd_per_request"], "dollars each")
    for kind in prices.get("cached_apart", ()):
        facts[tier, f"cached {kind} has a price of its own"] = _FLAG
    for band in prices.get("above_input_tokens", ()):
        where = f"{tier}, " if tier else ""
        where += f"above {_grouped(band['tokens'])} input tokens"
        for kind, price in band["usd_per_mtok"].items():
            facts[where, kind] = Value(price, _MTOK)
    for name, section in prices.get("service_tiers", {}).items():
        facts |= _token_facts(section, name)
    return facts


def _grouped(number: str | int) -> str:
    return f"{int(number):,}"
