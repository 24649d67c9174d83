"""The load generator: a seeded stream of usage records with a known right answer.

The same spec gives the same records, byte for byte, and the same manifest: what a run must end
with, whatever goes wrong on the way.
"""

import json
import random
from collections import Counter
from collections.abc import Iterator
from dataclasses import asdict, dataclass, field
from datetime import UTC, datetime
from typing import Any, Final

from producers.connection import RawRecord
from producers.load_events import EventWriter, Written
from producers.load_poison import KINDS
from producers.load_shapes import (
    SLOT_SECONDS,
    Profile,
    account_weights,
    arrivals,
    rate_levels,
)
from schemas.events import Reason

# Duplicates repeat one of so many latest events: some come at once, some much later.
_REMEMBERED: Final = 4_096
_EPOCH: Final = datetime(1970, 1, 1, tzinfo=UTC)


@dataclass(frozen=True, slots=True)
class LoadSpec:
    """What to generate. Shares are of all records; times run from `start` over `span_seconds`."""

    events: int
    seed: int
    start: datetime
    span_seconds: float
    accounts: int = 500
    models: int = 20
    profile: Profile = Profile.MIXED
    hot_share: float = 0.4
    duplicates: float = 0.0
    changed_timestamps: float = 0.0
    """share of the duplicates whose time is another one"""
    poison: float = 0.0
    work: float = 0.03
    """share of events that are no call to a model"""
    steady: bool = False
    """even traffic over time, for latency measurements; bursts otherwise"""


@dataclass(slots=True)
class Manifest:
    """What was generated so far: unique + duplicates + sum of poison = records.

    Tokens are of the unique events. `poison` counts by the reason each must get.
    """

    records: int = 0
    unique: int = 0
    duplicates: int = 0
    changed_timestamps: int = 0
    poison: Counter[Reason] = field(default_factory=Counter)
    input_tokens: int = 0
    output_tokens: int = 0

    def document(self) -> dict[str, Any]:
        """The manifest as JSON can hold it, reasons sorted."""
        reasons = {reason.value: count for reason, count in sorted(self.poison.items())}
        return {**asdict(self), "poison": reasons}


class Load:
    """One run, for one pass: iterating gives (seconds since start, record), fills the manifest."""

    def __init__(self, spec: LoadSpec) -> None:
        self.spec = spec
        self.manifest = Manifest()
        self._rng = random.Random(spec.seed)  # noqa: S311 - repeatable, not secret
        self._start_micros = (spec.start - _EPOCH) // (_EPOCH.resolution)
        self._writer = EventWriter(
            self._rng,
            run=f"load-{spec.seed:x}",
            accounts=spec.accounts,
            models=spec.models,
            profile=spec.profile,
        )
        self._recent: list[Written] = []
        self._kinds = list(KINDS)
        self._rng.shuffle(self._kinds)

    def __iter__(self) -> Iterator[tuple[float, RawRecord]]:
        """The records in the order of their times."""
        spec, uniform = self.spec, self._rng.random
        bad, bad_or_again = spec.poison, spec.poison + spec.duplicates
        seconds = 0.0
        for number, (due, account) in enumerate(self._arrivals()):
            if uniform() >= 0.04:  # the others share their time with the one before
                seconds = due
            self.manifest.records += 1
            luck = uniform()
            if luck >= bad_or_again or not self._recent:
                yield seconds, self._unique(number, account, seconds)
            elif luck >= bad:
                yield seconds, self._duplicate()
            else:
                yield seconds, self._poison(number, account, seconds)

    def _arrivals(self) -> Iterator[tuple[float, int]]:
        """Event by event: seconds since the start, and the account."""
        spec = self.spec
        slots = max(1, round(spec.span_seconds / SLOT_SECONDS))
        length = spec.span_seconds / slots
        levels = rate_levels(slots, self._rng, steady=spec.steady)
        widths = [level * spec.events / slots for level in levels]
        weights = account_weights(spec.accounts, spec.hot_share)
        source = arrivals(weights, self._rng, steady=spec.steady)
        slot, began = 0, 0.0
        for _ in range(spec.events):
            when, account = next(source)
            while when >= began + widths[slot] and slot < slots - 1:
                began += widths[slot]
                slot += 1
            yield (slot + min(1.0, (when - began) / widths[slot])) * length, account

    def _good(self, number: int, account: int, seconds: float) -> Written:
        micros = self._start_micros + int(seconds * 1_000_000)
        if self._rng.random() < self.spec.work:
            return self._writer.work(number, account, micros)
        return self._writer.call(number, account, micros)

    def _unique(self, number: int, account: int, seconds: float) -> RawRecord:
        good, manifest = self._good(number, account, seconds), self.manifest
        manifest.unique += 1
        manifest.input_tokens += good.input_tokens
        manifest.output_tokens += good.output_tokens
        if len(self._recent) < _REMEMBERED:
            self._recent.append(good)
        else:
            self._recent[number % _REMEMBERED] = good
        return good.key, good.value()

    def _earlier(self) -> Written:
        return self._recent[int(self._rng.random() * len(self._recent))]

    def _duplicate(self) -> RawRecord:
        earlier, manifest = self._earlier(), self.manifest
        manifest.duplicates += 1
        if self._rng.random() >= self.spec.changed_timestamps:
            return earlier.key, earlier.value()
        manifest.changed_timestamps += 1
        return earlier.key, earlier.value(earlier.micros - 1 - int(self._rng.random() * 60_000_000))

    def _poison(self, number: int, account: int, seconds: float) -> RawRecord:
        counts = self.manifest.poison
        kind = self._kinds[sum(counts.values()) % len(self._kinds)]
        counts[kind.reason] += 1
        origin = self._earlier() if kind.of_earlier else self._good(number, account, seconds)
        return kind.make(json.loads(origin.value()))
