"""What the batch loop takes, drops, seeks and refuses; the consumer only notes its calls."""

import asyncio
import json
from collections import Counter
from collections.abc import Mapping, Sequence
from typing import Any

import asyncpg
import pytest
from aiokafka import ConsumerRecord, TopicPartition
from hypothesis import given
from hypothesis import strategies as st

from adapters.failures import Halt, HaltReason
from adapters.kafka import Positions
from adapters.ledger import Position, PositionMoved
from consumers.batch import BatchLoop, Runs, halves
from consumers.rater import DeadLetterCap

TOPIC = "usage.events"
TP = TopicPartition(TOPIC, 0)
OTHER = TopicPartition(TOPIC, 1)


class Consumer:
    """Notes seeks and commits."""

    def __init__(self) -> None:
        self.seeks: list[tuple[TopicPartition, int]] = []
        self.commits: list[dict[TopicPartition, int]] = []

    def seek(self, partition: TopicPartition, offset: int) -> None:
        self.seeks.append((partition, offset))

    async def commit(self, offsets: dict[TopicPartition, int]) -> None:
        self.commits.append(offsets)

    async def beginning_offsets(self, partitions: list[TopicPartition]) -> dict[Any, int]:
        return dict.fromkeys(partitions, 0)

    async def end_offsets(self, partitions: list[TopicPartition]) -> dict[Any, int]:
        return dict.fromkeys(partitions, 1_000_000)


class Subscriber:
    """What Positions asks for its consumer."""

    def __init__(self) -> None:
        self.consumer = Consumer()


class Desk:
    """Positions over a consumer, what PostgreSQL would say of them, and what they were told."""

    def __init__(self, **stands: int) -> None:
        self.stands = {int(name[1:]): offset for name, offset in stands.items()}
        self.stopped: list[BaseException] = []
        self.where = Positions(self._read, self._check, self.stopped.append)
        subscriber = Subscriber()
        self.where.subscriber = subscriber  # type: ignore[assignment]
        self.consumer = subscriber.consumer
        self.where.next = {TopicPartition(TOPIC, p): at for p, at in self.stands.items()}
        self.where.epoch = 1

    async def _read(self, first: Mapping[int, int]) -> dict[int, Position]:
        return {partition: Position(1, self.stands[partition], 0, None) for partition in first}

    async def _check(self, _: Mapping[int, Position]) -> None:
        return None


def records(offsets: Sequence[int], tp: TopicPartition = TP) -> list[ConsumerRecord]:
    return [
        ConsumerRecord(*tp, n, 1, 1, b"acct", json.dumps(n).encode(), None, 4, 1, ())
        for n in offsets
    ]


def offsets(runs: Runs) -> dict[int, list[int]]:
    return {tp.partition: [record.offset for record in run] for tp, run in runs.items()}


def test_a_run_that_continues_is_admitted() -> None:
    desk = Desk(p0=5, p1=0)
    runs = desk.where.admit([*records(range(5, 8)), *records(range(2), OTHER)])
    assert offsets(runs) == {0: [5, 6, 7], 1: [0, 1]}
    assert desk.consumer.seeks == []


def test_records_of_a_partition_that_is_not_ours_are_dropped() -> None:
    desk = Desk(p0=0)
    assert offsets(desk.where.admit([*records([0], OTHER), *records([0])])) == {0: [0]}
    assert desk.consumer.seeks == []


@pytest.mark.parametrize(
    "fetched",
    [[3, 4, 5], [5, 6, 8], [7, 8], [5, 5, 6], [4], [6]],
    ids=["from before", "with a hole", "from beyond", "twice", "the one before", "the one after"],
)
def test_what_does_not_continue_is_dropped_and_sought_once(fetched: list[int]) -> None:
    desk = Desk(p0=5)
    assert desk.where.admit(records(fetched)) == {}
    assert desk.consumer.seeks == [(TP, 5)]


def test_a_seek_of_one_partition_leaves_the_others_alone() -> None:
    desk = Desk(p0=5, p1=9)
    runs = desk.where.admit([*records([7]), *records([9, 10], OTHER)])
    assert offsets(runs) == {1: [9, 10]}
    assert desk.consumer.seeks == [(TP, 5)]


def test_records_beyond_after_a_seek_are_a_gap() -> None:
    desk = Desk(p0=5)
    desk.where.admit(records([7]))
    with pytest.raises(Halt, match=r"offset 5 but goes on at 7.*accept-epoch") as halt:
        desk.where.admit(records([7]))
    assert halt.value.reason == "gap"


def test_a_hole_within_the_run_after_a_seek_is_a_gap() -> None:
    desk = Desk(p0=5)
    desk.where.admit(records([5, 7]))
    with pytest.raises(Halt) as halt:
        desk.where.admit(records([5, 7]))
    assert halt.value.reason == "gap"


def test_records_from_before_after_a_seek_are_another_log() -> None:
    desk = Desk(p0=5)
    desk.where.admit(records([0, 1]))
    with pytest.raises(Halt, match=r"is not the log .* offset 5.*accept-epoch") as halt:
        desk.where.admit(records([0, 1]))
    assert halt.value.reason == "epoch"


