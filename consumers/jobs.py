"""What each job does, in steps that are committed one by one, and one run of it from end to end."""

import asyncio
import time
from collections.abc import AsyncGenerator, Callable
from contextlib import AsyncExitStack, aclosing
from typing import Final, assert_never

import structlog

from adapters import expiry, overtaken, purge, reconcile, refresh
from adapters.audit import audit
from adapters.failures import Failure
from adapters.gate_prices import PriceSource
from adapters.jobs import (
    Ended,
    Figures,
    Run,
    add_figures,
    at_work,
    end_run,
    patient,
    still_held,
)
from adapters.metrics import Metrics
from adapters.postgres import TRANSIENT, Connection, connect
from adapters.refresh import REFUSALS
from adapters.settings import Settings
from consumers.side_by_side import merged
from core.refresh import Terms
from schemas.job_names import JobName
from schemas.jobs import Job

log = structlog.get_logger()

ACTOR: Final = "scheduler"
SIGN_SECONDS = 5.0  # between two signs of life of an audit
FAILURES_LOGGED_MAX: Final = 100  # of one run: a defect that hits everybody is one defect

Note = Callable[[Figures], None]


def terms_of(settings: Settings) -> Terms:
    """The deployment's terms of the monthly allowance."""
    return Terms(settings.refresh_tier_micro, settings.refresh_rollover_max_micro)


