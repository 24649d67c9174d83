"""What changes from one price book document to another, in plain words. Pure, and exact."""

from __future__ import annotations

from dataclasses import dataclass
from enum import StrEnum
from typing import TYPE_CHECKING, Any, NamedTuple

from core.book_facts import Facts, Series, Subject, Value, subjects
from core.fixed_point import rounded_half_even, scaled

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping
    from datetime import datetime

_DECIMALS = 30  # as many as core.fixed_point reads
_TEXT_MAX = 60
_NO_SERIES = Series((), first_holds_before=False)


class Kind(StrEnum):
    """Whether a fact is there only now, no longer, or with another value."""

    ADDED = "added"
    REMOVED = "removed"
    CHANGED = "changed"


class Difference(NamedTuple):
    """One fact that differs; None where a document does not have it."""

    what: str
    old: Value | None
    new: Value | None

    def __str__(self) -> str:
        if self.old is None or self.new is None:
            return _words(self.what, self.new or self.old or Value(""))
        if self.old.unit != self.new.unit:
            return f"{_words(self.what, self.old)} -> {_words('', self.new)}"
        unit = f" {self.new.unit}" if self.new.unit else ""
        return f"{self.what} {_short(self.old)} -> {_short(self.new)}{unit}{self._percent()}"

    def _percent(self) -> str:
        """How much more or less, to two decimals; nothing where that cannot be said."""
        if self.old is None or self.new is None:
            return ""
        try:
            old, new = scaled(self.old.text, _DECIMALS), scaled(self.new.text, _DECIMALS)
        except ValueError:
            return ""
        if old == 0:
            return ""
        hundredths = rounded_half_even(abs(new - old) * 10_000, old)
        whole, rest = divmod(hundredths, 100)
        figure = f"{whole:,}.{rest:02}".rstrip("0").rstrip(".") if hundredths else "less than 0.01"
        return f" ({'+' if new > old else '-'}{figure} %)"


@dataclass(frozen=True, slots=True)
class Change:
    """Facts of one subject that differ in one place; `str` of it is a line for people."""

    subject: str
    where: str
    kind: Kind
    differences: tuple[Difference, ...]

    @property
    def place(self) -> str:
        """The subject and where in it, such as "openai/gpt-4o, batch, from 2026-12-01"."""
        return f"{self.subject}, {self.where}" if self.where else self.subject

    @property
    def told(self) -> str:
        """The facts in words, without their place."""
        return _joined(self.differences)

    def __str__(self) -> str:
        match self.kind:
            case Kind.ADDED:
                return f"{self.place}: new: {self.told}"
            case Kind.REMOVED:
                return f"{self.place}: no more: {self.told}"
            case Kind.CHANGED:
                return f"{self.place}: {self.told}"


def described(subject: Subject) -> list[str]:
    """All that a document says about a subject, a line for each place."""
    return [f"{each.place}: {each.told}" for each in _changes(Subject(subject.name), subject)]


def differences(old: Mapping[str, Any], new: Mapping[str, Any]) -> list[Change]:
    """Every change from one valid document to the other; empty exactly when they say the same.

    A subject that one of them lacks is all its facts added or removed. The order of a catalog's
    models is part of what it says: the first rule that matches a name wins.
    """
    before, after = subjects(old), subjects(new)
    changes: list[Change] = []
    for key, subject in after.items():
        changes += _changes(before.get(key, Subject(subject.name)), subject)
    for key, subject in before.items():
        if key not in after:
            changes += _changes(subject, Subject(subject.name))
    return changes + list(_reordered(old["catalog"], new["catalog"]))


def _changes(old: Subject, new: Subject) -> Iterator[Change]:
    yield from _compared(new.name, "", old.facts, new.facts)
    for hours in dict.fromkeys([*new.series, *old.series]):
        was, will = old.series.get(hours, _NO_SERIES), new.series.get(hours, _NO_SERIES)
        if was == will:
            continue
        for moment, begins in _starts(was, will):
            place = ", ".join(part for part in (hours, begins) if part)
            yield from _compared(new.name, place, was.at(moment), will.at(moment))


def _starts(old: Series, new: Series) -> list[tuple[datetime | None, str]]:
    """Every moment at which either changes, the time before all of them first, with its words."""
    begins: dict[datetime, str] = {}
    for entry in (*old.entries, *new.entries):
        if entry.start is not None:
            begins[entry.start] = f"from {entry.begins}"
    first: list[tuple[datetime | None, str]] = [(None, "")]
    return first + sorted(begins.items())


def _compared(name: str, place: str, old: Facts, new: Facts) -> Iterator[Change]:
    groups: dict[tuple[str, Kind], list[Difference]] = {}
    for key in dict.fromkeys([*new, *old]):
        was, will = old.get(key), new.get(key)
        where, what = key
        if was is None:
            groups.setdefault((where, Kind.ADDED), []).append(Difference(what, None, will))
        elif will is None:
            groups.setdefault((where, Kind.REMOVED), []).append(Difference(what, was, None))
        elif not _equal(was, will):
            groups.setdefault((where, Kind.CHANGED), []).append(Difference(what, was, will))
    for (where, kind), found in groups.items():
        full = ", ".join(part for part in (where, place) if part)
        yield Change(name, full, kind, tuple(found))


def _equal(old: Value, new: Value) -> bool:
    if old == new:
        return True
    try:
        same = scaled(old.text, _DECIMALS) == scaled(new.text, _DECIMALS)
    except ValueError:
        return False
    return same and old.unit == new.unit


def _reordered(old: Mapping[str, Any], new: Mapping[str, Any]) -> Iterator[Change]:
    before = {section["provider"]: section for section in old["providers"]}
    moved = Difference("its models are tried in another order", None, Value(""))
    for section in new["providers"]:
        was = before.get(section["provider"])
        if was is not None and not _same_order(was["models"], section["models"], "model"):
            yield Change(f"provider {section['provider']}", "", Kind.CHANGED, (moved,))
    if not _same_order(old["providers"], new["providers"], "provider"):
        moved = Difference("its providers are tried in another order", None, Value(""))
        yield Change("catalog", "", Kind.CHANGED, (moved,))


def _same_order(old: list[Mapping[str, Any]], new: list[Mapping[str, Any]], key: str) -> bool:
    before, after = [row[key] for row in old], [row[key] for row in new]
    if before == after:
        return True
    kept = set(before) & set(after)
    return [name for name in before if name in kept] == [name for name in after if name in kept]


def _joined(found: tuple[Difference, ...]) -> str:
    """Facts of one unit share it: input 3, output 15 dollars a million tokens."""
    words = []
    for place, difference in enumerate(found):
        text = str(difference)
        value = difference.new or difference.old
        if place + 1 < len(found) and None in {difference.old, difference.new}:
            following = found[place + 1].new or found[place + 1].old
            if value and following and value.unit and value.unit == following.unit:
                text = text.removesuffix(f" {value.unit}")
        words.append(text)
    return ", ".join(words)


def _words(what: str, value: Value) -> str:
    return " ".join(part for part in (what, _short(value), value.unit) if part)


def _short(value: Value) -> str:
    text = value.text
    return text if len(text) <= _TEXT_MAX else f"{text[:_TEXT_MAX]}..."
