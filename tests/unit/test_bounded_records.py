"""Bounded decompression: aiokafka's own below the bound; above it, every offset still comes."""

import contextlib
import gzip
import hashlib
import struct
from collections.abc import Callable

import pytest
from aiokafka import TopicPartition
from aiokafka import codec as unbounded
from aiokafka.consumer.fetcher import READ_UNCOMMITTED
from aiokafka.record import default_records as formats
from aiokafka.record._crecords import default_records as compiled
from aiokafka.record.memory_records import MemoryRecords
from hypothesis import example, given, settings
from hypothesis import strategies as st

from adapters import bounded_records
from adapters.bounded_records import (
    BATCH_BYTES_MAX,
    FETCH_BYTES_MAX,
    Bomb,
    BoundedPartitionRecords,
    Oversized,
    Undecompressed,
    gzip_decode,
    lz4_decode,
    snappy_decode,
    zstd_decode,
)
from schemas.events import VALUE_BYTES_MAX

Codec = tuple[Callable[[bytes], bytes], Callable[[bytes], bytes], Callable[[bytes], bytes]]

TP = TopicPartition("usage.events", 3)


def _raw_snappy(payload: bytes) -> bytes:
    return bytes(unbounded.snappy_encode(payload, xerial_compatible=False))


def _small_blocks(payload: bytes) -> bytes:
    return unbounded.snappy_encode(payload, xerial_blocksize=64)


CODECS: dict[str, Codec] = {
    "zstd": (unbounded.zstd_encode, zstd_decode, unbounded.zstd_decode),
    "lz4": (unbounded.lz4_encode, lz4_decode, unbounded.lz4_decode),
    "gzip": (unbounded.gzip_encode, gzip_decode, unbounded.gzip_decode),
    "raw snappy": (_raw_snappy, snappy_decode, unbounded.snappy_decode),
    "xerial snappy": (unbounded.snappy_encode, snappy_decode, unbounded.snappy_decode),
    "xerial snappy, small blocks": (_small_blocks, snappy_decode, unbounded.snappy_decode),
}
codecs = pytest.mark.parametrize("codec", CODECS.values(), ids=list(CODECS))
PAYLOADS = st.builds(
    lambda part, times, end: part * times + end, st.binary(), st.integers(1, 200), st.binary()
)


@codecs
@settings(deadline=None)
@given(payload=PAYLOADS)
@example(payload=b"")
@example(payload=b"\x82SNAPPY\x00 is how a payload may begin, too")
def test_below_the_bound_every_codec_is_aiokafkas_own(codec: Codec, payload: bytes) -> None:
    encode, decode, reference = codec
    packed = encode(payload)
    assert decode(memoryview(packed)) == payload
    assert not payload or reference(packed) == payload  # aiokafka cannot read an empty Xerial frame


@codecs
def test_the_bound_is_exact(codec: Codec) -> None:
    encode, decode, _ = codec
    assert decode(encode(b"x" * BATCH_BYTES_MAX)) == b"x" * BATCH_BYTES_MAX
    with pytest.raises(Bomb):
        decode(encode(b"x" * (BATCH_BYTES_MAX + 1)))


@codecs
@settings(deadline=None)
@given(garbage=st.binary())
@example(garbage=b"\x82SNAPPY\x00" + b"\xff" * 30)
@example(garbage=b"\x82SNAPPY\x00\x00\x00\x00\x01\x00\x00\x00\x01\x00")
@example(garbage=b"\x28\xb5\x2f\xfd\xff\xff\xff\xff")
def test_garbage_is_a_bomb_or_bytes_and_nothing_else(codec: Codec, garbage: bytes) -> None:
    _, decode, _ = codec
    try:
        assert len(decode(garbage)) <= BATCH_BYTES_MAX
    except Bomb:
        return


@pytest.mark.parametrize("name", ["zstd", "lz4", "gzip", "raw snappy"])
@settings(deadline=None)
@given(payload=st.binary(min_size=100), cut=st.integers(1, 60))
def test_what_was_cut_off_is_never_taken_for_whole(name: str, payload: bytes, cut: int) -> None:
    encode, decode, _ = CODECS[name]
    with pytest.raises(Bomb):
        decode(encode(payload)[:-cut])


