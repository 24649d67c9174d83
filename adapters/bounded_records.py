"""Decompression with a bound: a compression bomb becomes dead letters, not a dead worker.

aiokafka decompresses a fetched batch whole, whatever it grows to: 17 KB of zstd became 404 MB at
the first record. Here every codec stops at BATCH_BYTES_MAX, and a batch that wants more is read as
records without a value, so that each of its offsets is still accounted for.
"""

import zlib
from collections.abc import Callable, Iterator
from typing import Any

import cramjam
import structlog
from aiokafka import ConsumerRecord
from aiokafka.consumer import fetcher
from aiokafka.record._crecords import default_records

log = structlog.get_logger()

BATCH_BYTES_MAX = 16 * 1024 * 1024
_XERIAL = b"\x82SNAPPY\x00"
_GZIP_WINDOW_BITS = 31


class Undecompressed(ConsumerRecord):  # type: ignore[misc]
    """A record of a batch that was not decompressed: its place is known, its content is not."""


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
    """Raises Bomb beyond the bound, or when the bytes are no gzip."""
    stream = zlib.decompressobj(_GZIP_WINDOW_BITS)
    try:
        data = stream.decompress(payload, BATCH_BYTES_MAX)
    except zlib.error as error:
        raise Bomb(str(error)) from None
    if not stream.eof:
        raise Bomb("gzip beyond the bound")
    return data


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


class BoundedPartitionRecords(fetcher.PartitionRecords):  # type: ignore[misc]
    """aiokafka's reader of fetched batches; a bomb's offsets come as records without value."""

    _records: Any
    next_fetch_offset: int

    def _unpack_records(self) -> Iterator[ConsumerRecord]:
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


class _One:
    """Exactly one batch, in the form of aiokafka's MemoryRecords."""

    def __init__(self, batch: Any) -> None:
        self._batch = batch

    def has_next(self) -> bool:
        return self._batch is not None

    def next_batch(self) -> Any:
        batch, self._batch = self._batch, None
        return batch


def install() -> None:
    """Puts the bounds into aiokafka, for every consumer of this process; idempotent."""
    for decode in (zstd_decode, lz4_decode, gzip_decode, snappy_decode):
        setattr(default_records, decode.__name__, decode)
    fetcher.PartitionRecords = BoundedPartitionRecords