class Workshop:
    """Does jobs, one at a time, on one connection. Stopped between two steps, a run stays open."""

    def __init__(self, settings: Settings, metrics: Metrics | None = None) -> None:
        self._settings = settings
        self._metrics = metrics
        self._prices = PriceSource()
        self._stopping = asyncio.Event()
        self._failures_logged = 0

    def stop(self) -> None:
        """Ends the run that is under way after its step; it is open and can be taken up again."""
        self._stopping.set()

    async def run(
        self, connection: Connection, job: Job, note: Note = lambda _: None
    ) -> Ended | None:
        """Does the job, unless its key was done before: None then, and when it was stopped.

        What a run did before a crash stays done and counted. A defect ends the run as failed and
        is not raised. Raises Busy when somebody else is at work on the key, and what a retry may
        heal (TRANSIENT).
        """
        async with at_work(connection, job) as run:
            if run is None:
                log.info("done before", job=job.data.job, job_key=job.id)
                self._count(job, "repeated")
                return None
            started = time.monotonic()
            error = ""
            try:
                if not await self._work(connection, run, note):
                    log.info("stopped in the middle", job=run.job, job_key=job.id)
                    return None
            except Exception as defect:
                if isinstance(defect, TRANSIENT) and not isinstance(defect, REFUSALS):
                    raise
                error = f"{type(defect).__name__}: {defect}"
                if not isinstance(defect, Failure):
                    log.exception("a job failed", job=run.job, job_key=job.id)
            ended = await end_run(connection, run.run_id, error=error)
            self._report(job, run, ended, error, time.monotonic() - started)
            return ended

    async def _work(self, connection: Connection, run: Run, note: Note) -> bool:
        """Whether the run came to its end."""
        self._failures_logged = 0
        dry = run.dry_run or (run.job is JobName.REFRESH and self._settings.refresh_dry_run)
        steps = self._preview(connection, run) if dry else self._steps(connection, run)
        async with aclosing(steps):
            async for figures in steps:
                note(figures)
                if self._metrics is not None and not dry:
                    self._metrics.job_did(run.job, figures)
                if self._stopping.is_set():
                    return False
        return True

    def _steps(self, connection: Connection, run: Run) -> AsyncGenerator[Figures, None]:
        match run.job:
            case JobName.REFRESH:
                return self._refresh(connection, run)
            case JobName.RECONCILE:
                return self._reconcile(connection, run)
            case JobName.EXPIRE:
                return self._expire(connection, run)
            case JobName.AUDIT:
                return self._audit(connection, run)
            case JobName.PURGE:
                return purge.purge(connection, run.run_id, self._keep())
            case _:
                assert_never(run.job)

    async def _refresh(self, connection: Connection, run: Run) -> AsyncGenerator[Figures, None]:
        if not self._settings.refresh_enabled:
            log.warning("refresh is switched off", variable="TOLLGATE_REFRESH_ENABLED")
            return
        async for enrolled in refresh.enrol(connection):
            await add_figures(connection, run.run_id, {"enrolled": enrolled})
            yield {"enrolled": enrolled}
        terms = terms_of(self._settings)
        what = refresh.RefreshRun(run.run_id, ACTOR, "the monthly allowance", terms)
        batch_accounts = self._settings.refresh_batch
        async with AsyncExitStack() as stack:
            connections = [connection]
            for _ in range(self._settings.refresh_connections - 1):
                more = await connect(patient(self._settings), application_name=f"{ACTOR}-refresh")
                stack.push_async_callback(more.close, timeout=2)
                connections.append(more)
            streams = [refresh.refresh_due(one, what, batch_accounts) for one in connections]
            async with aclosing(merged(streams)) as batches:
                async for batch in batches:
                    for account_id, refusal in batch.failures:
                        self._log_failure(account_id, refusal)
                    yield batch.figures

    def _log_failure(self, account_id: str, refusal: str) -> None:
        self._failures_logged += 1
        if self._failures_logged <= FAILURES_LOGGED_MAX:
            log.error("an account was not refreshed", account_id=account_id, refusal=refusal)

    async def _reconcile(self, connection: Connection, run: Run) -> AsyncGenerator[Figures, None]:
        after_seconds = self._settings.reconcile_after_seconds
        async for done in reconcile.reconcile(connection, run.run_id, after_seconds, self._prices):
            yield done.figures
        async for replaced in overtaken.replace(connection, run.run_id):
            yield replaced.figures

    async def _expire(self, connection: Connection, run: Run) -> AsyncGenerator[Figures, None]:
        async for done in expiry.expire(connection, ACTOR, run.run_id):
            yield done.figures

    async def _audit(self, connection: Connection, run: Run) -> AsyncGenerator[Figures, None]:
        audited = asyncio.create_task(audit(self._settings))
        try:
            while not (await asyncio.wait({audited}, timeout=SIGN_SECONDS))[0]:
                await still_held(connection)
                yield {}
            report = audited.result()
        finally:
            audited.cancel()
            await asyncio.gather(audited, return_exceptions=True)
        for result in report.results:
            if self._metrics is not None:
                self._metrics.drift(result.check, result.found)
            if result.found:
                first = str(result.findings[0])
                log.error("drift", check=result.check, findings=result.found, first=first)
        figures = {
            "checks": len(report.results),
            "compared": sum(result.compared for result in report.results),
            "findings": sum(result.found for result in report.results),
            "waiting": report.waiting.total,
        }
        log.info("audited", audit_anchor=str(report.audit_anchor), **figures)
        await add_figures(connection, run.run_id, figures)
        yield figures

    async def _preview(self, connection: Connection, run: Run) -> AsyncGenerator[Figures, None]:
        """What the job would do; an audit changes nothing anyhow."""
        match run.job:
            case JobName.REFRESH:
                due = await refresh.count_due(connection, terms_of(self._settings))
                figures = {
                    "accounts": sum(tier.accounts for tier in due),
                    "amount_micro": sum(tier.amount_micro for tier in due),
                }
            case JobName.RECONCILE:
                after_seconds = self._settings.reconcile_after_seconds
                figures = await reconcile.preview(connection, after_seconds)
            case JobName.EXPIRE:
                figures = (await expiry.preview(connection)).figures
            case JobName.AUDIT:
                async for found in self._audit(connection, run):
                    yield found
                return
            case JobName.PURGE:
                figures = await purge.preview(connection, self._keep())
            case _:
                assert_never(run.job)
        await add_figures(connection, run.run_id, figures)
        yield figures

    def _keep(self) -> purge.Keep:
        return purge.Keep(self._settings.idempotency_key_days, self._settings.job_run_days)

    def _report(self, job: Job, run: Run, ended: Ended, error: str, seconds: float) -> None:
        said = log.error if error else log.info
        said(
            "job failed" if error else "job done",
            error=error,
            job=run.job,
            job_key=job.id,
            run_id=run.run_id,
            dry_run=run.dry_run,
            duration_seconds=round(ended.duration_seconds, 3),
            **ended.figures,
        )
        self._count(job, "failed" if error else "done")
        if self._metrics is not None:
            self._metrics.job_ran(run.job, seconds)

    def _count(self, job: Job, outcome: str) -> None:
        if self._metrics is not None:
            self._metrics.job_ended(job.data.job, outcome)
