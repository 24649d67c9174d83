"""The results as a page of Markdown: tables to read, and the document as JSON below them."""

import json
from collections.abc import Iterable, Sequence
from typing import Any

DRAINS = (
    ("end_to_end", "mixed traffic, 2 raters + warehouse"),
    ("hot_account", "one account with 40 % of it"),
    ("one_account", "everything on one account"),
    ("one_rater", "1 rater alone, no warehouse"),
)
REFRESHES = (
    ("first", "by message, one scheduler"),
    ("replacing_with_a_kill", "replacing, two and a kill"),
)


def page(document: dict[str, Any], command: str) -> str:
    """`bench/RESULTS.md`: what was measured, on what, and by which command."""
    return "\n".join(
        [
            "# Results of the benchmark",
            "",
            f"Written by `{command}`; not edited by hand.",
            "",
            "Kafka, PostgreSQL, ClickHouse's engine, the workers and the generator share the",
            "machine. Every drain that reaches ClickHouse ends with `verify`: nothing lost and",
            "nothing doubled, or there is no result.",
            "",
            *_facts(document),
            *_drains(document),
            *_limits(document),
            *_latency(document),
            *_costs(document),
            *_rating(document["rating"]),
            *_gate(document["gate"]),
            *_refresh(document["refresh"]),
            "## As JSON",
            "",
            "```json",
            json.dumps(document, indent=2),
            "```",
            "",
        ]
    )


def _facts(document: dict[str, Any]) -> list[str]:
    facts = {**document["machine"], **document["versions"]}
    return _table(["measured on", ""], facts.items())


def _drains(document: dict[str, Any]) -> list[str]:
    rows = []
    for name, label in DRAINS:
        found = document[name]
        rows.append(
            (
                label,
                found["records"],
                found["applied_seconds"],
                found["copied_seconds"] or "-",
                found["records_per_second"],
                found["records_per_second_after_first_batch"],
            )
        )
    runs = ", ".join(f"{rate:,}" for rate in document["runs_per_second"])
    return [
        "## From Kafka to both stores",
        "",
        "Published beforehand; the clock runs from the start of the worker processes until the",
        "last record is in the last store. Of the first row the median run is shown; all runs:",
        f"{runs} records/s.",
        "",
        *_table(
            ["", "records", "balances, s", "ClickHouse, s", "records/s", "after the first batch"],
            rows,
        ),
    ]


def _limits(document: dict[str, Any]) -> list[str]:
    limits, ratios = document["limits"], document["ratios"]
    naive = document["naive"]
    rows: list[tuple[object, ...]] = [
        ("aiokafka, consume and throw away", limits["consume"], ratios["of_raw_consume"]),
        ("COPY into `charge` with its indexes", limits["copy"], ratios["of_raw_copy"]),
        ("the same CSV into ClickHouse over HTTP", limits["insert"], ratios["of_raw_insert"]),
        (
            f"naive: a transaction per event, {naive['workers']} processes",
            naive["records_per_second"],
            ratios["of_naive"],
        ),
    ]
    return [
        "## Beside the limits of each piece, and the naive design",
        "",
        "Each alone on the machine. The naive design has the same prices and tables, and nothing",
        "for ClickHouse.",
        "",
        *_table(["", "events/s", "the whole way is x of it"], rows),
    ]


def _latency(document: dict[str, Any]) -> list[str]:
    rows = []
    for found in document["latency"]:
        for where, label in (("balance", "balance"), ("clickhouse", "ClickHouse")):
            figures = [f"{found[f'{where}_{part}'] * 1000:,.0f}" for part in ("p50", "p99", "max")]
            rows.append((f"{found['events_per_second']:,} events/s, call to {label}", *figures))
    timed = document["latency"][0]["timed_events"]
    return [
        "## Latency under steady traffic",
        "",
        f"{timed} single events through the client, while others flow evenly; the second rate is",
        "half of what the machine can do.",
        "",
        *_table(["", "p50, ms", "p99, ms", "max, ms"], rows),
    ]


