"""The table of metrics, and what a scrape says after a batch."""

import re

from prometheus_client.parser import text_string_to_metric_families

from adapters.metrics import METRICS, BatchFigures, Kind, Metrics

UNITS_IN_NAMES = {"seconds": "seconds", "seconds since 1970": "seconds"}


def samples(metrics: Metrics) -> dict[tuple[str, tuple[tuple[str, str], ...]], float]:
    families = text_string_to_metric_families(metrics.text().decode())
    return {
        (sample.name, tuple(sorted(sample.labels.items()))): sample.value
        for family in families
        for sample in family.samples
    }


def value(metrics: Metrics, name: str, **labels: str) -> float:
    return samples(metrics)[name, tuple(sorted({"stage": "rater", **labels}.items()))]


def test_the_table_is_consistent() -> None:
    names = [metric.name for metric in METRICS]
    assert len(names) == len(set(names))
    for metric in METRICS:
        assert re.fullmatch(r"tollgate_[a-z_]+", metric.name)
        assert not metric.name.endswith("_total")
        assert metric.meaning
        assert metric.unit
        assert "stage" not in metric.labels
        assert bool(metric.buckets) is (metric.kind is Kind.HISTOGRAM)
        if metric.unit in UNITS_IN_NAMES:
            assert UNITS_IN_NAMES[metric.unit] in metric.name


def test_labels_cannot_grow_with_accounts() -> None:
    labels = {label for metric in METRICS for label in metric.labels}
    known = {"outcome", "reason", "partition", "stream", "check", "cause", "job", "figure"}
    assert labels <= known | {"method", "route", "status"}


def test_a_batch_is_counted_once_by_outcome_and_reason() -> None:
    metrics = Metrics("rater")
    figures = BatchFigures(
        seconds=0.2,
        charged=90,
        duplicate=7,
        dead={"bad_json": 2, "unpriced": 1},
        accounts_created=4,
        newest_event_age_seconds=1.5,
    )
    metrics.batch_done(figures)
    metrics.batch_done(figures)
    assert value(metrics, "tollgate_events_total", outcome="charged") == 180
    assert value(metrics, "tollgate_events_total", outcome="duplicate") == 14
    assert value(metrics, "tollgate_events_total", outcome="dead") == 6
    assert value(metrics, "tollgate_dead_letters_total", reason="bad_json") == 4
    assert value(metrics, "tollgate_accounts_created_total") == 8
    assert value(metrics, "tollgate_batch_seconds_count") == 2
    assert value(metrics, "tollgate_batch_records_sum") == 200
    assert value(metrics, "tollgate_newest_event_age_seconds") == 1.5


def test_a_lost_partition_is_no_longer_shown() -> None:
    metrics = Metrics("rater")
    metrics.at_position(3, next_offset=10, lag=5)
    assert value(metrics, "tollgate_lag_records", partition="3") == 5
    metrics.forget_partition(3)
    assert "tollgate_lag_records{" not in metrics.text().decode()
    metrics.forget_partition(3)


def test_what_the_other_stages_tell() -> None:
    metrics = Metrics("rater")
    metrics.shipped("charge", rows=1000, seconds=0.3)
    metrics.behind("charge", 12.5)
    metrics.drift("balances", 2)
    metrics.retried("DeadlockDetectedError")
    metrics.dead_letters_published(3)
    assert value(metrics, "tollgate_shipped_rows_total", stream="charge") == 1000
    assert value(metrics, "tollgate_behind_seconds", stream="charge") == 12.5
    assert value(metrics, "tollgate_drift", check="balances") == 2
    assert value(metrics, "tollgate_retries_total", cause="DeadlockDetectedError") == 1
    assert value(metrics, "tollgate_dead_letters_published_total") == 3


def test_two_stages_of_one_process_do_not_meet() -> None:
    one, other = Metrics("rater"), Metrics("warehouse")
    one.retried("OSError")
    assert b"OSError" not in other.text()


def test_parked_letters_are_a_number_and_what_was_sent_again_adds_up() -> None:
    metrics = Metrics("rater")
    for waiting, requeued in ((250, 0), (50, 200), (0, 50)):
        metrics.parked(waiting)
        metrics.parked_requeued(requeued)
    assert value(metrics, "tollgate_parked_letters") == 0
    assert value(metrics, "tollgate_parked_requeued_total") == 250
