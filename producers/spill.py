"""The spill: usage events on disk while Kafka is away, delivered in order when it is back.

A directory holds one subdirectory per client, guarded by a file lock, so that processes can share
the directory. A client that starts adopts the subdirectories of clients that are gone. Segments
are JSON lines, one event each; a last line without its end was torn by a crash and never counted.
"""

import fcntl
import json
import os
import shutil
import uuid
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from producers.buffer import Record

SEGMENT_BYTES_MAX: Final = 2 * 1024 * 1024
_LOCK = "lock"


@dataclass(slots=True)
class Segment:
    """One file of spilled events."""

    path: Path
    events: int
    bytes: int

    def records(self) -> list[Record]:
        """The events in order; a torn last line and lines that are no event are left out."""
        whole = self.path.read_bytes().split(b"\n")[:-1]
        return [record for line in whole if (record := _record(line)) is not None]


class Spill:
    """Events on disk, at most `bytes_max` bytes; used by one thread."""

    def __init__(self, directory: Path, bytes_max: int) -> None:
        self._home = directory / uuid.uuid4().hex
        self._bytes_max = bytes_max
        self._segments: list[Segment] = []
        self._locks: list[tuple[int, Path]] = []
        self._sequence = 0
        self._file: int | None = None
        directory.mkdir(parents=True, exist_ok=True)
        for orphan in sorted(directory.iterdir(), key=_age):
            if orphan.is_dir() and not orphan.name.startswith(".") and self._lock(orphan):
                self._adopt(orphan)

    @property
    def events(self) -> int:
        """Events on disk that are not removed yet."""
        return sum(segment.events for segment in self._segments)

    def append(self, records: Sequence[Record]) -> int:
        """Writes records durably, in order; says how many from the front are safe on disk now.

        Fewer than given when the spill is full. Raises OSError when the disk refuses; then none is.
        """
        room = self._room()
        lines: list[bytes] = []
        size = 0
        for _, value in records:
            if size + len(value) + 1 > room:
                break
            lines.append(value + b"\n")
            size += len(value) + 1
        if lines:
            self._write(b"".join(lines), len(lines))
        return len(lines)

    def fits(self, records: Sequence[Record]) -> bool:
        """True when all of them would be stored."""
        needed = sum(len(value) + 1 for _, value in records)
        return needed <= self._room()

    def _room(self) -> int:
        return self._bytes_max - sum(segment.bytes for segment in self._segments)

    def oldest(self) -> Segment | None:
        """The segment to deliver next; it takes no more events from now on."""
        if not self._segments:
            return None
        if len(self._segments) == 1:
            self._seal()
        return self._segments[0]

    def remove(self, segment: Segment) -> None:
        """Forgets a delivered segment, on disk too."""
        self._segments.remove(segment)
        segment.path.unlink(missing_ok=True)

    def close(self) -> None:
        """Gives the locks back; a subdirectory without events is removed."""
        self._seal()
        held = {segment.path.parent for segment in self._segments}
        for lock, home in self._locks:
            if home not in held:
                shutil.rmtree(home, ignore_errors=True)
            os.close(lock)
        self._locks.clear()

    def forget(self) -> None:
        """Lets go of the files without touching them: for a forked child, they are the parent's."""
        self._seal()
        for lock, _ in self._locks:
            os.close(lock)
        self._locks.clear()
        self._segments.clear()

    def _write(self, chunk: bytes, events: int) -> None:
        segment, file = self._open_segment()
        try:
            _write_all(file, chunk)
            os.fsync(file)
        except OSError:
            self._abandon_tail(segment, file)
            raise
        segment.events += events
        segment.bytes += len(chunk)

    def _open_segment(self) -> tuple[Segment, int]:
        if self._file is not None and self._segments[-1].bytes < SEGMENT_BYTES_MAX:
            return self._segments[-1], self._file
        self._seal()
        if not self._home.exists():
            self._settle_in()
        self._sequence += 1
        segment = Segment(self._home / f"{self._sequence:08d}.jsonl", 0, 0)
        self._file = os.open(segment.path, os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o600)
        for directory in (self._home, self._home.parent):
            _sync_directory(directory)
        self._segments.append(segment)
        return segment, self._file

    def _settle_in(self) -> None:
        # Locked before it has its name: no other client can take it for an orphan.
        unnamed = self._home.with_name("." + self._home.name)
        unnamed.mkdir()
        self._lock(unnamed)
        unnamed.rename(self._home)
        self._locks[-1] = (self._locks[-1][0], self._home)

    def _abandon_tail(self, segment: Segment, file: int) -> None:
        # What the failed write left behind must not become half an event before the next one.
        os.ftruncate(file, segment.bytes)
        self._seal()
        if not segment.events:
            self.remove(segment)

    def _seal(self) -> None:
        if self._file is not None:
            os.close(self._file)
            self._file = None

    def _lock(self, home: Path) -> bool:
        lock = os.open(home / _LOCK, os.O_RDWR | os.O_CREAT, 0o600)
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError:
            os.close(lock)
            return False
        self._locks.append((lock, home))
        return True

    def _adopt(self, home: Path) -> None:
        for path in sorted(home.glob("*.jsonl")):
            segment = Segment(path, 0, path.stat().st_size)
            segment.events = len(segment.records())
            if segment.events:
                self._segments.append(segment)


def _record(line: bytes) -> Record | None:
    try:
        return json.loads(line)["subject"].encode(), line
    except (ValueError, KeyError, TypeError, AttributeError):
        return None  # the disk changed it: nothing that could still be charged


def _age(path: Path) -> float:
    try:
        return path.stat().st_mtime
    except FileNotFoundError:  # its client removed it meanwhile
        return 0.0


def _write_all(file: int, chunk: bytes) -> None:
    view = memoryview(chunk)
    while view:
        view = view[os.write(file, view) :]


def _sync_directory(directory: Path) -> None:
    handle = os.open(directory, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)
