"""Laws of the ranges: bounded, contiguous, fair, and named so that a repetition is recognised."""

from dataclasses import replace
from datetime import UTC, datetime

from hypothesis import given
from hypothesis import settings as hypothesis_settings
from hypothesis import strategies as st

from core.ranges import Extent, Month, Stream, next_slice, token

extents = st.lists(
    st.builds(
        lambda epoch, partition, start, length: Extent(epoch, partition, start, start + length),
        st.integers(1, 3),
        st.integers(0, 12),
        st.integers(0, 10**12),
        st.integers(0, 5_000),
    ),
    max_size=12,
    unique_by=lambda extent: (extent.epoch, extent.partition),
)
rows_max = st.integers(1, 10_000)
MONTH = Month(datetime(2026, 11, 1, tzinfo=UTC), rows=3, sum_micro=-5, content=-1)


@given(extents, rows_max)
def test_a_slice_is_the_front_of_what_waits_of_one_epoch(
    waiting: list[Extent], rows_max: int
) -> None:
    chosen = next_slice(waiting, rows_max)
    oldest = min((extent.epoch for extent in waiting if extent.offsets), default=None)
    by_place = {(extent.epoch, extent.partition): extent for extent in waiting}
    for extent in chosen:
        whole = by_place[extent.epoch, extent.partition]
        assert extent.epoch == oldest
        assert extent.next_offset == whole.next_offset
        assert extent.next_offset < extent.end_offset <= whole.end_offset


@given(extents, rows_max)
def test_a_slice_is_as_large_as_it_may_be(waiting: list[Extent], rows_max: int) -> None:
    oldest = min((extent.epoch for extent in waiting if extent.offsets), default=None)
    there = sum(extent.offsets for extent in waiting if extent.epoch == oldest)
    chosen = next_slice(waiting, rows_max)
    assert sum(extent.offsets for extent in chosen) == min(there, rows_max)


@hypothesis_settings(deadline=None)  # up to 60,000 slices, on a machine that does other work
@given(extents, rows_max)
def test_slices_follow_one_another_to_the_end(waiting: list[Extent], rows_max: int) -> None:
    left = {(extent.epoch, extent.partition): extent for extent in waiting}
    rounds = sum(extent.offsets for extent in waiting) // rows_max + len(waiting) + 1
    for _ in range(rounds):
        for done in next_slice(list(left.values()), rows_max):
            whole = left[done.epoch, done.partition]
            left[done.epoch, done.partition] = replace(whole, next_offset=done.end_offset)
    assert all(extent.offsets == 0 for extent in left.values())


def test_no_partition_waits_for_a_longer_one() -> None:
    waiting = [Extent(1, 0, 0, 90_000), Extent(1, 1, 0, 10), Extent(1, 2, 0, 90_000)]
    assert [extent.offsets for extent in next_slice(waiting, 1_000)] == [495, 10, 495]


def test_the_order_of_what_waits_does_not_matter() -> None:
    waiting = [Extent(1, partition, 5, 5 + 37 * partition) for partition in range(9)]
    assert next_slice(waiting, 100) == next_slice(waiting[::-1], 100)


def test_a_token_is_equal_for_a_repetition_and_for_nothing_else() -> None:
    first = token(Stream.CHARGE, 1, 7, MONTH)
    assert first == "charge:1:7:2026-11:3:-5:ffffffffffffffff"
    others = {
        token(Stream.CREDIT, 1, 7, MONTH),
        token(Stream.CORRECTION, 1, 7, MONTH),
        token(Stream.CHARGE, 2, 7, MONTH),
        token(Stream.CHARGE, 1, 8, MONTH),
        token(Stream.CHARGE, 1, 7, replace(MONTH, start=datetime(2026, 12, 1, tzinfo=UTC))),
        token(Stream.CHARGE, 1, 7, replace(MONTH, rows=4)),
        token(Stream.CHARGE, 1, 7, replace(MONTH, sum_micro=5)),
        token(Stream.CHARGE, 1, 7, replace(MONTH, content=1)),
    }
    assert len(others - {first}) == 8
