"""Audits the stores again and again while a stage runs, and shows what it finds as metrics."""

import asyncio
import time

import structlog

from adapters.audit import audit
from adapters.failures import Failure
from adapters.metrics import Metrics
from adapters.postgres import TRANSIENT
from adapters.settings import Settings

log = structlog.get_logger()

# What the next audit may find healed.
TROUBLE: tuple[type[Exception], ...] = (Failure, *TRANSIENT)

# An audit reads the whole ledger: it may take a twentieth of the time, whatever the ledger's size.
PAUSE_FACTOR = 20.0


async def watch_drift(settings: Settings, metrics: Metrics) -> None:
    """Audits every `audit_seconds`, less often when an audit takes long; 0: never. Runs for ever.

    Reads only. A difference is logged as an error and stays in `tollgate_drift` until an audit no
    longer finds it; nothing is repaired by itself.
    """
    if not settings.audit_seconds:
        return
    pause_seconds = settings.audit_seconds
    while True:
        await asyncio.sleep(pause_seconds)
        began = time.monotonic()
        try:
            await audit_once(settings, metrics)
        except TROUBLE as error:
            log.info("not audited this time", error=str(error))
        except Exception:
            log.exception("the audit failed")  # nobody waits for this task: it must not end
        pause_seconds = max(settings.audit_seconds, PAUSE_FACTOR * (time.monotonic() - began))


async def audit_once(settings: Settings, metrics: Metrics) -> None:
    """One audit into the metrics; raises Failure when a store is away."""
    report = await audit(settings)
    for result in report.results:
        metrics.drift(result.check, result.found)
        if result.found:
            first = result.findings[0]
            log.error("drift", check=result.check, findings=result.found, first=str(first))
