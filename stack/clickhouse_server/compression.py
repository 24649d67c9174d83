"""Compressed bodies, in the encodings that ClickHouse and its clients use."""

import gzip
import sys
import zlib
from collections.abc import Callable
from typing import Any

import lz4.frame

from stack.clickhouse_server.errors import error

if sys.version_info >= (3, 14):
    from compression import zstd
else:
    from backports import zstd


def _gunzip(data: bytes) -> bytes:
    return zlib.decompress(data, wbits=47)  # zlib and gzip headers alike


_DECODERS: dict[str, Callable[[bytes], Any]] = {
    "gzip": _gunzip,
    "deflate": _gunzip,
    "zstd": zstd.decompress,
    "lz4": lz4.frame.decompress,
}
_ENCODERS: dict[str, Callable[[bytes], Any]] = {
    "lz4": lz4.frame.compress,
    "zstd": lambda data: zstd.compress(data, level=1),
    "gzip": lambda data: gzip.compress(data, compresslevel=3),
    "deflate": lambda data: zlib.compress(data, level=3),
}


def decode(data: bytes, encoding: str) -> bytes:
    """The body behind a Content-Encoding; raises EngineError for one that is unknown or broken."""
    if encoding in ("", "identity"):
        return data
    decoder = _DECODERS.get(encoding)
    if decoder is None:
        raise error(48, "NOT_IMPLEMENTED", f"Content-Encoding {encoding} is not supported.")
    try:
        return bytes(decoder(data))
    except (OSError, EOFError, RuntimeError, ValueError, zlib.error, zstd.ZstdError) as failure:
        raise error(
            354, "ZLIB_INFLATE_FAILED", f"The {encoding} body is broken: {failure}"
        ) from None


def choose(accepted: str) -> str:
    """The first encoding of an Accept-Encoding header that can be answered with; empty: none."""
    names = [part.split(";")[0].strip().lower() for part in accepted.split(",")]
    return next((name for name in names if name in _ENCODERS), "")


def encode(data: bytes, encoding: str) -> bytes:
    """The body compressed with an encoding from `choose`."""
    return bytes(_ENCODERS[encoding](data))
