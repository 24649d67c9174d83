"""Every metric, in one closed table: name, type, labels, unit, meaning.

A stage holds one `Metrics` and calls it once per batch, never once per event. The label `stage` is
on every metric, so that one query shows one stage's world.
"""

from collections.abc import Mapping
from dataclasses import dataclass, field
from enum import StrEnum
from typing import assert_never

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram, ProcessCollector
from prometheus_client.exposition import generate_latest


class Kind(StrEnum):
    """What Prometheus does with a metric."""

    COUNTER = "counter"
    GAUGE = "gauge"
    HISTOGRAM = "histogram"


class Outcome(StrEnum):
    """What became of one usage event; every offset is exactly one of them."""

    CHARGED = "charged"
    DUPLICATE = "duplicate"
    DEAD = "dead"


@dataclass(frozen=True, slots=True)
class Metric:
    """One row of the table; `labels` come after `stage`."""

    name: str
    kind: Kind
    labels: tuple[str, ...]
    unit: str
    meaning: str
    buckets: tuple[float, ...] = ()


_SECONDS = (0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0)
_RECORDS = (1.0, 10.0, 50.0, 100.0, 250.0, 500.0, 1000.0, 2000.0, 4000.0, 8000.0, 20_000.0)

EVENTS = Metric(
    "tollgate_events", Kind.COUNTER, ("outcome",), "events", "usage events finished, by outcome"
)
DEAD_LETTERS = Metric(
    "tollgate_dead_letters", Kind.COUNTER, ("reason",), "events", "dead letters booked, by reason"
)
DEAD_LETTERS_PUBLISHED = Metric(
    "tollgate_dead_letters_published", Kind.COUNTER, (), "events", "dead letters the topic acked"
)
PARKED = Metric(
    "tollgate_parked_letters",
    Kind.GAUGE,
    (),
    "events",
    "unpriced events that wait for a price version, in all; every rater shows the same number",
)
PARKED_REQUEUED = Metric(
    "tollgate_parked_requeued",
    Kind.COUNTER,
    (),
    "events",
    "unpriced events sent again, because a version prices them now",
)
ACCOUNTS_CREATED = Metric(
    "tollgate_accounts_created", Kind.COUNTER, (), "accounts", "accounts created by an event"
)
BATCH_SECONDS = Metric(
    "tollgate_batch_seconds",
    Kind.HISTOGRAM,
    (),
    "seconds",
    "one batch, from its first record in hand to its commit",
    _SECONDS,
)
BATCH_RECORDS = Metric(
    "tollgate_batch_records", Kind.HISTOGRAM, (), "records", "records of one batch", _RECORDS
)
RETRIES = Metric(
    "tollgate_retries", Kind.COUNTER, ("cause",), "attempts", "attempts repeated, by what failed"
)
LAG = Metric(
    "tollgate_lag_records",
    Kind.GAUGE,
    ("partition",),
    "records",
    "records of the topic that are not applied yet",
)
POSITION = Metric(
    "tollgate_position_offset",
    Kind.GAUGE,
    ("partition",),
    "offset",
    "next offset to apply, as PostgreSQL has it",
)
NEWEST_EVENT_AGE = Metric(
    "tollgate_newest_event_age_seconds",
    Kind.GAUGE,
    (),
    "seconds",
    "age of the newest event of the last batch when it was committed, by append time",
)
LAST_PROGRESS = Metric(
    "tollgate_last_progress_timestamp_seconds",
    Kind.GAUGE,
    (),
    "seconds since 1970",
    "when the last batch or range was finished",
)
LOOP_STALL = Metric(
    "tollgate_loop_stall_seconds_max",
    Kind.GAUGE,
    (),
    "seconds",
    "longest time that the event loop computed without a pause, since the start",
)
SHIPPED_ROWS = Metric(
    "tollgate_shipped_rows", Kind.COUNTER, ("stream",), "rows", "ledger rows ClickHouse acked"
)
SHIP_SECONDS = Metric(
    "tollgate_ship_seconds",
    Kind.HISTOGRAM,
    ("stream",),
    "seconds",
    "one range, from its intent to its mark",
    _SECONDS,
)
BEHIND = Metric(
    "tollgate_behind_seconds",
    Kind.GAUGE,
    ("stream",),
    "seconds",
    "age of the oldest ledger row that is not in ClickHouse; 0 when all are",
)
DRIFT = Metric(
    "tollgate_drift",
    Kind.GAUGE,
    ("check",),
    "findings",
    "differences that an audit found",
)
JOBS = Metric(
    "tollgate_jobs",
    Kind.COUNTER,
    ("job", "outcome"),
    "runs",
    "job messages: asked by a clock, done, failed, repeated (done before), superseded, bad",
)
JOB_SECONDS = Metric(
    "tollgate_job_seconds",
    Kind.HISTOGRAM,
    ("job",),
    "seconds",
    "one run of a job, from its message to its end",
    (0.01, 0.05, 0.25, 1.0, 5.0, 15.0, 60.0, 300.0, 1_800.0),
)
JOB_FIGURES = Metric(
    "tollgate_job_figures",
    Kind.COUNTER,
    ("job", "figure"),
    "as the figure says",
    "what jobs did, by the figures that `tollgate jobs` shows; dry runs do not count",
)

