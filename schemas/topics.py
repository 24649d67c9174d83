"""Every topic in one table. Topics are created by `tollgate migrate`, never by a client."""

from dataclasses import dataclass
from typing import Final

_DAY_MS = 86_400_000
_RECORD_BYTES_MAX = 262_144


@dataclass(frozen=True, slots=True)
class Topic:
    """One topic. Its name in a deployment is the configured prefix and `name`.

    `partitions` is the number a new topic gets. `max_message_bytes` is the broker's limit for one
    batch: it bounds what a compressed batch can grow to in a consumer. Records are stamped by the
    broker, so that a wrong clock of an app moves neither retention nor the time window.
    """

    name: str
    key: str
    partitions: int
    retention_ms: int
    max_message_bytes: int = _RECORD_BYTES_MAX

    def broker_config(self, replicas: int) -> dict[str, str]:
        """The topic settings to create it with, as Kafka spells them.

        From three replicas on, "all replicas have it" means two at least: by the broker's default
        it means a lone leader when the others are behind, and with it events would be lost.
        """
        kept = {"min.insync.replicas": "2", "unclean.leader.election.enable": "false"}
        return {
            "cleanup.policy": "delete",
            "max.message.bytes": str(self.max_message_bytes),
            "message.timestamp.type": "LogAppendTime",
            "retention.ms": str(self.retention_ms),
            **(kept if replicas >= 3 else {}),
        }


USAGE_EVENTS: Final = Topic(
    "usage.events", key="the account", partitions=8, retention_ms=14 * _DAY_MS
)
USAGE_DEAD: Final = Topic(
    "usage.dead", key="the account, when known", partitions=1, retention_ms=90 * _DAY_MS
)
SCHEDULER_JOBS: Final = Topic(
    "scheduler.jobs", key="the name of the job", partitions=1, retention_ms=7 * _DAY_MS
)
NOTIFICATIONS: Final = Topic(
    "notifications", key="the account", partitions=1, retention_ms=7 * _DAY_MS
)
ALL: Final = (USAGE_EVENTS, USAGE_DEAD, SCHEDULER_JOBS, NOTIFICATIONS)