def test_gzip_of_several_members_is_read_whole() -> None:
    packed = gzip.compress(b"first ") + gzip.compress(b"second")
    assert gzip_decode(memoryview(packed)) == unbounded.gzip_decode(packed) == b"first second"
    half = gzip.compress(b"x" * (BATCH_BYTES_MAX // 2 + 1))
    with pytest.raises(Bomb):
        gzip_decode(half + half)


@pytest.mark.parametrize("name", ["zstd", "lz4"])
def test_several_frames_are_read_whole(name: str) -> None:
    encode, decode, _ = CODECS[name]
    assert decode(encode(b"first ") + encode(b"second")) == b"first second"


ZSTD = formats.DefaultRecordBatch.CODEC_ZSTD
CODEC_NUMBERS = {
    "gzip": formats.DefaultRecordBatch.CODEC_GZIP,
    "snappy": formats.DefaultRecordBatch.CODEC_SNAPPY,
    "lz4": formats.DefaultRecordBatch.CODEC_LZ4,
    "zstd": ZSTD,
}
BIG = b"x" * (BATCH_BYTES_MAX // 2)


@pytest.fixture
def _installed(monkeypatch: pytest.MonkeyPatch) -> None:
    """The bounds in aiokafka, for one test."""
    for name in ("zstd_decode", "lz4_decode", "gzip_decode", "snappy_decode"):
        monkeypatch.setattr(compiled, name, getattr(compiled, name))
    reader = bounded_records.fetcher.PartitionRecords
    monkeypatch.setattr(bounded_records.fetcher, "PartitionRecords", reader)
    bounded_records.install()


def batch(first_offset: int, values: list[bytes], compression: int = ZSTD) -> bytes:
    """A record batch as a broker returns it."""
    builder = formats.DefaultRecordBatchBuilder(2, compression, 0, -1, -1, -1, 2**31 - 1)
    for n, value in enumerate(values):
        assert builder.append(n, 1_000 + n, b"acct", value, []) is not None
    packed = bytearray(builder.build())
    struct.pack_into(">q", packed, 0, first_offset)
    return bytes(packed)


def read(data: bytes, first_offset: int = 0, *, check_crcs: bool = True) -> BoundedPartitionRecords:
    """The reader of one fetch response, asked for records from `first_offset` on."""
    return BoundedPartitionRecords(
        TP, MemoryRecords(data), None, first_offset, None, None, check_crcs, READ_UNCOMMITTED
    )


@pytest.mark.usefixtures("_installed")
@pytest.mark.parametrize("compression", CODEC_NUMBERS.values(), ids=list(CODEC_NUMBERS))
def test_a_bomb_between_good_batches_comes_as_records_without_value(compression: int) -> None:
    good = batch(10, [b"a", b"b"], compression), batch(15, [b"c"], compression)
    reader = read(good[0] + batch(12, [BIG, b"small", BIG], compression) + good[1], 10)
    found = [(r.offset, r.value, isinstance(r, Undecompressed)) for r in reader]
    assert found == [
        (10, b"a", False),
        (11, b"b", False),
        (12, None, True),
        (13, None, True),
        (14, None, True),
        (15, b"c", False),
    ]
    assert reader.next_fetch_offset == 16


@pytest.mark.usefixtures("_installed")
def test_a_record_without_value_has_its_place_and_the_time_of_its_batch() -> None:
    (record, _) = read(batch(7, [BIG, BIG + b"x"]), 7)
    assert (record.topic, record.partition, record.offset) == (TP.topic, TP.partition, 7)
    assert (record.key, record.value, record.timestamp) == (None, None, 1_001)


@pytest.mark.usefixtures("_installed")
@pytest.mark.parametrize("first_offset", [5, 6, 7])
def test_a_seek_into_a_bomb_goes_on_there(first_offset: int) -> None:
    reader = read(batch(5, [BIG, BIG, BIG]) + batch(8, [b"after"]), first_offset)
    assert [record.offset for record in reader] == list(range(first_offset, 9))


@pytest.mark.usefixtures("_installed")
def test_a_stop_within_a_bomb_remembers_how_far_it_got() -> None:
    reader = read(batch(5, [BIG, BIG, BIG]), 5)
    assert next(reader).offset == 5
    assert reader.next_fetch_offset == 6


@pytest.mark.usefixtures("_installed")
def test_a_batch_that_does_not_decompress_keeps_its_offsets() -> None:
    packed = bytearray(batch(0, [b"value" * 100]))
    packed[-8:] = b"\x00" * 8
    (record,) = read(bytes(packed), check_crcs=False)
    assert (record.offset, record.value) == (0, None)


@pytest.mark.usefixtures("_installed")
@settings(deadline=None, max_examples=30)
@given(
    sizes=st.lists(st.integers(1, 4), min_size=1, max_size=6),
    bombs=st.sets(st.integers(0, 5), max_size=2),
    skipped=st.integers(0, 3),
)
def test_every_offset_comes_once_and_in_order(
    sizes: list[int], bombs: set[int], skipped: int
) -> None:
    data, offset = b"", 0
    for n, size in enumerate(sizes):
        value = BATCH_BYTES_MAX // size * b"x" if n in bombs else b"v"
        data += batch(offset, [value] * size)
        offset += size
    first = min(skipped, sizes[0] - 1)
    assert [record.offset for record in read(data, first)] == list(range(first, offset))


@pytest.mark.usefixtures("_installed")
def test_a_value_that_no_event_may_have_is_cut_and_says_what_it_was() -> None:
    longest, longer = b"x" * VALUE_BYTES_MAX, b"xy" * VALUE_BYTES_MAX
    whole, cut, after = read(batch(4, [longest, longer, b"after"]), 4)
    assert (whole.offset, whole.value, isinstance(whole, Oversized)) == (4, longest, False)
    assert isinstance(cut, Oversized)
    assert (cut.offset, cut.key, cut.value) == (5, b"acct", longer[:VALUE_BYTES_MAX])
    assert cut.value_bytes == len(longer)
    assert cut.value_sha256 == hashlib.sha256(longer).digest()
    assert (after.offset, after.value) == (6, b"after")


@pytest.mark.usefixtures("_installed")
@pytest.mark.parametrize("records_of_a_batch", [1, 7, 100])
def test_a_fetch_ends_when_it_is_large_and_the_next_one_goes_on_there(
    records_of_a_batch: int,
) -> None:
    value = b"x" * VALUE_BYTES_MAX
    count = 300 // records_of_a_batch
    batches = [batch(n * records_of_a_batch, [value] * records_of_a_batch) for n in range(count)]
    found: list[int] = []
    fetches = 0
    while len(found) < count * records_of_a_batch:
        # A broker answers from the beginning of the batch that holds the offset.
        reader = read(b"".join(batches[len(found) // records_of_a_batch :]), len(found))
        taken = list(reader)
        assert sum(len(record.value) for record in taken) <= FETCH_BYTES_MAX + VALUE_BYTES_MAX
        found += [record.offset for record in taken]
        assert reader.next_fetch_offset == len(found)
        fetches += 1
    assert found == list(range(count * records_of_a_batch))
    assert fetches == 5


@pytest.mark.usefixtures("_installed")
def test_bounds_for_a_while_leave_no_trace() -> None:
    compiled.zstd_decode = unbounded.zstd_decode
    reader = bounded_records.fetcher.PartitionRecords
    with contextlib.suppress(ZeroDivisionError), bounded_records.installed(7):
        assert compiled.zstd_decode is bounded_records.zstd_decode
        assert bounded_records.BoundedPartitionRecords.value_bytes_max == 7
        raise ZeroDivisionError
    assert compiled.zstd_decode is unbounded.zstd_decode
    assert bounded_records.fetcher.PartitionRecords is reader
    assert bounded_records.BoundedPartitionRecords.value_bytes_max == VALUE_BYTES_MAX
