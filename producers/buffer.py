"""The bounded buffer between the caller's threads and the delivery thread."""

import threading
from collections import deque
from collections.abc import Callable, Sequence

Record = tuple[bytes, bytes]
"""Key and value of one Kafka record."""


class Buffer:
    """First in, first out, at most `capacity` records; a full buffer refuses, it never waits."""

    def __init__(self, capacity: int) -> None:
        self._capacity = capacity
        self._records: deque[Record] = deque()
        self._lock = threading.Lock()
        self._wake: Callable[[], None] | None = None
        self.closed = False

    def close(self) -> None:
        """Refuses everything from now on; what is inside can still be taken."""
        with self._lock:
            self.closed = True

    def put(self, record: Record) -> bool:
        """Takes the record over, or says False at once. Wakes a waiting reader once."""
        with self._lock:
            if self.closed or len(self._records) >= self._capacity:
                return False
            self._records.append(record)
            wake, self._wake = self._wake, None
        if wake is not None:
            wake()
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

    def wake_on_put(self, wake: Callable[[], None]) -> bool:
        """Calls `wake` once, at the next put; False and no call when there are records already."""
        with self._lock:
            if self._records:
                return False
            self._wake = wake
            return True

    @property
    def half_full(self) -> bool:
        """True when what arrives is not sent as fast."""
        return 2 * len(self._records) > self._capacity

    def __len__(self) -> int:
        return len(self._records)