INGESTED = Metric(
    "tollgate_ingested",
    Kind.COUNTER,
    ("outcome",),
    "events",
    "usage events by HTTP: accepted by Kafka, rejected with a reason, or full, slow or away when"
    " Kafka did not take them",
)
INGEST_WAITING = Metric(
    "tollgate_ingest_waiting_bytes",
    Kind.GAUGE,
    (),
    "bytes",
    "usage events by HTTP that wait for Kafka's acknowledgement, with 1 KiB for each on top",
)
API_REQUESTS = Metric(
    "tollgate_api_requests",
    Kind.COUNTER,
    ("method", "route", "status"),
    "requests",
    "requests answered by the API, by its route and status",
)
API_SECONDS = Metric(
    "tollgate_api_seconds",
    Kind.HISTOGRAM,
    ("route",),
    "seconds",
    "one request of the API, from its headers in hand to the end of its answer",
    _SECONDS,
)
BALANCE_READS = Metric(
    "tollgate_balance_reads",
    Kind.COUNTER,
    ("outcome",),
    "reads",
    "balances shown, by hit or miss of the cache; the hit rate is hit / (hit + miss)",
)

METRICS = (
    EVENTS,
    DEAD_LETTERS,
    DEAD_LETTERS_PUBLISHED,
    PARKED,
    PARKED_REQUEUED,
    ACCOUNTS_CREATED,
    BATCH_SECONDS,
    BATCH_RECORDS,
    RETRIES,
    LAG,
    POSITION,
    NEWEST_EVENT_AGE,
    LAST_PROGRESS,
    LOOP_STALL,
    SHIPPED_ROWS,
    SHIP_SECONDS,
    BEHIND,
    DRIFT,
    INGESTED,
    INGEST_WAITING,
    API_REQUESTS,
    API_SECONDS,
    BALANCE_READS,
    JOBS,
    JOB_SECONDS,
    JOB_FIGURES,
)


@dataclass(frozen=True, slots=True)
class BatchFigures:
    """What one committed batch of the rater did; `dead` counts its dead letters by reason."""

    seconds: float
    charged: int
    duplicate: int
    dead: Mapping[str, int] = field(default_factory=dict)
    accounts_created: int = 0
    newest_event_age_seconds: float = 0.0


