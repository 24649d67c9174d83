"""The demo's last page: what happened to every event, in a form that a person enjoys."""

from collections.abc import Sequence
from typing import Any

from tollgate.output import credits_text, print_table, say


def print_summary(report: dict[str, Any]) -> None:
    """Prints throughput, outcomes, top accounts and models, dead letters, latencies, verdict."""
    say("")
    print_table(["credits and the gate", ""], report["credits"]["steps"])
    _speed(report)
    _outcomes(report)
    _analytics(report["analytics"])
    _dead_letters(report["dead_letters"])
    _latencies(report["latency_seconds"])
    _verdict(report)


def _speed(report: dict[str, Any]) -> None:
    records = report["records"]
    rows = [
        (where, f"{seconds:.1f} s", f"{records / max(seconds, 0.001):,.0f}")
        for where, seconds in (
            ("from the first record to the last balance", report["applied_seconds"]),
            ("from the first record to the last row in ClickHouse", report["copied_seconds"]),
        )
    ]
    title = f"{records:,} records, published while the workers ran"
    print_table(["", "time", "records/s"], rows, title=title)
    if "seed" in report["published"]:
        say(f"The same again: `tollgate demo --seed {report['published']['seed']}`.")
        say("")


def _outcomes(report: dict[str, Any]) -> None:
    published, outcome = report["published"], report["outcome"]
    expected: dict[str, Any] = {}
    if "unique" in published:
        expected = {
            "charged": published["unique"],
            "duplicate": published["duplicates"],
            "dead": sum(published["poison"].values()),
        }
    rows = [
        (label, outcome[name], expected.get(name))
        for name, label in (
            ("charged", "charged, once"),
            ("duplicate", "duplicates, charged nothing"),
            ("dead", "dead letters, kept with a reason"),
        )
    ]
    print_table(["what became of every record", "found", "expected"], rows)
    say(
        f"{credits_text(outcome['charged_micro'])} credits charged; "
        f"{outcome['accounts']:,} accounts opened with welcome credits."
    )
    say("")


def _analytics(analytics: dict[str, list[Sequence[Any]]]) -> None:
    accounts, models = analytics["accounts"], analytics["models"]
    print_table(
        ["account", "events", "credits", "% of all events"],
        [(who, n, credits_text(spent), str(share)) for who, n, spent, share in accounts],
        title="Top accounts, asked of ClickHouse",
    )
    print_table(
        ["model or action", "events", "input tokens", "output tokens", "credits"],
        [(what, n, i, o, credits_text(spent)) for what, n, i, o, spent in models],
        title="Top models, asked of ClickHouse",
    )


def _dead_letters(letters: list[dict[str, Any]]) -> None:
    if not letters:
        return
    print_table(
        ["reason", "letters", "for example"],
        [(row["reason"], row["letters"], row["example"]) for row in letters],
        title="Dead letters",
    )
    first = letters[0]["first_letter"]
    say(f"Look at one with `tollgate dead-letters show {first}`.")
    say("")


def _latencies(latency: dict[str, Any]) -> None:
    figures = ("p50", "p99", "max")
    rows = [
        (label, *(f"{latency[f'{name}_{figure}'] * 1000:,.0f} ms" for figure in figures))
        for name, label in (
            ("balance", "the app's call to the moved balance"),
            ("clickhouse", "the app's call to the row in ClickHouse"),
        )
    ]
    title = f"{latency['events']} single events, while {latency['rate']:,} others a second flowed"
    print_table(["from", "p50", "p99", "max"], rows, title=title)


def _verdict(report: dict[str, Any]) -> None:
    verify = report["verify"]
    print_table(
        ["verify", "compared", "", "findings"],
        [(c["check"], c["compared"], c["what"], c["found"]) for c in verify["checks"]],
    )
    if report["as_expected"] and verify["exact"]:
        say("Exact: every record accounted for, no drift between ledger, balances and ClickHouse.")
    elif verify["exact"]:
        say("NOT as expected: the outcomes differ from what was published.")
    else:
        say("NOT exact: see `tollgate verify`.")
    say('Look around: `tollgate up`, then `tollgate query "SELECT * FROM usage_by_day"`.')