def _costs(document: dict[str, Any]) -> list[str]:
    found, caller = document["end_to_end"], document["caller"]
    rows = [
        (name, found["peak_mib"][name], found["cpu_us_per_record"][name])
        for name in found["peak_mib"]
    ]
    return [
        "## What each process costs",
        "",
        "Peak memory, and processor time per record, in the drain of the first row, starting",
        "included.",
        "PostgreSQL is the sum of its processes, shared buffers counted once.",
        "",
        *_table(["", "MiB", "CPU us/record"], rows),
        f"One call of `track_ai_usage` costs the app {caller['p50_us']} us in the median and",
        f"{caller['p99_us']} us at the 99th percentile ({caller['calls']:,} calls, all delivered).",
        "",
    ]


def _rating(found: dict[str, Any]) -> list[str]:
    rows = [
        (label, f"{found[name]:.2f}", round(1e6 / found[name]))
        for name, label in (
            ("rate_us", "price"),
            ("decode_and_rate_us", "decode, validate, price"),
            ("decode_hash_and_rate_us", "decode, validate, hash, price: what the rater does"),
            ("genai_prices_us", "genai-prices `calc_price`, price alone"),
            ("litellm_us", f"LiteLLM {found['litellm_version']} `cost_per_token`, price alone"),
        )
    ]
    return [
        "## Rating alone, on one core",
        "",
        "The same events for all: ten models of six providers, a third with cached tokens.",
        f"LiteLLM prices {found['litellm_priced_at_zero']:,} of its {found['litellm_events']:,}",
        "events at zero, without an error.",
        "",
        *_table(["", "us/event", "events/s"], rows),
    ]


def _gate(found: dict[str, Any]) -> list[str]:
    rows = []
    for name, label, aim in (
        ("check", "check", "10"),
        ("holds", "hold", "25"),
        ("frozen", "both, PostgreSQL frozen", "-"),
    ):
        answers = found[name]
        statuses = ", ".join(f"{number:,} x {status}" for status, number in _statuses(answers))
        figures = [f"{answers[f'p{share}_ms']:,}" for share in (50, 99, 100)]
        rows.append((label, answers["requests"], *figures, aim, statuses))
    return [
        "## The gate over HTTP",
        "",
        f"{found['rate']:,} requests/s from one client, each timed from when it was due, while a",
        f"rater charges {found['events_per_second']:,} events/s. The API took",
        f"{found['peak_mib']['api']} MiB at most. While PostgreSQL is frozen (SIGSTOP) nothing may",
        f"be allowed: {found['frozen']['allowed']} were; the aim is an answer within 1,000 ms.",
        "",
        *_table(
            ["", "requests", "p50, ms", "p99, ms", "max, ms", "aim p99, ms", "answers"],
            rows,
        ),
    ]


def _statuses(answers: dict[str, Any]) -> list[tuple[str, int]]:
    return sorted(answers["statuses"].items())


def _refresh(rounds: list[dict[str, Any]]) -> list[str]:
    rows = []
    for found in rounds:
        for name, label in REFRESHES:
            one = found[name]
            peaks = [size for part, size in one["peak_mib"].items() if part != "postgres"]
            rows.append(
                (
                    f"{found['accounts']:,} accounts, {label}",
                    one["seconds"],
                    _aim(found["accounts"]),
                    round(found["accounts"] / one["seconds"]),
                    one["cpu_seconds"]["postgres"],
                    one["cpu_seconds"]["schedulers"],
                    max(peaks),
                )
            )
    return [
        "## The monthly allowance",
        "",
        "The second time every account has a rest of its allowance to replace; of two processes",
        "one is killed in the middle and started again. Each account was refreshed exactly once",
        "each time, and its balance is the sum of its ledger, or there is no result. Memory is the",
        "most that one scheduler took (the limit of K2 is 256 MiB).",
        "",
        *_table(
            ["", "s", "aim, s", "accounts/s", "PostgreSQL, CPU s", "schedulers, CPU s", "MiB"],
            rows,
        ),
    ]


def _aim(accounts: int) -> str:
    """What was asked for: 10,000 accounts in 5 minutes (R8), a million in one."""
    return {10_000: "300", 1_000_000: "60"}.get(accounts, "-")


def _table(columns: Sequence[str], rows: Iterable[Sequence[object]]) -> list[str]:
    lines = [f"| {' | '.join(columns)} |", "|" + " --- |" * len(columns)]
    lines += [f"| {' | '.join(map(_cell, row))} |" for row in rows]
    return [*lines, ""]


def _cell(value: object) -> str:
    return f"{value:,}" if isinstance(value, int) else str(value)