class Metrics:
    """The metrics of one stage in a registry of their own; figures only go up between restarts.

    Safe to read from another thread while the stage writes.
    """

    def __init__(self, stage: str) -> None:
        self._stage = stage
        self._worst_stall_seconds = 0.0
        self._registry = CollectorRegistry()
        self._counters: dict[str, Counter] = {}
        self._gauges: dict[str, Gauge] = {}
        self._histograms: dict[str, Histogram] = {}
        ProcessCollector(registry=self._registry)
        for metric in METRICS:
            self._register(metric)

    def batch_done(self, figures: BatchFigures) -> None:
        """Counts one committed batch; about twenty microseconds, whatever the batch holds."""
        dead = sum(figures.dead.values())
        self._count(EVENTS, figures.charged, Outcome.CHARGED)
        self._count(EVENTS, figures.duplicate, Outcome.DUPLICATE)
        self._count(EVENTS, dead, Outcome.DEAD)
        for reason, events in figures.dead.items():
            self._count(DEAD_LETTERS, events, reason)
        self._count(ACCOUNTS_CREATED, figures.accounts_created)
        self._observe(BATCH_SECONDS, figures.seconds)
        self._observe(BATCH_RECORDS, figures.charged + figures.duplicate + dead)
        self._set(NEWEST_EVENT_AGE, figures.newest_event_age_seconds)
        self._now(LAST_PROGRESS)

    def at_position(self, partition: int, *, next_offset: int, lag: int) -> None:
        """Where one partition stands after a commit."""
        self._set(POSITION, next_offset, str(partition))
        self._set(LAG, lag, str(partition))

    def forget_partition(self, partition: int) -> None:
        """Drops the figures of a partition that another worker has taken over."""
        for metric in (POSITION, LAG):
            self._gauges[metric.name].remove(self._stage, str(partition))

    def retried(self, cause: str) -> None:
        """Counts one repeated attempt; `cause` is the name of an exception class."""
        self._count(RETRIES, 1, cause)

    def loop_stalled(self, seconds: float) -> None:
        """Keeps the longest stall of the event loop since the start."""
        if seconds > self._worst_stall_seconds:
            self._worst_stall_seconds = seconds
            self._set(LOOP_STALL, seconds)

    def dead_letters_published(self, letters: int) -> None:
        """Counts dead letters that the topic has acknowledged."""
        self._count(DEAD_LETTERS_PUBLISHED, letters)

    def parked(self, letters: int) -> None:
        """How many unpriced events wait for a price."""
        self._set(PARKED, letters)

    def parked_requeued(self, letters: int) -> None:
        """Counts unpriced events that were sent to be rated again."""
        self._count(PARKED_REQUEUED, letters)

    def shipped(self, stream: str, *, rows: int, seconds: float) -> None:
        """Counts one range that is in ClickHouse and marked."""
        self._count(SHIPPED_ROWS, rows, stream)
        self._observe(SHIP_SECONDS, seconds, stream)
        self._now(LAST_PROGRESS)

    def behind(self, stream: str, seconds: float) -> None:
        """How old the oldest row of a stream is that ClickHouse lacks."""
        self._set(BEHIND, seconds, stream)

    def drift(self, check: str, findings: int) -> None:
        """What an audit found; stays until the next audit."""
        self._set(DRIFT, findings, check)

    def job_ended(self, job: str, outcome: str) -> None:
        """Counts one message of the scheduler; `job` is empty when it names none."""
        self._count(JOBS, 1, job, outcome)
        self._now(LAST_PROGRESS)

    def job_ran(self, job: str, seconds: float) -> None:
        """How long one run of a job took in this process."""
        self._observe(JOB_SECONDS, seconds, job)

    def job_did(self, job: str, figures: Mapping[str, int]) -> None:
        """Adds the figures of a committed step; those below 1 say nothing."""
        for figure, amount in figures.items():
            if amount > 0:
                self._count(JOB_FIGURES, amount, job, figure)

    def request_answered(self, method: str, route: str, status: int, seconds: float) -> None:
        """Counts one request; `route` is the path with its placeholders, never a caller's text."""
        self._count(API_REQUESTS, 1, method, route, str(status))
        self._observe(API_SECONDS, seconds, route)

    def ingested(self, outcome: str, events: int, waiting_bytes: int) -> None:
        """Counts usage events of one request, and what waits for Kafka after it."""
        if events:
            self._count(INGESTED, events, outcome)
        self._set(INGEST_WAITING, waiting_bytes)

    def balance_read(self, *, hit: bool) -> None:
        """Counts one balance that was shown."""
        self._count(BALANCE_READS, 1, "hit" if hit else "miss")

    def text(self) -> bytes:
        """Everything in Prometheus' text format."""
        return generate_latest(self._registry)

    def _count(self, metric: Metric, amount: int, *labels: str) -> None:
        self._counters[metric.name].labels(self._stage, *labels).inc(amount)

    def _observe(self, metric: Metric, amount: float, *labels: str) -> None:
        self._histograms[metric.name].labels(self._stage, *labels).observe(amount)

    def _set(self, metric: Metric, amount: float, *labels: str) -> None:
        self._gauges[metric.name].labels(self._stage, *labels).set(amount)

    def _now(self, metric: Metric) -> None:
        self._gauges[metric.name].labels(self._stage).set_to_current_time()

    def _register(self, metric: Metric) -> None:
        labels = ("stage", *metric.labels)
        text = f"{metric.meaning} [{metric.unit}]"
        registry = self._registry
        match metric.kind:
            case Kind.COUNTER:
                self._counters[metric.name] = Counter(metric.name, text, labels, registry=registry)
            case Kind.GAUGE:
                self._gauges[metric.name] = Gauge(metric.name, text, labels, registry=registry)
            case Kind.HISTOGRAM:
                self._histograms[metric.name] = Histogram(
                    metric.name, text, labels, buckets=metric.buckets, registry=registry
                )
            case _:
                assert_never(metric.kind)
