"""Where a measurement happens: a local stack of its own, and empty stores for each scenario."""

import os
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from urllib.parse import urlsplit, urlunsplit

import asyncpg
from pydantic import SecretStr

from adapters.settings import Settings
from schemas.topics import USAGE_EVENTS
from stack.local import Stack
from stack.ports import Ports


@dataclass(frozen=True, slots=True)
class Place:
    """Empty, migrated stores: settings for this process, an environment for others."""

    settings: Settings
    environment: dict[str, str]

    @property
    def topic(self) -> str:
        """The real name of the usage topic."""
        return self.settings.topic_prefix + USAGE_EVENTS.name


class Site:
    """A running stack that gives out places."""

    def __init__(self, stack: Stack) -> None:
        self.stack = stack
        self._places = 0

    async def new_place(self, name: str) -> Place:
        """A database, topics and a ClickHouse database that nobody used before."""
        self._places += 1
        unique = f"bench_{self._places}_{name}"
        addresses = self.stack.environment()
        connection = await asyncpg.connect(addresses["TOLLGATE_POSTGRES"])
        try:
            await connection.execute(f'CREATE DATABASE "{unique}"')
        finally:
            await connection.close()
        postgres = urlsplit(addresses["TOLLGATE_POSTGRES"])._replace(path=f"/{unique}")
        settings = Settings(
            home=self.stack.home,
            kafka=addresses["TOLLGATE_KAFKA"],
            postgres=SecretStr(urlunsplit(postgres)),
            clickhouse=SecretStr(addresses["TOLLGATE_CLICKHOUSE"]),
            clickhouse_database=unique,
            topic_prefix=f"{unique}.",
        )
        place = Place(settings, _environment(settings))
        subprocess.run(  # noqa: ASYNC221 - our own command; nothing else runs meanwhile
            [sys.executable, "-m", "tollgate", "migrate", "--json"],
            env=place.environment,
            stdout=subprocess.DEVNULL,
            check=True,
        )
        return place


def _environment(settings: Settings) -> dict[str, str]:
    fields = {
        "HOME": settings.home,
        "KAFKA": settings.kafka,
        "POSTGRES": settings.postgres.get_secret_value(),
        "CLICKHOUSE": settings.clickhouse.get_secret_value(),
        "CLICKHOUSE_DATABASE": settings.clickhouse_database,
        "TOPIC_PREFIX": settings.topic_prefix,
        "LOG_LEVEL": "warning",
    }
    return {**os.environ, **{f"TOLLGATE_{name}": str(value) for name, value in fields.items()}}


@contextmanager
def open_site(directory: Path) -> Iterator[Site]:
    """A stack in the directory, on free ports, stopped at the end whatever happens."""
    stack = Stack(directory, Ports.free())
    try:
        stack.up()
        yield Site(stack)
    finally:
        stack.down()
