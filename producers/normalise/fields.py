"""Reads counts out of one usage object, remembers the first thing that is wrong and what was read.

A count is a whole number; 12.0 is taken as 12, because providers send it so. Null and absent are
the same: not said.
"""

import re
from collections.abc import Iterator, Mapping
from decimal import Decimal
from typing import Any

from producers.normalise.outcome import Refusal, Refused
from schemas.events import TOKENS_MAX

Path = tuple[str, ...]

_DEEPEST = 4
_WORD = re.compile(r"[A-Za-z][A-Za-z0-9_]{0,47}")
# What a name ends with that counts something a provider may bill. Times and rates do not.
_COUNTING = re.compile(
    r"(tokens?|tokencount|counts?|units|requests|queries|seconds|minutes|characters|pages|images"
    r"|searches|calls|sources_used|sessions)$",
    re.IGNORECASE,
)


class Fields:
    """One usage object under reading. `refused` is the first problem, or None."""

    def __init__(self, usage: Mapping[str, Any], within: str = "") -> None:
        self.usage = usage
        self.refused: Refused | None = None
        self._within = within
        self._read: set[Path] = set()

    def refuse(self, reason: Refusal, detail: str) -> None:
        """Notes a problem; the first one stays."""
        if self.refused is None:
            self.refused = Refused(reason, f"{self._within}{detail}"[:300])

    def value(self, *path: str) -> Any:
        """What stands there, None when nothing does. A parent that is no object is a problem."""
        self._read.add(path)
        if len(path) == 1:
            return self.usage.get(path[0])
        node: Any = self.usage
        for depth, name in enumerate(path):
            if node is None:
                return None
            if not isinstance(node, Mapping):
                self.refuse(Refusal.UNREADABLE, f"{_shown(path[:depth])} is not an object")
                return None
            node = node.get(name)
        return node

    def count(self, *path: str) -> int | None:
        """The whole number there; None when it is not said or a problem."""
        found = whole_number(self.value(*path))
        if isinstance(found, str):
            self.refuse(Refusal.NOT_A_COUNT, f"{_shown(path)} {found}")
            return None
        return found

    def objects(self, *names: str) -> tuple[str, ...]:
        """The names under which an object stands; anything else under one of them is a problem."""
        return tuple(name for name in names if self.usage.get(name) is not None and self.sub(name))

    def sub(self, name: str) -> bool:
        """Whether an object stands there; something else is a problem."""
        found = isinstance(self.usage[name], Mapping)
        if not found:
            self.refuse(Refusal.UNREADABLE, f"{_shown((name,))} is not an object")
        return found

    def agreed(self, *paths: Path) -> int | None:
        """The number that several spellings of one thing say; they must not differ."""
        said = {path: number for path in paths if (number := self.count(*path)) is not None}
        if len(set(said.values())) > 1:
            names = " and ".join(_shown(path) for path in said)
            self.refuse(Refusal.CONTRADICTING, f"{names} differ")
        return next(iter(said.values()), None)

    def ignore(self, *paths: Path) -> None:
        """These are known and change nothing."""
        self._read.update(paths)

    def refuse_unread(self) -> None:
        """A problem if something was counted that nobody read: used and not paid."""
        for path, value in _leaves(self.usage, ()):
            known = any(path[:depth] in self._read for depth in range(1, len(path) + 1))
            if not known and _COUNTING.search(path[-1]) and whole_number(value) != 0:
                self.refuse(Refusal.UNKNOWN_UNITS, f"{_shown(path)} is not known")


def _shown(path: Path) -> str:
    """Where it stands. A name that is no plain word may be anything, so it is not shown."""
    return ".".join(part if _WORD.fullmatch(part) else "?" for part in path)


def whole_number(value: Any) -> int | str | None:
    """The number of a count, None for null, or what is wrong with it."""
    if value is None:
        return None
    if isinstance(value, bool) or not isinstance(value, int | float | Decimal):
        return "is not a number"
    # NaN and infinities compare false.
    if not (0 <= value <= TOKENS_MAX):
        return "is not within 0 and 1000000000"
    if value != int(value):
        return "is not whole"
    return int(value)


def _leaves(node: Any, path: Path) -> Iterator[tuple[Path, Any]]:
    """The numbers in it. Lists are read by whoever knows what is in them."""
    if isinstance(node, int | float | Decimal):
        yield path, node
    elif isinstance(node, Mapping) and len(path) < _DEEPEST:
        for name, inner in node.items():
            yield from _leaves(inner, (*path, str(name)))
