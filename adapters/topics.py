"""Topics on the broker: created from schemas/topics.py, compared with it, and asked for their ends.

Nothing else creates a topic: one made by a client's first message would have one partition and the
broker's defaults.
"""

from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass

from aiokafka import AIOKafkaConsumer, TopicPartition
from aiokafka.admin import AIOKafkaAdminClient, NewTopic
from aiokafka.admin.config_resource import ConfigResource, ConfigResourceType
from aiokafka.errors import KafkaError, TopicAlreadyExistsError, for_code

from adapters.failures import Failure
from adapters.publishing import unreachable
from adapters.settings import Settings
from schemas.topics import ALL, USAGE_EVENTS, Topic

REQUEST_TIMEOUT_MS = 15_000


@dataclass(frozen=True, slots=True)
class TopicReport:
    """What became of one topic: created now, or found, with what differs from the table."""

    name: str
    created: bool
    warnings: tuple[str, ...]


def partitions_of(topic: Topic, settings: Settings) -> int:
    """How many partitions a new topic gets: the setting for usage events, else the table's."""
    return settings.partitions if topic is USAGE_EVENTS else topic.partitions


async def ensure_topics(settings: Settings, *, dry_run: bool = False) -> list[TopicReport]:
    """Creates the topics that are missing and compares the others. Idempotent.

    Nothing of an existing topic is changed: fewer partitions or another setting is a warning, more
    partitions are fine. Raises Failure when the broker does not answer or refuses.
    """
    async with _admin(settings) as admin:
        existing = set(await admin.list_topics())
        missing = [topic for topic in ALL if settings.topic_prefix + topic.name not in existing]
        present = [topic for topic in ALL if topic not in missing]
        reports = [
            TopicReport(settings.topic_prefix + topic.name, created=True, warnings=())
            for topic in missing
        ]
        if missing and not dry_run:
            await _create(admin, settings, missing)
        reports += await _compare(admin, settings, present)
    return sorted(reports, key=lambda report: report.name)


async def offsets(settings: Settings, name: str) -> dict[int, tuple[int, int]]:
    """The first and the end offset of every partition of a topic (its real name); empty when it is
    missing. Raises Failure when the broker does not answer.
    """
    partitions = await _partitions(settings, name)
    if not partitions:
        return {}
    places = [TopicPartition(name, partition) for partition in partitions]
    consumer = AIOKafkaConsumer(
        bootstrap_servers=settings.kafka,
        client_id="tollgate-offsets",
        group_id=None,
        enable_auto_commit=False,
        request_timeout_ms=REQUEST_TIMEOUT_MS,
    )
    try:
        await consumer.start()
        consumer.assign(places)
        beginnings = await consumer.beginning_offsets(places)
        ends = await consumer.end_offsets(places)
    except KafkaError as error:
        raise unreachable(settings, error) from None
    finally:
        await consumer.stop()
    return {place.partition: (beginnings[place], ends[place]) for place in places}


async def _partitions(settings: Settings, name: str) -> list[int]:
    async with _admin(settings) as admin:
        if name not in await admin.list_topics():
            return []
        [described] = await admin.describe_topics([name])
    return sorted(part["partition"] for part in described["partitions"])


@asynccontextmanager
async def _admin(settings: Settings) -> AsyncIterator[AIOKafkaAdminClient]:
    admin = AIOKafkaAdminClient(
        bootstrap_servers=settings.kafka,
        client_id="tollgate-topics",
        request_timeout_ms=REQUEST_TIMEOUT_MS,
    )
    try:
        await admin.start()
        yield admin
    except KafkaError as error:
        raise unreachable(settings, error) from None
    finally:
        await admin.close()


def asked_for(topic: Topic, settings: Settings) -> NewTopic:
    """What the broker is asked to create for a topic."""
    return NewTopic(
        name=settings.topic_prefix + topic.name,
        num_partitions=partitions_of(topic, settings),
        replication_factor=settings.replication_factor,
        topic_configs=topic.broker_config(settings.replication_factor),
    )


async def _create(admin: AIOKafkaAdminClient, settings: Settings, missing: Sequence[Topic]) -> None:
    answer = await admin.create_topics([asked_for(topic, settings) for topic in missing])
    for name, code, *message in answer.topic_errors:
        refusal = for_code(code)
        # Another `tollgate migrate` may have been faster.
        if code != 0 and refusal is not TopicAlreadyExistsError:
            raise Failure(f"topic {name} was not created: {refusal.__name__} {message or ''}")


async def _compare(
    admin: AIOKafkaAdminClient, settings: Settings, present: Sequence[Topic]
) -> list[TopicReport]:
    if not present:
        return []
    names = [settings.topic_prefix + topic.name for topic in present]
    described = {topic["topic"]: topic for topic in await admin.describe_topics(names)}
    configs = await _configs(admin, names)
    reports = []
    for topic, name in zip(present, names, strict=True):
        found, wanted = len(described[name]["partitions"]), partitions_of(topic, settings)
        warnings = []
        if found < wanted:
            warnings.append(f"{name} has {found} partitions, {wanted} are configured")
        warnings += [
            f"{name} has {key}={configs[name].get(key)}, {value} is expected"
            for key, value in topic.broker_config(settings.replication_factor).items()
            if configs[name].get(key) != value
        ]
        reports.append(TopicReport(name, created=False, warnings=tuple(warnings)))
    return reports


async def _configs(admin: AIOKafkaAdminClient, names: Sequence[str]) -> dict[str, dict[str, str]]:
    answers = await admin.describe_configs(
        [ConfigResource(ConfigResourceType.TOPIC, name) for name in names]
    )
    return {
        name: {entry[0]: entry[1] for entry in entries}
        for answer in answers
        for _code, _message, _kind, name, entries in answer.resources
    }
