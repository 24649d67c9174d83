"""What a replay has done so far, and the file that keeps it, so that it can go on after a crash."""

import json
import os
from collections import Counter
from dataclasses import dataclass, field
from pathlib import Path

from pydantic import TypeAdapter, ValidationError

from adapters.failures import Failure
from adapters.replay_log import Gap, Stretch
from adapters.replay_proof import Proof
from core.replaying import Standing


@dataclass(slots=True)
class Tally:
    """Records read, by standing, and what was sent of them.

    `held_back` counts those that would have been sent but would be too old now, `repeated` further
    copies of one event in one chunk. `missing` is by partition: offsets without a record, and the
    first and last stretch of them.
    """

    read: int = 0
    standings: dict[str, int] = field(default_factory=dict)
    unreadable: dict[str, int] = field(default_factory=dict)
    to_send: int = 0
    sent: int = 0
    held_back: int = 0
    repeated: int = 0
    missing: dict[int, tuple[int, int, int]] = field(default_factory=dict)

    def saw(self, standing: Standing, count: int = 1) -> None:
        """Counts records of one standing."""
        self.read += count
        self.standings[standing.value] = self.standings.get(standing.value, 0) + count

    def could_not_read(self, reasons: Counter[str]) -> None:
        """Counts why records could not be read."""
        self.unreadable = dict(Counter(self.unreadable) + reasons)

    def gap(self, gap: Gap) -> None:
        """Counts offsets without a record."""
        count, first, _ = self.missing.get(gap.partition, (0, gap.from_offset, 0))
        size = gap.to_offset - gap.from_offset
        self.missing[gap.partition] = (count + size, first, gap.to_offset - 1)


@dataclass(slots=True)
class State:
    """One replay: what was asked, the stretches with where they stand, and the counts."""

    asked: dict[str, str]
    stretches: list[Stretch]
    tally: Tally = field(default_factory=Tally)
    proof: Proof | None = None
    resumed: bool = False

    @property
    def left(self) -> int:
        """Offsets that are still to be read."""
        return sum(stretch.left for stretch in self.stretches)

    def stands_at(self) -> str:
        """Where each partition would go on, for people."""
        return ", ".join(f"{s.partition}: {s.next_offset}" for s in self.stretches)


_adapter = TypeAdapter(State)


def load_state(path: Path, asked: dict[str, str]) -> State | None:
    """What the file keeps of an earlier run of the same command; None when there is no file.

    Raises Failure when the file is of another command, or is no state.
    """
    try:
        state = _adapter.validate_json(path.read_bytes())
    except FileNotFoundError:
        return None
    except (OSError, ValidationError):
        raise Failure(f"{path} is no state of a replay: name another file") from None
    if state.asked != asked:
        differing = sorted(
            name for name in state.asked | asked if state.asked.get(name) != asked.get(name)
        )
        raise Failure(
            f"{path} keeps a replay with another {', '.join(differing)}: name another file, or "
            "delete it to begin anew"
        )
    state.resumed = True
    return state


def save_state(path: Path, state: State) -> None:
    """Replaces the file whole: a crash leaves the state before or the state after."""
    beside = path.with_name(path.name + ".new")
    try:
        with beside.open("wb") as file:
            file.write(json.dumps(_adapter.dump_python(state, mode="json"), indent=1).encode())
            file.flush()
            os.fsync(file.fileno())
        beside.replace(path)
    except OSError as error:
        raise Failure(f"{path} can not be written: {error}") from None
