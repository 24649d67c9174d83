"""The topic of jobs as a scheduler reads it, and as whoever asks for a job writes it."""

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

from aiokafka import AIOKafkaConsumer
from aiokafka.errors import KafkaError

from adapters import bounded_records
from adapters.publishing import Outgoing, open_producer, send_all, unreachable
from adapters.settings import Settings
from schemas.jobs import Job, encode_job
from schemas.topics import SCHEDULER_JOBS

RECORDS_MAX = 500
# A job may take as long as it likes: its process says that it is alive by heartbeats.
JOB_MS_MAX = 3_600_000


def topic_of(settings: Settings) -> str:
    """The deployment's name of the topic."""
    return settings.topic_prefix + SCHEDULER_JOBS.name


@asynccontextmanager
async def open_jobs(settings: Settings, group: str) -> AsyncIterator[AIOKafkaConsumer]:
    """A consumer of the group that commits nothing by itself, from the oldest message on.

    Raises Failure when no broker answers.
    """
    bounded_records.install()
    consumer = AIOKafkaConsumer(
        topic_of(settings),
        bootstrap_servers=settings.kafka,
        client_id=f"tollgate-{group}",
        group_id=f"{settings.topic_prefix}{group}",
        enable_auto_commit=False,
        auto_offset_reset="earliest",
        max_poll_records=RECORDS_MAX,
        max_poll_interval_ms=JOB_MS_MAX,
        session_timeout_ms=settings.session_timeout_ms,
        heartbeat_interval_ms=min(3_000, settings.session_timeout_ms // 3),
        metadata_max_age_ms=15_000,
    )
    try:
        await consumer.start()
    except KafkaError as error:
        await consumer.stop()
        raise unreachable(settings, error) from None
    try:
        yield consumer
    finally:
        await consumer.stop()


async def ask(settings: Settings, job: Job) -> None:
    """Puts the job on the topic and returns when all replicas have it.

    The same job again is the same run. Raises Failure when the broker does not answer.
    """
    record = Outgoing(topic_of(settings), job.data.job.encode(), encode_job(job))
    try:
        async with open_producer(settings, "job") as producer:
            await send_all(producer, [record])
    except KafkaError as error:
        raise unreachable(settings, error) from None