def test_a_seek_that_helped_is_forgotten() -> None:
    desk = Desk(p0=5)
    for _ in range(2):
        desk.where.admit(records([7]))
        runs = desk.where.admit(records([5, 6]))
        assert offsets(runs) == {0: [5, 6]}
        desk.where.next[TP] = 5
    assert desk.consumer.seeks == [(TP, 5), (TP, 5)]


async def test_what_is_assigned_is_sought_where_postgresql_stands() -> None:
    desk = Desk(p0=5, p1=9)
    desk.where.next = {}
    await desk.where.on_partitions_assigned([TP, OTHER])
    assert desk.consumer.seeks == [(TP, 5), (OTHER, 9)]
    assert (desk.where.next, desk.stopped) == ({TP: 5, OTHER: 9}, [])


async def test_what_was_revoked_is_not_admitted() -> None:
    desk = Desk(p0=5, p1=9)
    await desk.where.on_partitions_revoked([TP])
    assert offsets(desk.where.admit([*records([5]), *records([9], OTHER)])) == {1: [9]}


async def test_a_revocation_waits_for_the_batch_in_flight() -> None:
    desk = Desk(p0=5)
    async with desk.where.busy:
        revocation = asyncio.create_task(desk.where.on_partitions_revoked([TP]))
        await asyncio.sleep(0.01)
        assert TP in desk.where.next
    await revocation
    assert TP not in desk.where.next


RUNS = st.lists(st.integers(1, 9), min_size=1, max_size=5).filter(lambda sizes: sum(sizes) > 1)


@given(RUNS)
def test_two_halves_are_the_whole_in_order(sizes: list[int]) -> None:
    runs = {
        TopicPartition(TOPIC, p): records(range(size), TopicPartition(TOPIC, p))
        for p, size in enumerate(sizes)
    }
    first, second = halves(runs)
    together: dict[int, list[int]] = {}
    for half in (first, second):
        assert all(half.values())
        for partition, some in offsets(half).items():
            together.setdefault(partition, []).extend(some)
    assert together == offsets(runs)
    taken = sum(map(len, first.values()))
    assert taken == sum(sizes) // 2
    assert 0 < taken < sum(sizes)


OUT_OF_RANGE = asyncpg.exceptions.NumericValueOutOfRangeError("out of range")


class Ledger:
    """Applies to a list; refuses some offsets for ever, and fails as often as it is told."""

    def __init__(
        self,
        *refused: int,
        failures: Sequence[Exception] = (),
        refusal: Exception = OUT_OF_RANGE,
    ) -> None:
        self.refused = set(refused)
        self.refusal = refusal
        self.failures = list(failures)
        self.applied: list[int] = []
        self.dead: list[int] = []

    async def apply(self, runs: Runs, *, unprocessable: bool = False) -> None:
        if self.failures:
            raise self.failures.pop(0)
        found = [record.offset for run in runs.values() for record in run]
        if unprocessable:
            self.dead += found
        elif self.refused & set(found):
            raise self.refusal
        self.applied += found


def loop(desk: Desk, ledger: Ledger, retries: list[str] | None = None) -> BatchLoop:
    told = [] if retries is None else retries
    return BatchLoop(desk.where, ledger.apply, desk.stopped.append, 60.0, told.append)


async def test_a_batch_is_applied_then_committed() -> None:
    desk, ledger = Desk(p0=5), Ledger()
    await loop(desk, ledger).on_records(records([5, 6, 7]))
    assert ledger.applied == [5, 6, 7]
    assert desk.where.next == {TP: 8}
    assert desk.consumer.commits == [{TP: 8}]


async def test_nothing_is_applied_after_a_stop() -> None:
    desk, ledger = Desk(p0=5), Ledger()
    batches = loop(desk, ledger)
    batches.stop(Halt(HaltReason.GAP, "by hand"))
    await batches.on_records(records([5]))
    assert (ledger.applied, desk.consumer.commits) == ([], [])


@pytest.mark.parametrize(
    "trouble",
    [
        Halt(HaltReason.DEAD_LETTERS, "too many"),
        ValueError("a bug"),
        asyncpg.UndefinedColumnError("schema"),
    ],
    ids=lambda error: type(error).__name__,
)
async def test_a_batch_that_can_not_be_applied_stops_the_loop_for_good(trouble: Exception) -> None:
    desk, ledger = Desk(p0=5), Ledger(failures=[trouble])
    batches = loop(desk, ledger)
    await batches.on_records(records([5, 6]))
    assert desk.stopped == [trouble]
    await batches.on_records(records([7, 8]))
    await batches.on_records(records([5, 6]))
    assert (ledger.applied, desk.where.next, desk.consumer.commits) == ([], {TP: 5}, [])


async def test_a_gap_stops_the_loop() -> None:
    desk, ledger = Desk(p0=5), Ledger()
    batches = loop(desk, ledger)
    for _ in range(2):
        await batches.on_records(records([7]))
    (halt,) = desk.stopped
    assert isinstance(halt, Halt)
    assert halt.reason == "gap"
    await batches.on_records(records([5]))
    assert ledger.applied == []


