"""One fault test's bench: settings, workers, traffic and the verdict at the end."""

import asyncio
import os
import sys
from collections.abc import Mapping

from adapters.settings import Settings
from tests.faults.fleet import Fleet
from tests.faults.surgery import Surgeon
from tests.faults.traffic import Identity, Publisher, Traffic
from tests.faults.verdict import Verdict

DRAIN_SECONDS_MAX = 60
COMMAND_SECONDS_MAX = 60


class Bench:
    """What a test works with; see the module."""

    def __init__(self, settings: Settings, fleet: Fleet) -> None:
        self.settings = settings
        self.fleet = fleet
        self.verdict = Verdict(settings, fleet.complaints)
        self.surgeon = Surgeon(settings, self.verdict.topic)
        self.publisher = Publisher(settings.kafka, self.verdict.topic)

    @property
    def environment(self) -> dict[str, str]:
        """For a process that is started by hand."""
        return {**os.environ, **self.fleet.environment}

    async def run(self, *arguments: str) -> str:
        """The output of the `tollgate` command, as a person runs it; it must end well."""
        process = await asyncio.create_subprocess_exec(
            sys.executable,
            "-m",
            "tollgate",
            *arguments,
            env=self.environment,
            stdout=asyncio.subprocess.PIPE,
            stderr=asyncio.subprocess.STDOUT,
        )
        output, _ = await asyncio.wait_for(process.communicate(), COMMAND_SECONDS_MAX)
        assert process.returncode == 0, output.decode()
        return output.decode()

    async def publish(self, traffic: Traffic, count: int) -> None:
        """Publishes the next `count` records and waits for the broker."""
        records = traffic.records(count)
        await self.publisher.send(records)
        traffic.published += count

    async def ledger_is_exact(
        self, expected: Mapping[Identity, int], seconds_max: float = DRAIN_SECONDS_MAX
    ) -> None:
        """As `exact`, of PostgreSQL alone: no warehouse runs."""
        await self.exact(expected, copy=False, seconds_max=seconds_max)

    async def charged(self, count: int, seconds_max: float = 30) -> None:
        """Waits until at least so many charges are in PostgreSQL."""
        await self.verdict.until(lambda n: n >= count, seconds_max)

    async def exact(
        self,
        expected: Mapping[Identity, int],
        *,
        copy: bool = True,
        seconds_max: float = DRAIN_SECONDS_MAX,
    ) -> None:
        """Waits until all is applied and copied; then nothing may be lost, doubled or drifting.

        With `copy`, a warehouse must run, and ClickHouse is part of it.
        """
        await self.publisher.close()
        await self.verdict.drained(seconds_max)
        if copy:
            await self.verdict.copied(seconds_max)
        findings = await self.verdict.ledger_findings(expected)
        if copy:
            findings += await self.verdict.copy_findings()
        assert not findings, "\n".join([*findings, self.fleet.complaints()])
