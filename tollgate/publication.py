"""One run of `tollgate publish`: read a file, make its events, send them, count what was sent."""

import asyncio
import shutil
import sys
import tempfile
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime, timedelta
from pathlib import Path

from adapters.failures import Failure
from adapters.settings import load_settings
from producers.connection import RawRecord
from producers.trace_events import Attribution, EventMaker, Refused, time_range
from producers.trace_rows import Format, UnreadableError, read_rows
from schemas.events import UsageEvent, encode
from tollgate.publishing import send_all

_PROBLEMS_KEPT = 5
# A known trace names no accounts or models, or few: attributed alike unless options say more.
_TRACE_ACCOUNTS = 500
_TRACE_MODELS = 20


@dataclass(slots=True)
class Report:
    """What a file held and what became of it. Tokens are sums over the events."""

    file: str
    format: str = ""
    events: int = 0
    refused: int = 0
    published: int = 0
    seconds: float = 0.0
    accounts: int = 0
    input_tokens: int = 0
    output_tokens: int = 0
    first_time: datetime | None = None
    last_time: datetime | None = None
    problems: list[Refused] = field(default_factory=list)


@dataclass(frozen=True, slots=True, kw_only=True)
class Publication:
    """A file and how to publish it; `shift` is empty, last or first, `rate` in events a second.

    `wanted` is the format of the file; None: it is recognised.
    """

    file: str
    name: str
    mapping: Mapping[str, str]
    attribution: Attribution
    shift: str
    rate: float
    wanted: Format | None = None

    def run(self, *, dry_run: bool) -> Report:
        """Publishes every good row; the refused ones are counted and the first few named.

        Raises Failure when the file cannot be read as usage, or Kafka does not take it.
        """
        report = Report(file=self.file)
        try:
            with _on_disk(self.file) as path:
                records = self._records(path, report)
                if dry_run:
                    for _ in records:
                        pass
                else:
                    paced = self.rate > 0 or self.shift == "first"
                    sending = send_all(
                        load_settings(), records, paced=paced, label="publishing", total=None
                    )
                    report.published, seconds = asyncio.run(sending)
                    report.seconds = round(seconds, 3)
        except (OSError, UnreadableError) as error:
            raise Failure(f"{self.file}: {error}") from None
        return report

    def _records(self, path: Path, report: Report) -> Iterator[tuple[float, RawRecord]]:
        # What is wrong with the whole file shows here, before anything is sent.
        found, rows = read_rows(path, self.mapping, self.wanted)
        report.format = found.value
        now = datetime.now(UTC)
        shift = self._shift(path, found, now)
        name = self.name or Path(self.file).name
        maker = EventMaker(name, self._attribution(found), shift=shift, now=now)
        return self._made(maker.events(rows), report, now)

    def _made(
        self, events: Iterator[UsageEvent | Refused], report: Report, now: datetime
    ) -> Iterator[tuple[float, RawRecord]]:
        accounts: set[str] = set()
        for event in events:
            if isinstance(event, Refused):
                _refuse(report, event)
                continue
            _count(report, event)
            accounts.add(event.subject)
            report.accounts = len(accounts)
            due = report.events / self.rate if self.rate else (event.time - now).total_seconds()
            yield due, (event.subject.encode(), encode(event))

    def _shift(self, path: Path, found: Format, now: datetime) -> timedelta:
        wanted = self.shift or ("last" if found is Format.SERVEGEN else "")
        if not wanted:
            return timedelta()
        known = time_range(read_rows(path, self.mapping, self.wanted)[1])
        if known is None:
            return timedelta()
        return now - known[0 if wanted == "first" else 1]

    def _attribution(self, found: Format) -> Attribution:
        wanted = self.attribution
        if found not in {Format.AZURE, Format.SERVEGEN}:
            return wanted
        return replace(
            wanted,
            accounts=wanted.accounts or _TRACE_ACCOUNTS,
            models=wanted.models or _TRACE_MODELS,
        )


def _refuse(report: Report, refused: Refused) -> None:
    report.refused += 1
    if len(report.problems) < _PROBLEMS_KEPT:
        report.problems.append(refused)


def _count(report: Report, event: UsageEvent) -> None:
    report.events += 1
    report.input_tokens += event.data.tokens.input
    report.output_tokens += event.data.tokens.output
    if report.first_time is None or event.time < report.first_time:
        report.first_time = event.time
    if report.last_time is None or event.time > report.last_time:
        report.last_time = event.time


@contextmanager
def _on_disk(file: str) -> Iterator[Path]:
    """The file as one that can be read twice: moving times needs the last one first."""
    if file != "-":
        yield Path(file)
        return
    with tempfile.NamedTemporaryFile(suffix=".usage") as copy:
        shutil.copyfileobj(sys.stdin.buffer, copy)
        copy.flush()
        yield Path(copy.name)
