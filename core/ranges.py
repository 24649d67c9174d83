"""Which slice of the ledger goes to ClickHouse next, and the name under which it goes there."""

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime
from enum import StrEnum


class Stream(StrEnum):
    """A part of the ledger that is copied by itself."""

    CHARGE = "charge"
    CREDIT = "credit"
    CORRECTION = "correction"


@dataclass(frozen=True, slots=True)
class Extent:
    """What one partition has committed and not shipped: next_offset up to end_offset, exclusive."""

    epoch: int
    partition: int
    next_offset: int
    end_offset: int

    @property
    def offsets(self) -> int:
        """How many offsets wait; at most as many charges do."""
        return self.end_offset - self.next_offset


@dataclass(frozen=True, slots=True)
class Month:
    """What one month (UTC) of a range holds. The same range gives equal months at every reading."""

    start: datetime
    rows: int
    sum_micro: int
    content: int


def next_slice(extents: Sequence[Extent], rows_max: int) -> list[Extent]:
    """The extents to ship now: of the oldest epoch alone, at most `rows_max` offsets in all.

    Spread evenly, so that no partition waits for a longer one; what a short partition does not need
    goes to the others. Empty when nothing waits. In order of the partition.
    """
    waiting = [extent for extent in extents if extent.offsets > 0]
    epoch = min((extent.epoch for extent in waiting), default=0)
    by_length = sorted(
        (extent for extent in waiting if extent.epoch == epoch),
        key=lambda extent: (extent.offsets, extent.partition),
    )
    slices = []
    left = rows_max
    for place, extent in enumerate(by_length):
        share = min(extent.offsets, left // (len(by_length) - place))
        left -= share
        if share > 0:
            end = extent.next_offset + share
            slices.append(Extent(epoch, extent.partition, extent.next_offset, end))
    return sorted(slices, key=lambda extent: extent.partition)


def token(stream: Stream, generation: int, range_id: int, month: Month) -> str:
    """The identity of one insert. Equal for every repetition, different for everything else.

    The content is part of it: after PostgreSQL was restored from a backup a range's number can come
    again with other rows, and ClickHouse drops a known token without looking at the rows.
    """
    content = month.content & 0xFFFF_FFFF_FFFF_FFFF
    return (
        f"{stream}:{generation}:{range_id}:{month.start:%Y-%m}:"
        f"{month.rows}:{month.sum_micro}:{content:016x}"
    )