async def test_trouble_of_the_world_is_tried_again_and_told() -> None:
    desk, retries = Desk(p0=5), list[str]()
    ledger = Ledger(failures=[OSError("away"), asyncpg.DeadlockDetectedError("victim")])
    await loop(desk, ledger, retries).on_records(records([5, 6]))
    assert ledger.applied == [5, 6]
    assert retries == ["OSError", "DeadlockDetectedError"]
    assert desk.stopped == []


async def test_trouble_that_lasts_stops_the_loop_and_skips_nothing() -> None:
    desk = Desk(p0=5)
    ledger = Ledger(failures=[OSError("away")] * 100)
    batches = BatchLoop(desk.where, ledger.apply, desk.stopped.append, 0.2, lambda _: None)
    await batches.on_records(records([5, 6]))
    assert [type(error) for error in desk.stopped] == [OSError]
    ledger.failures.clear()
    await batches.on_records(records([7]))
    assert (ledger.applied, desk.where.next) == ([], {TP: 5})


@pytest.mark.parametrize(
    "refusal",
    [OUT_OF_RANGE, OverflowError("int64"), UnicodeEncodeError("utf-8", "\ud800", 0, 1, "half")],
    ids=lambda error: type(error).__name__,
)
async def test_a_refused_record_alone_is_dead_and_the_order_stays(refusal: Exception) -> None:
    desk, ledger = Desk(p0=0), Ledger(3, 6, refusal=refusal)
    await loop(desk, ledger).on_records(records(range(9)))
    assert ledger.applied == list(range(9))
    assert ledger.dead == [3, 6]
    assert desk.where.next == {TP: 9}
    assert desk.stopped == []


async def test_a_moved_stream_is_read_again_and_not_committed() -> None:
    desk, ledger = Desk(p0=5), Ledger(failures=[PositionMoved("to 8")])
    batches = loop(desk, ledger)
    desk.stands[0] = 8
    await batches.on_records(records([5, 6]))
    assert (desk.where.next, desk.consumer.seeks) == ({TP: 8}, [(TP, 8)])
    assert (ledger.applied, desk.consumer.commits, desk.stopped) == ([], [], [])
    await batches.on_records(records([8]))
    assert ledger.applied == [8]


BAD = Counter({"bad_json": 6})


def _booked(cap: DeadLetterCap, count: int, dead: Counter[str]) -> None:
    for _ in range(count):
        cap.check(10, dead)
        cap.booked(10, dead.total())


def test_a_cap_needs_a_full_window_first() -> None:
    cap = DeadLetterCap(0.5, 100)
    _booked(cap, 9, BAD)
    with pytest.raises(Halt, match=r"60 of the last 100 .*bad_json 6.*DEAD_LETTER_SHARE") as halt:
        cap.check(10, BAD)
    assert halt.value.reason == "dead-letters"


def test_exactly_the_share_is_allowed_and_one_more_is_not() -> None:
    cap = DeadLetterCap(0.5, 100)
    _booked(cap, 9, Counter(invalid=5))
    cap.check(10, Counter(invalid=5))
    with pytest.raises(Halt):
        cap.check(10, Counter(invalid=6))


def test_a_batch_that_is_tried_again_counts_once() -> None:
    cap = DeadLetterCap(0.5, 100)
    for _ in range(50):
        cap.check(10, BAD)
    _booked(cap, 9, Counter())
    cap.check(10, BAD)


def test_old_good_records_do_not_hide_a_bad_deployment() -> None:
    cap = DeadLetterCap(0.5, 100)
    _booked(cap, 1_000, Counter())
    with pytest.raises(Halt):
        _booked(cap, 10, Counter(unpriced=10))


def test_old_bad_records_are_forgiven() -> None:
    cap = DeadLetterCap(0.5, 100)
    _booked(cap, 10, Counter(invalid=5))
    _booked(cap, 10, Counter())
    _booked(cap, 8, BAD)


def test_what_leaves_the_window_does_not_count_against_the_batch_that_pushes_it_out() -> None:
    cap = DeadLetterCap(0.5, 100)
    cap.booked(10, 10)
    _booked(cap, 9, Counter(invalid=4))
    cap.check(10, Counter(invalid=5))


def test_a_cap_remembers_no_more_than_its_window() -> None:
    cap = DeadLetterCap(0.5, 100)
    _booked(cap, 1_000, Counter(invalid=1))
    assert len(cap._latest) <= 11


def test_a_good_batch_goes_on_however_bad_the_ones_before_were() -> None:
    cap = DeadLetterCap(0.5, 100)
    for _ in range(20):
        cap.booked(10, 10)
    cap.check(10, Counter())
    cap.check(10, Counter(invalid=5))
    with pytest.raises(Halt):
        cap.check(10, BAD)


def test_a_single_batch_as_large_as_the_window_is_judged_by_itself() -> None:
    with pytest.raises(Halt):
        DeadLetterCap(0.5, 100).check(100, Counter(too_old=51))
