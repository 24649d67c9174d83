"""How every producer of ours talks to Kafka: idempotent, acknowledged by all replicas, keyed."""

from collections.abc import Mapping, Sequence
from functools import lru_cache
from typing import Any, Final

from aiokafka import AIOKafkaProducer
from aiokafka.partitioner import murmur2

# The broker takes batches of 256 KiB; half of it leaves room for what does not compress.
BATCH_BYTES_MAX: Final = 128 * 1024
REQUEST_TIMEOUT_MS: Final = 10_000


@lru_cache(maxsize=65_536)
def _hash(key: bytes) -> int:
    return int(murmur2(key)) & 0x7FFFFFFF


def partition_of(key: bytes, partitions: Sequence[int], _available: Sequence[int]) -> int:
    """The partition that Kafka's own clients choose for the key (murmur2), remembered per key.

    The same account lands in the same partition whichever client publishes it.
    """
    return partitions[_hash(key) % len(partitions)]


def new_producer(
    bootstrap_servers: str, *, client_id: str, options: Mapping[str, Any] | None = None
) -> AIOKafkaProducer:
    """A producer that is not started yet; `options` are aiokafka's (security and the like).

    After any error it must be closed and made anew: an idempotent producer whose sequence went
    ahead of the broker's refuses all further work.
    """
    return AIOKafkaProducer(
        bootstrap_servers=bootstrap_servers,
        client_id=client_id,
        enable_idempotence=True,
        acks="all",
        compression_type="lz4",
        linger_ms=5,
        max_batch_size=BATCH_BYTES_MAX,
        request_timeout_ms=REQUEST_TIMEOUT_MS,
        partitioner=partition_of,
        **(options or {}),
    )
