"""Whether Kafka and ClickHouse answer at all: one small question, a short wait."""

import asyncio
import http.client
import struct
import urllib.request
from urllib.parse import urlsplit

from adapters.settings import Settings

_API_VERSIONS = 18
_CORRELATION = 7


async def kafka_answers(settings: Settings, seconds_max: float) -> bool:
    """Whether one of the bootstrap servers answers a request of Kafka's protocol in time: all are
    asked at once, so that their number does not add to the wait.
    """
    asked = [asyncio.create_task(_answers(server.strip())) for server in settings.kafka.split(",")]
    try:
        for answer in asyncio.as_completed(asked, timeout=seconds_max):
            if await answer:
                return True
    except TimeoutError:
        return False
    finally:
        for task in asked:
            task.cancel()
        await asyncio.gather(*asked, return_exceptions=True)
    return False


async def _answers(server: str) -> bool:
    host, _, port = server.rpartition(":")
    try:
        return await _ask_kafka(host, int(port))
    except (OSError, TimeoutError, ValueError, asyncio.IncompleteReadError):
        return False


async def _ask_kafka(host: str, port: int) -> bool:
    """ApiVersions, which every broker answers before anything else."""
    reader, writer = await asyncio.open_connection(host, port)
    try:
        client = b"tollgate-health"
        request = struct.pack(">hhih", _API_VERSIONS, 0, _CORRELATION, len(client)) + client
        writer.write(struct.pack(">i", len(request)) + request)
        await writer.drain()
        _, correlation = struct.unpack(">ii", await reader.readexactly(8))
        return bool(correlation == _CORRELATION)
    finally:
        writer.close()


async def clickhouse_answers(settings: Settings, seconds_max: float) -> bool:
    """Whether ClickHouse answers its ping in time."""
    return await asyncio.to_thread(_ping, settings.clickhouse.get_secret_value(), seconds_max)


def _ping(address: str, seconds_max: float) -> bool:
    parts = urlsplit(address)
    host = parts.netloc.rpartition("@")[2]
    try:
        # The address is the operator's own.
        answer = urllib.request.urlopen(  # noqa: S310
            f"{parts.scheme}://{host}/ping", timeout=seconds_max
        )
        with answer:
            return bool(answer.status == 200)
    except (OSError, ValueError, http.client.HTTPException):  # the last: it speaks something else
        return False
