"""How every command prints: JSON for programs, tables for people, progress only where it helps.

Results go to stdout, remarks and progress to stderr. Text from outside is printed without control
characters, so that an event cannot write to a terminal.
"""

import json
import re
import sys
import time
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from datetime import datetime
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from rich.progress import Progress, TaskID

MICRO = 1_000_000
PROGRESS_AFTER_SECONDS = 2.0
_WIDTH_OFF_TERMINAL = 160
_NUMBER = re.compile(r"-|-?[\d,]+(\.\d+)?")


def one_line(text: object) -> str:
    """The text on one line with every control character replaced by a space."""
    return "".join(char if char.isprintable() else " " for char in str(text))


def credits_text(amount_micro: int) -> str:
    """An amount in credits with six decimals and thousands separated; exact, no float."""
    sign = "-" if amount_micro < 0 else ""
    whole, micro = divmod(abs(amount_micro), MICRO)
    return f"{sign}{whole:,}.{micro:06d}"


def time_text(when: datetime | None) -> str:
    """A time in UTC to the second, or a dash."""
    return "-" if when is None else when.strftime("%Y-%m-%d %H:%M:%S")


def say(line: str) -> None:
    """One line of a result on stdout."""
    print(one_line(line))  # noqa: T201 - this module is where printing is allowed


def remark(line: str) -> None:
    """One line on stderr: a warning, or what is being done."""
    print(one_line(line), file=sys.stderr)  # noqa: T201


def print_json(value: object) -> None:
    """The value as one JSON document on stdout; times as ISO 8601, bytes as hexadecimal."""
    print(json.dumps(value, indent=2, default=_plain, ensure_ascii=True))  # noqa: T201


def print_json_rows(head: Mapping[str, object], name: str, rows: Iterable[object]) -> None:
    """The head with one more member, a list of the rows, as one JSON document on stdout.

    A row is printed as it comes, on a line of its own, so that a long report needs no memory.
    """
    opened = json.dumps(head, indent=2, default=_plain, ensure_ascii=True).removesuffix("\n}")
    print(f"{opened},\n  {json.dumps(name)}: [", end="")  # noqa: T201
    separator = "\n    "
    for row in rows:
        print(separator, json.dumps(row, default=_plain, ensure_ascii=True), sep="", end="")  # noqa: T201
        separator = ",\n    "
    print("\n  ]\n}")  # noqa: T201


def _plain(value: object) -> str:
    if isinstance(value, datetime):
        return value.isoformat()
    if isinstance(value, bytes | memoryview):
        return bytes(value).hex()
    return str(value)


def print_table(
    columns: Sequence[str], rows: Iterable[Sequence[object]], *, title: str | None = None
) -> None:
    """A table on stdout; numbers to the right. Without a row, the header alone."""
    from rich import box
    from rich.console import Console
    from rich.table import Table
    from rich.text import Text

    cells = [[_cell(value) for value in row] for row in rows]
    table = Table(title=title, title_justify="left", box=box.SIMPLE_HEAD, pad_edge=False)
    for place, column in enumerate(columns):
        numeric = bool(cells) and all(_NUMBER.fullmatch(row[place]) for row in cells)
        table.add_column(column, justify="right" if numeric else "left", overflow="fold")
    for row in cells:
        table.add_row(*(Text(cell) for cell in row))
    on_terminal = sys.stdout.isatty()
    Console(width=None if on_terminal else _WIDTH_OFF_TERMINAL).print(table)


def _cell(value: object) -> str:
    match value:
        case None:
            return "-"
        case bool():
            return "yes" if value else "no"
        case int():
            return f"{value:,}"
        case datetime():
            return time_text(value)
        case _:
            return one_line(value)


class Steps:
    """The progress of one long piece of work, in records, rows or bytes."""

    def __init__(self, label: str, total: int | None) -> None:
        self._label = label
        self._total = total
        self._done = 0
        self._started = time.monotonic()
        self._bar: Progress | None = None
        self._task: TaskID | None = None

    def advance(self, steps: int = 1) -> None:
        """Counts finished steps; the bar appears when the work takes longer than two seconds."""
        self._done += steps
        if not sys.stderr.isatty():
            return
        if self._bar is None:
            if time.monotonic() - self._started < PROGRESS_AFTER_SECONDS:
                return
            self._show()
        if self._bar is not None and self._task is not None:
            self._bar.update(self._task, completed=self._done)

    def _show(self) -> None:
        from rich.console import Console
        from rich.progress import BarColumn, MofNCompleteColumn, Progress, TimeRemainingColumn

        self._bar = Progress(
            "{task.description}",
            BarColumn(),
            MofNCompleteColumn(),
            TimeRemainingColumn(),
            console=Console(stderr=True),
            transient=True,
        )
        self._bar.start()
        self._task = self._bar.add_task(self._label, total=self._total, completed=self._done)

    def close(self) -> None:
        """Takes the bar off the terminal."""
        if self._bar is not None:
            self._bar.stop()


@contextmanager
def progress(label: str, total: int | None = None) -> Iterator[Steps]:
    """Progress on stderr while the block runs: only on a terminal, only when it takes long."""
    steps = Steps(label, total)
    try:
        yield steps
    finally:
        steps.close()
