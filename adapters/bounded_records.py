"""Decompression with a bound: a compression bomb becomes dead letters, not a dead worker.

aiokafka decompresses a fetched batch whole, whatever it grows to: 17 KB of zstd became 404 MB at
the first record. Here every codec stops at BATCH_BYTES_MAX, and a batch that wants more is read as
records without a value, so that each of its offsets is still accounted for. A value that no event
may have is cut at once, and one poll takes at most FETCH_BYTES_MAX from a partition, so that many
batches just below the bound do not add up either.
"""

import dataclasses
import hashlib
import zlib
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any, ClassVar

import cramjam
import structlog
from aiokafka import ConsumerRecord
from aiokafka.consumer import fetcher
from aiokafka.record._crecords import default_records

from schemas.events import VALUE_BYTES_MAX

log = structlog.get_logger()

BATCH_BYTES_MAX = 8 * 1024 * 1024
FETCH_BYTES_MAX = 4 * 1024 * 1024
_XERIAL = b"\x82SNAPPY\x00"
_GZIP_WINDOW_BITS = 31


class Undecompressed(ConsumerRecord):  # type: ignore[misc]
    """A record of a batch that was not decompressed: its place is known, its content is not."""


class Oversized(ConsumerRecord):  # type: ignore[misc]
    """A record whose value is too long for an event: cut, with what the whole value was."""

    value_bytes: int
    value_sha256: bytes


class Bomb(Exception):  # noqa: N818 - what it is, not an error of ours
    """A compressed batch grows beyond BATCH_BYTES_MAX."""


_room = bytearray(BATCH_BYTES_MAX)


def _into_room(decompress: Callable[[Any, Any], int], payload: Any) -> bytes:
    try:
        size = decompress(payload, _room)
    except cramjam.DecompressionError as error:
        raise Bomb(str(error)) from None
    return bytes(memoryview(_room)[:size])


def zstd_decode(payload: Any) -> bytes:
    """Raises Bomb beyond the bound, or when the bytes are no zstd."""
    return _into_room(cramjam.zstd.decompress_into, payload)


def lz4_decode(payload: Any) -> bytes:
    """Raises Bomb beyond the bound, or when the bytes are no lz4."""
    return _into_room(cramjam.lz4.decompress_into, payload)


def gzip_decode(payload: Any) -> bytes:
    """All members of the stream; raises Bomb beyond the bound, or when the bytes are no gzip."""
    parts: list[bytes] = []
    rest, room = bytes(payload), BATCH_BYTES_MAX
    while rest:
        member = zlib.decompressobj(_GZIP_WINDOW_BITS)
        try:
            # A maximum of 0 would mean none.
            part = member.decompress(rest, room + 1)
        except zlib.error as error:
            raise Bomb(str(error)) from None
        room -= len(part)
        if room < 0 or not member.eof:
            raise Bomb("gzip beyond the bound")
        parts.append(part)
        rest = member.unused_data
    return b"".join(parts)


def snappy_decode(payload: Any) -> bytes:
    """Raw or in Xerial's framing; raises Bomb beyond the bound, or when the bytes are no snappy."""
    data = memoryview(payload)
    if bytes(data[:8]) != _XERIAL:
        return _snappy_block(data, BATCH_BYTES_MAX)
    blocks: list[bytes] = []
    room = BATCH_BYTES_MAX
    cursor = 16
    while cursor < len(data):
        size = int.from_bytes(data[cursor : cursor + 4], "big")
        block = _snappy_block(data[cursor + 4 : cursor + 4 + size], room)
        room -= len(block)
        blocks.append(block)
        cursor += 4 + size
    return b"".join(blocks)


def _snappy_block(block: Any, room: int) -> bytes:
    try:
        if cramjam.snappy.decompress_raw_len(block) > room:
            raise Bomb("snappy beyond the bound")
    except cramjam.DecompressionError as error:
        raise Bomb(str(error)) from None
    return _into_room(cramjam.snappy.decompress_raw_into, block)


_DECODERS = (zstd_decode, lz4_decode, gzip_decode, snappy_decode)


class BoundedPartitionRecords(fetcher.PartitionRecords):  # type: ignore[misc]
    """aiokafka's reader of fetched batches; a bomb's offsets come as records without value."""

    value_bytes_max: ClassVar[int] = VALUE_BYTES_MAX
    _records: Any
    next_fetch_offset: int

    def _unpack_records(self) -> Iterator[ConsumerRecord]:
        """At least one record, and no more after FETCH_BYTES_MAX: the rest is fetched again."""
        taken_bytes = 0
        for whole in self._all_records():
            too_long = whole.value is not None and len(whole.value) > self.value_bytes_max
            record = _cut(whole, self.value_bytes_max) if too_long else whole
            yield record
            taken_bytes += len(record.value or b"") + len(record.key or b"")
            if taken_bytes > FETCH_BYTES_MAX:
                return

    def _all_records(self) -> Iterator[ConsumerRecord]:
        """One batch at a time through aiokafka's own reader."""
        batches = self._records
        while batches.has_next():
            batch = batches.next_batch()
            self._records = _One(batch)
            try:
                yield from super()._unpack_records()
            except Bomb as bomb:
                log.warning(
                    "a batch is not decompressed",
                    topic=self._tp.topic,
                    partition=self._tp.partition,
                    offset=batch.base_offset,
                    why=str(bomb),
                )
                yield from self._without_values(batch)

    def _without_values(self, batch: Any) -> Iterator[ConsumerRecord]:
        for offset in range(max(batch.base_offset, self.next_fetch_offset), batch.next_offset):
            self.next_fetch_offset = offset + 1
            yield Undecompressed(
                self._tp.topic,
                self._tp.partition,
                offset,
                max(0, batch.max_timestamp or 0),
                1,
                None,
                None,
                None,
                -1,
                -1,
                (),
            )


def _cut(record: ConsumerRecord, value_bytes_max: int) -> Oversized:
    whole = record.value
    fields = {field.name: getattr(record, field.name) for field in dataclasses.fields(record)}
    cut = Oversized(**fields | {"value": whole[:value_bytes_max]})
    cut.value_bytes = len(whole)
    cut.value_sha256 = hashlib.sha256(whole).digest()
    return cut


class _One:
    """Exactly one batch, in the form of aiokafka's MemoryRecords."""

    def __init__(self, batch: Any) -> None:
        self._batch = batch

    def has_next(self) -> bool:
        return self._batch is not None

    def next_batch(self) -> Any:
        batch, self._batch = self._batch, None
        return batch


def install(value_bytes_max: int = VALUE_BYTES_MAX) -> None:
    """Puts the bounds into aiokafka, for every consumer of this process; idempotent.

    A longer value than `value_bytes_max` is cut: by default what no usage event may have.
    """
    BoundedPartitionRecords.value_bytes_max = value_bytes_max
    for decode in _DECODERS:
        setattr(default_records, decode.__name__, decode)
    fetcher.PartitionRecords = BoundedPartitionRecords


@contextmanager
def installed(value_bytes_max: int) -> Iterator[None]:
    """The same while the block runs; then aiokafka is as it was before."""
    names = [decode.__name__ for decode in _DECODERS]
    decoders = {name: getattr(default_records, name) for name in names}
    reader, maximum = fetcher.PartitionRecords, BoundedPartitionRecords.value_bytes_max
    install(value_bytes_max)
    try:
        yield
    finally:
        for name, decode in decoders.items():
            setattr(default_records, name, decode)
        fetcher.PartitionRecords = reader
        BoundedPartitionRecords.value_bytes_max = maximum
