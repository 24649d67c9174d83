"""The clock as a process: its intervals from the settings, its probes, its end."""

import asyncio
import signal

import structlog

from adapters.job_stream import topic_of
from adapters.metrics import Metrics
from adapters.settings import Settings
from consumers.probes import serve_probes
from consumers.progress import Progress
from producers.clock import Clock
from schemas.job_names import JobName

log = structlog.get_logger()

STAGE = "clock"


def intervals(settings: Settings) -> dict[JobName, int]:
    """How often the clock asks for each job, in seconds."""
    every = {
        JobName.RECONCILE: settings.reconcile_interval_seconds,
        JobName.EXPIRE: settings.expire_interval_seconds,
        JobName.AUDIT: settings.audit_interval_seconds,
        JobName.PURGE: settings.purge_interval_seconds,
    }
    if settings.refresh_enabled:
        every[JobName.REFRESH] = settings.refresh_interval_seconds
    return every


async def run(settings: Settings) -> None:
    """A clock until SIGTERM or SIGINT; any number may run at once."""
    metrics, progress = Metrics(STAGE), Progress(settings)

    def on_sent(key: str) -> None:
        progress.ready = True
        metrics.job_ended(key.partition(":")[0], "asked")
        log.info("asked", job_key=key)

    clock = Clock(settings.kafka, topic_of(settings), intervals(settings), on_sent)
    loop = asyncio.get_running_loop()
    for number in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(number, clock.stop)
    async with serve_probes(settings, STAGE, progress, metrics):
        await clock.run()
