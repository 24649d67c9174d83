"""The three components under one description, so that the stack treats them alike."""

import socket
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from urllib.parse import urlsplit

from stack import clickhouse, java, kafka, postgres
from stack.ports import HOST, Name
from stack.process import Launch


@dataclass(frozen=True, slots=True)
class Component:
    """What the stack needs to know of a component.

    `prepare` makes its files (keeping data that is there) and says how to start it; `answers` asks
    the one that listens on a port; `address` is what clients connect to; `version` is what would
    be started. All raise Failure when something is not installed.
    """

    prepare: Callable[[Path, int], Launch]
    answers: Callable[[int], bool]
    address: Callable[[int], str]
    version: Callable[[], str]


def _kafka_address(port: int) -> str:
    return f"{HOST}:{port}"


COMPONENTS = {
    Name.KAFKA: Component(kafka.prepare, kafka.answers, _kafka_address, java.kafka_version),
    Name.POSTGRES: Component(postgres.prepare, postgres.answers, postgres.dsn, postgres.version),
    Name.CLICKHOUSE: Component(
        clickhouse.prepare, clickhouse.answers, clickhouse.url, clickhouse.engine_version
    ),
}


def listens(dsn: str) -> bool:
    """True when something takes connections where a PostgreSQL that is not ours should be."""
    place = urlsplit(dsn)
    try:
        socket.create_connection((place.hostname or HOST, place.port or 5432), timeout=3).close()
    except (OSError, ValueError):
        return False
    return True
