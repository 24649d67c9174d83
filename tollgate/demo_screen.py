"""The demo's live picture: how far the events are on their way, while they run."""

from types import TracebackType
from typing import Self, TextIO

from rich.console import Console
from rich.live import Live
from rich.table import Table

from tollgate.demo_figures import Progress

LINE_SECONDS = 2.0
BAR_WIDTH = 40


class Screen:
    """Three bars on a terminal; elsewhere one line every two seconds."""

    def __init__(self, command: str, stream: TextIO) -> None:
        self._command = command
        self._console = Console(file=stream)
        self._live = Live(console=self._console, transient=False, refresh_per_second=8)
        self._told_seconds = 0.0
        self._seconds = 0.0
        self._applied = 0

    def __enter__(self) -> Self:
        self._console.print(f"$ {self._command}", style="bold", highlight=False)
        if self._console.is_terminal:
            self._live.start()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        if self._console.is_terminal:
            self._live.stop()

    def show(self, progress: Progress, seconds: float) -> None:
        """Takes in the progress of this moment."""
        rate = 0.0
        if seconds > self._seconds:
            rate = (progress.applied - self._applied) / (seconds - self._seconds)
        self._seconds, self._applied = seconds, progress.applied
        if self._console.is_terminal:
            self._live.update(_bars(progress, rate, seconds))
        elif seconds - self._told_seconds >= LINE_SECONDS:
            self._told_seconds = seconds
            self._console.print(
                f"{seconds:6.1f} s  published {progress.published:>9,}  "
                f"in balances {progress.applied:>9,}  in ClickHouse {progress.copied:>9,}",
                highlight=False,
            )


def _bars(progress: Progress, rate: float, seconds: float) -> Table:
    table = Table.grid(padding=(0, 2))
    for label, count, colour in (
        ("published to Kafka", progress.published, "cyan"),
        ("charged to balances", progress.applied, "green"),
        ("readable in ClickHouse", progress.copied, "yellow"),
    ):
        filled = round(BAR_WIDTH * count / max(1, progress.published))
        bar = f"[{colour}]{'━' * filled}[/][dim]{'━' * (BAR_WIDTH - filled)}[/]"
        table.add_row(label, bar, f"{count:,}")
    table.add_row("", f"[dim]{rate:,.0f} events/s now, {seconds:.1f} s[/]", "")
    return table
