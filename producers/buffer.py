"""The bounded buffer between the caller's threads and the delivery thread."""

import threading
from collections import deque
from collections.abc import Sequence

Record = tuple[bytes, bytes]
"""Key and value of one Kafka record."""


class Buffer:
    """First in, first out, at most `capacity` records; a full buffer refuses, it never waits."""

    def __init__(self, capacity: int) -> None:
        self._capacity = capacity
        self._records: deque[Record] = deque()
        self._lock = threading.Lock()
        self.closed = False

    def close(self) -> None:
        """Refuses everything from now on; what is inside can still be taken."""
        with self._lock:
            self.closed = True

    def put(self, record: Record) -> bool:
        """Takes the record over, or says False at once.

        Wakes nobody: that would cost the caller a system call and a fight for the interpreter
        lock, several times the price of the rest. The reader looks by itself.
        """
        with self._lock:
            if self.closed or len(self._records) >= self._capacity:
                return False
            self._records.append(record)
            return True

    def take(self, records_max: int) -> list[Record]:
        """Removes and returns the oldest records."""
        with self._lock:
            count = min(records_max, len(self._records))
            return [self._records.popleft() for _ in range(count)]

    def put_back(self, records: Sequence[Record]) -> None:
        """Returns records that were taken to the front, beyond the capacity if need be."""
        with self._lock:
            self._records.extendleft(reversed(records))

    @property
    def half_full(self) -> bool:
        """True when what arrives is not sent as fast."""
        return 2 * len(self._records) > self._capacity

    def __len__(self) -> int:
        return len(self._records)
