"""The scheduler: does the jobs that are asked for on scheduler.jobs.

Input: one message for each run of a job. Output: what the job changes, and its row in `job_run`.
Guarantee: a run is done once for its key, whoever asks how often and wherever it is killed; a
message that names no job is counted and logged, and the next one is read.
"""

import asyncio
import signal
from collections.abc import Sequence

import structlog
from aiokafka import AIOKafkaConsumer, ConsumerRecord, TopicPartition
from aiokafka.errors import CommitFailedError, KafkaError

from adapters.job_stream import open_jobs
from adapters.jobs import Busy, Figures, OtherRun, patient, supersede
from adapters.metrics import Metrics
from adapters.postgres import TRANSIENT, Connection, connect
from adapters.settings import Settings
from consumers.jobs import Workshop
from consumers.probes import serve_probes
from consumers.progress import Progress
from schemas.job_names import JobName
from schemas.jobs import BadJob, Job, decode_job

log = structlog.get_logger()

STAGE = "scheduler"
CLOCK = "clock"
POLL_MS = 500
BUSY_SECONDS = 1.0
BACK_OFF_SECONDS_MIN = 0.2
BACK_OFF_SECONDS_MAX = 10.0


class Scheduler:
    """Does one job after the other until told to stop. Any number may run at once.

    Trouble of the world is waited out for ever, with a growing pause: the message is not committed
    before its run has ended.
    """

    def __init__(self, settings: Settings, metrics: Metrics, progress: Progress) -> None:
        self._settings = settings
        self._metrics = metrics
        self._progress = progress
        self._workshop = Workshop(settings, metrics)
        self._connection: Connection | None = None
        self._stopping = asyncio.Event()

    def stop(self) -> None:
        """Ends the loop; a run under way stays open after its step, and is taken up again."""
        self._stopping.set()
        self._workshop.stop()

    async def run(self, consumer: AIOKafkaConsumer) -> None:
        """Reads and does jobs until `stop`."""
        try:
            while not self._stopping.is_set():
                found = await consumer.getmany(timeout_ms=POLL_MS)
                self._progress.ready = bool(consumer.assignment()) or self._progress.ready
                for place, records in found.items():
                    await self._do_all(consumer, place, records)
        finally:
            if self._connection is not None:
                await self._connection.close(timeout=2)

    async def _do_all(
        self, consumer: AIOKafkaConsumer, place: TopicPartition, records: Sequence[ConsumerRecord]
    ) -> None:
        jobs = [decode_job(record.value) for record in records]
        newest = {_kind(job): job for job in jobs if isinstance(job, Job) and job.source == CLOCK}
        for waiting, (record, job) in zip(
            range(len(jobs), 0, -1), zip(records, jobs, strict=True), strict=True
        ):
            self._progress.lag = waiting
            if not await self._finish(record, job, newest.get(_kind(job))):
                break
            await self._commit(consumer, place, record.offset + 1)
        self._progress.lag = 0

    async def _finish(self, record: ConsumerRecord, job: Job | BadJob, newest: Job | None) -> bool:
        """Whether the message is finished. One that is no job, or has the key of another one's
        run, stays in the topic for whoever wants to look at it.
        """
        if isinstance(job, Job):
            try:
                return await self._do(job, newest)
            except OtherRun as other:
                name, detail = str(job.data.job), str(other)
        else:
            name, detail = "", job.detail
        self._metrics.job_ended(name, "bad")
        log.warning("not a job", partition=record.partition, offset=record.offset, detail=detail)
        return True

    async def _do(self, job: Job, newest: Job | None) -> bool:
        """Whether the job's message is finished; False only when it is time to stop."""
        failures = 0
        while not self._stopping.is_set():
            try:
                connection = await self._connected()
                if job.source == CLOCK and newest is not None and newest.id != job.id:
                    await supersede(connection, job)
                    self._metrics.job_ended(job.data.job, "superseded")
                    log.info("superseded", job=job.data.job, job_key=job.id, by=newest.id)
                    return True
                await self._workshop.run(connection, job, self._note)
                return not self._stopping.is_set()
            except Busy:
                self._progress.resumed()
                await self._pause(BUSY_SECONDS)
            except TRANSIENT as trouble:
                failures += 1
                await self._wait_out(trouble, failures)
        return False

    def _note(self, figures: Figures) -> None:
        self._progress.batch_done(1 if figures else 0)

    async def _connected(self) -> Connection:
        if self._connection is None or self._connection.is_closed():
            self._connection = await connect(patient(self._settings), application_name=STAGE)
        return self._connection

    async def _wait_out(self, trouble: Exception, failures: int) -> None:
        pause = min(BACK_OFF_SECONDS_MAX, BACK_OFF_SECONDS_MIN * 2 ** min(failures - 1, 10))
        self._metrics.retried(type(trouble).__name__)
        self._progress.resumed()
        if self._connection is not None:
            self._connection.terminate()  # its locks are given up before anything is tried again
            self._connection = None
        log.warning(
            "waiting", cause=type(trouble).__name__, detail=str(trouble), pause_seconds=pause
        )
        await self._pause(pause)

    async def _pause(self, seconds: float) -> None:
        try:
            await asyncio.wait_for(self._stopping.wait(), seconds)
        except TimeoutError:
            return

    async def _commit(
        self, consumer: AIOKafkaConsumer, place: TopicPartition, next_offset: int
    ) -> None:
        """So that the next scheduler need not read it again: a run is done once all the same."""
        try:
            await consumer.commit({place: next_offset})
        except (CommitFailedError, KafkaError) as error:
            log.info("not committed: the message will be read again", error=repr(error))


def _kind(job: Job | BadJob) -> tuple[JobName, bool] | None:
    return (job.data.job, job.data.dry_run) if isinstance(job, Job) else None


async def run(settings: Settings) -> None:
    """A scheduler until SIGTERM or SIGINT; raises Failure when Kafka is away at its start."""
    metrics, progress = Metrics(STAGE), Progress(settings)
    scheduler = Scheduler(settings, metrics, progress)
    loop = asyncio.get_running_loop()
    for number in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(number, scheduler.stop)
    async with (
        serve_probes(settings, STAGE, progress, metrics),
        open_jobs(settings, STAGE) as consumer,
    ):
        await scheduler.run(consumer)
