"""Publishing from a command: a missing topic or an absent Kafka is one line, not a traceback."""

import time
from collections.abc import Iterable
from typing import TYPE_CHECKING, Any

from adapters.failures import Failure

if TYPE_CHECKING:
    from adapters.settings import Settings


async def send_all(
    settings: "Settings", records: Iterable[Any], *, paced: bool, label: str, total: int | None
) -> tuple[int, float]:
    """Publishes timed records to usage.events, with progress; returns how many, and the seconds.

    Raises Failure when the topic is missing or Kafka stays away.
    """
    from aiokafka.errors import KafkaError

    from adapters.topics import offsets
    from producers.sending import publish_records
    from schemas.topics import USAGE_EVENTS
    from tollgate.output import progress

    topic = settings.topic_prefix + USAGE_EVENTS.name
    if not await offsets(settings, topic):
        raise Failure(f"Kafka {settings.kafka} has no topic {topic}: run `tollgate migrate` first")
    began = time.monotonic()
    try:
        with progress(label, total) as steps:
            sent = await publish_records(
                settings.kafka, topic, records, paced=paced, on_sent=steps.advance
            )
    except (KafkaError, OSError, TimeoutError) as error:
        raise Failure(f"Kafka {settings.kafka} takes no records: {error!r}") from None
    return sent, time.monotonic() - began
