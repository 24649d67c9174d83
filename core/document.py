"""Reading a price book document so that every complaint names the place it is about."""

from __future__ import annotations

import re
from datetime import UTC, date, datetime, time
from typing import TYPE_CHECKING

from core.fixed_point import scaled

if TYPE_CHECKING:
    from collections.abc import Iterator


_CLOCK = r"\d\d:\d\d(:\d\d(\.\d{1,6})?)?(Z|[+-]\d\d:\d\d)?"
_HOUR = re.compile(_CLOCK, re.ASCII)
_MOMENT = re.compile(rf"\d{{4}}-\d\d-\d\d(T{_CLOCK})?", re.ASCII)


class BookError(ValueError):
    """A price book document that cannot be used; the message starts with the place at fault.

    `path` is that place as keys and positions from the root, so that a reader of a file can say
    which line it is on.
    """

    def __init__(self, message: str, path: tuple[str | int, ...] = ()) -> None:
        super().__init__(message)
        self.path = path


class Node:
    """One value of a document and where it stands.

    Every method returns the value as the wanted type or raises BookError naming the place.
    """

    __slots__ = ("_key", "_parent", "_value")

    def __init__(self, value: object, parent: Node | None = None, key: str | int = "book") -> None:
        self._value = value
        self._parent = parent
        self._key = key

    @property
    def place(self) -> str:
        """Where this value stands, such as book.actions.scheduled_task.credits."""
        if self._parent is None:
            return str(self._key)
        if isinstance(self._key, int):
            return f"{self._parent.place}[{self._key}]"
        return f"{self._parent.place}.{self._key}"

    @property
    def path(self) -> tuple[str | int, ...]:
        """The keys and positions that lead here from the root, which has none."""
        return () if self._parent is None else (*self._parent.path, self._key)

    def error(self, complaint: str) -> BookError:
        """The complaint with its place in front, to be raised."""
        return BookError(f"{self.place}: {complaint}", self.path)

    def items(self) -> Iterator[tuple[str, Node]]:
        """Every entry of a mapping with text keys, in the document's order."""
        value = self._value
        if not isinstance(value, dict):
            raise self.error("expected a mapping")
        for key, entry in value.items():
            if not isinstance(key, str) or not key:
                raise self.error(f"the key {key!r} is not a text")
            yield key, Node(entry, self, key)

    def fields(self, required: frozenset[str], optional: frozenset[str]) -> dict[str, Node]:
        """The entries of a mapping whose keys are a closed set."""
        found = dict(self.items())
        if missing := sorted(required - found.keys()):
            raise self.error(f"is missing {', '.join(missing)}")
        if unknown := sorted(found.keys() - required - optional):
            raise self.error(f"does not know {', '.join(unknown)}")
        return found

    def elements(self) -> list[Node]:
        """Every element of a list."""
        value = self._value
        if not isinstance(value, list):
            raise self.error("expected a list")
        return [Node(element, self, position) for position, element in enumerate(value)]

    def text(self) -> str:
        """A text that is not empty."""
        value = self._value
        if not isinstance(value, str) or not value:
            raise self.error("expected a text that is not empty")
        return value

    def flag(self) -> bool:
        """True or false."""
        value = self._value
        if not isinstance(value, bool):
            raise self.error("expected true or false")
        return value

    def whole(self) -> int:
        """An integer of at least zero."""
        value = self._value
        if not isinstance(value, int) or isinstance(value, bool) or value < 0:
            raise self.error("expected a whole number of at least 0")
        return value

    def scaled(self, decimals: int) -> int:
        """A decimal, written as text so that nothing is lost, as an integer of 10**-decimals."""
        value = self._value
        if not isinstance(value, str):
            raise self.error("expected a decimal in quotes")
        try:
            return scaled(value, decimals)
        except ValueError as error:
            raise self.error(str(error)) from None

    def instant(self) -> datetime:
        """A date (its start in UTC) or a time with its zone."""
        text = self.text()
        try:
            when = datetime.fromisoformat(text) if _MOMENT.fullmatch(text) else None
        except ValueError:
            when = None
        if when is None:
            raise self.error(f"{text!r} is not a date or time such as 2026-12-01")
        if when.tzinfo is not None:
            return when.astimezone(UTC)
        if len(text) == len(date.min.isoformat()):
            return when.replace(tzinfo=UTC)
        raise self.error(f"{text!r} has no time zone")

    def time_of_day(self) -> time:
        """A time of the day in UTC, such as 16:30."""
        text = self.text()
        try:
            value = time.fromisoformat(text) if _HOUR.fullmatch(text) else None
        except ValueError:
            value = None
        if value is None:
            raise self.error(f"{text!r} is not a time of the day such as 16:30")
        if value.tzinfo is not None:
            raise self.error(f"{text!r} must be in UTC, without a zone")
        return value
