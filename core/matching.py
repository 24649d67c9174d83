"""Matching rules for names, as genai-prices writes them: equals, contains, regex, or, and ..."""

from __future__ import annotations

import re
from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING, TypeAlias

if TYPE_CHECKING:
    from core.document import Node

Matcher: TypeAlias = Callable[[str], bool]


@dataclass(frozen=True, slots=True)
class Match:
    """A rule taken apart: the names it equals, for a dictionary, and a test for all the rest."""

    names: tuple[str, ...]
    pattern: Matcher | None

    def whole(self) -> Matcher:
        """One test of a lower-case name."""
        names, pattern = frozenset(self.names), self.pattern
        if pattern is None:
            return names.__contains__
        return lambda name: name in names or pattern(name)


def matcher(node: Node) -> Match:
    """Reads a rule such as {"starts_with": "gpt-"}. It is applied to lower-case names.

    Raises:
        BookError: the rule is not one of the known kinds, or its expression does not compile.
    """
    rules = list(node.items())
    if len(rules) != 1:
        raise node.error("expected exactly one matching rule")
    kind, value = rules[0]
    if kind == "or":
        return _any_of([matcher(part) for part in value.elements()])
    if kind == "and":
        return Match((), _all_of([matcher(part).whole() for part in value.elements()]))
    if kind == "equals":
        return Match((value.text().lower(),), None)
    if kind not in _TESTS:
        raise value.error("is not a matching rule")
    return Match((), _TESTS[kind](value))


def _any_of(parts: list[Match]) -> Match:
    names = tuple(name for part in parts for name in part.names)
    patterns = [part.pattern for part in parts if part.pattern is not None]
    if not patterns:
        return Match(names, None)
    if len(patterns) == 1:
        return Match(names, patterns[0])
    return Match(names, lambda name: any(pattern(name) for pattern in patterns))


def _all_of(parts: list[Matcher]) -> Matcher:
    return lambda name: all(part(name) for part in parts)


def _expression(node: Node) -> Matcher:
    try:
        compiled = re.compile(node.text())
    except re.error as error:
        raise node.error(f"is not a regular expression: {error}") from None
    return lambda name: compiled.search(name) is not None


def _contains(node: Node) -> Matcher:
    wanted = node.text().lower()
    return lambda name: wanted in name


def _starts_with(node: Node) -> Matcher:
    wanted = node.text().lower()
    return lambda name: name.startswith(wanted)


def _ends_with(node: Node) -> Matcher:
    wanted = node.text().lower()
    return lambda name: name.endswith(wanted)


_TESTS = {
    "contains": _contains,
    "starts_with": _starts_with,
    "ends_with": _ends_with,
    "regex": _expression,
}
