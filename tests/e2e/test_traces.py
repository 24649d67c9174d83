"""Whole trace files by the real commands: what both stores hold is what the files say, exactly.

TOLLGATE_TRACES names a directory with the published traces; without it, files of the same form are
made here. The expected figures are calculated from the file alone, with nothing of core/.
"""

import asyncio
import csv
import json
import os
import time
from collections import defaultdict
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from decimal import ROUND_HALF_EVEN, Decimal
from pathlib import Path
from random import Random
from typing import NamedTuple

import asyncpg
import pytest

from adapters.settings import Settings
from tests.commands import report, run_tollgate
from tests.shipping import ask
from tests.workers import Worker, wait_applied

PUBLISHED_TRACES = os.environ.get("TOLLGATE_TRACES")
FREE_TIER = Decimal("1.5")
ROWS = 1_500
COPIED_SECONDS_MAX = 120

Sums = tuple[int, int, int, int, int]


class Usage(NamedTuple):
    """One row of a trace; no account where the file names none."""

    account: str
    input: int
    output: int
    reasoning: int


@dataclass(frozen=True)
class Trace:
    """A trace file, how it is published, and the prices of its model in dollars per million."""

    file: str
    options: tuple[str, ...]
    input_usd: Decimal
    output_usd: Decimal
    read: Callable[[dict[str, str]], Usage]
    write: Callable[[Path], None]


def test_the_formula_rounds_each_event_half_to_even() -> None:
    assert micro(AZURE, Usage("", 1000, 0, 0)) == 3_750
    assert [micro(AZURE, Usage("", tokens, 0, 0)) for tokens in (2, 6, 10)] == [8, 22, 38]


def micro(trace: Trace, usage: Usage) -> int:
    """Dollars per million tokens are micro-dollars per token, and a credit is a dollar."""
    exact = (usage.input * trace.input_usd + usage.output * trace.output_usd) * FREE_TIER
    return int(exact.quantize(Decimal(1), rounding=ROUND_HALF_EVEN))


def _azure_row(row: dict[str, str]) -> Usage:
    return Usage("", int(row["ContextTokens"]), int(row["GeneratedTokens"]), 0)


def _servegen_row(row: dict[str, str]) -> Usage:
    reasoning = int(row["reasoning_tokens"])
    return Usage(row["client_id"], int(row["input_tokens"]), int(row["output_tokens"]), reasoning)


def _write_azure(path: Path) -> None:
    rng = Random(1)
    lines = ["TIMESTAMP,ContextTokens,GeneratedTokens"]
    for n in range(ROWS):
        moment = f"2023-11-16 18:{n // 60:02}:{n % 60:02}.{rng.randrange(10**7):07}"
        lines.append(f"{moment},{rng.randrange(1, 5000)},{rng.randrange(900)}")
    path.write_text("\r\n".join(lines) + "\r\n")


def _servegen_writer(model: str, reasoning: int) -> Callable[[Path], None]:
    def write(path: Path) -> None:
        rng = Random(model)
        lines = [
            (
                "ts_s,client_id,model,input_tokens,output_tokens,"
                "reasoning_tokens,image_tokens,audio_tokens,video_tokens"
            )
        ]
        for n in range(ROWS):
            output = rng.randrange(1, 900)
            client = f"client-{min(rng.randrange(12), rng.randrange(12)):03}"
            counts = f"{rng.randrange(1, 5000)},{output},{min(output, rng.randrange(reasoning))}"
            lines.append(f"{n * 0.7:.3f},{client},{model},{counts},0,0,0")
        path.write_text("\n".join(lines) + "\n")

    return write


AZURE = Trace(
    "AzureLLMInferenceTrace_conv.csv",
    ("--model", "openai/gpt-4o", "--seed", "7", "--accounts", "300"),
    Decimal("2.5"),
    Decimal(10),
    _azure_row,
    _write_azure,
)
LARGE = Trace(
    "sample_mlarge_1h_20pct.csv",
    ("--map-model", "m-large=openai/gpt-4.1-mini"),
    Decimal("0.4"),
    Decimal("1.6"),
    _servegen_row,
    _servegen_writer("m-large", 1),
)
REASONING = Trace(
    "sample_r1_24h_5pct.csv",
    ("--map-model", "deepseek-r1=openai/o3-mini"),
    Decimal("1.1"),
    Decimal("4.4"),
    _servegen_row,
    _servegen_writer("deepseek-r1", 900),
)
PROVIDER_USAGE = "openllmetry_usage.jsonl"


def _path(trace: Trace, directory: Path) -> Path:
    if PUBLISHED_TRACES:
        return Path(PUBLISHED_TRACES) / trace.file
    path = directory / trace.file
    trace.write(path)
    return path


def _usages(trace: Trace, path: Path) -> Iterator[Usage]:
    with path.open(newline="") as lines:
        for row in csv.DictReader(lines):
            yield trace.read(row)


def _sums(trace: Trace, usages: Iterator[Usage]) -> dict[str, Sums]:
    """By account: events, input, output and reasoning tokens, micro-credits; all of it under ''."""
    sums: dict[str, Sums] = defaultdict(lambda: (0, 0, 0, 0, 0))
    for usage in usages:
        one = (1, usage.input, usage.output, usage.reasoning, micro(trace, usage))
        for account in {"", usage.account}:
            was = sums[account]
            sums[account] = tuple(a + b for a, b in zip(was, one, strict=True))  # type: ignore[assignment]
    return dict(sums)


SUMS = """
SELECT account_id, count(*), sum(input_tokens), sum(output_tokens), sum(reasoning_tokens),
       sum(amount_micro)
FROM charge
"""


def _by_account(rows: list[tuple[object, ...]]) -> dict[str, Sums]:
    figures = {str(row[0]): tuple(int(str(value)) for value in row[1:]) for row in rows}
    total = tuple(map(sum, zip(*figures.values(), strict=True)))
    return {"": total, **figures}  # type: ignore[dict-item]


@pytest.mark.parametrize("trace", [AZURE, LARGE, REASONING], ids=lambda trace: trace.file)
async def test_both_stores_hold_what_the_file_says(
    trace: Trace,
    settings: Settings,
    topics: dict[str, str],
    environment: dict[str, str],
    tmp_path: Path,
) -> None:
    path = _path(trace, tmp_path)
    expected = _sums(trace, _usages(trace, path))
    events = expected[""][0]
    command = ("publish", str(path), "--shift-to-now", "last", *trace.options)
    with Worker("rater", environment) as rater, Worker("warehouse", environment):
        published = await report(environment, *command)
        assert (published["published"], published["refused"]) == (events, 0)
        assert (published["input_tokens"], published["output_tokens"]) == expected[""][1:3]
        await wait_applied(settings, events, seconds_max=180, worker=rater)
        await report(environment, *command)
        await wait_applied(settings, 2 * events, seconds_max=180, worker=rater)
        await _copied(settings, events)
    ledger = _by_account(await _ledger(settings))
    copy = _by_account(ask(settings, f"{SUMS.replace('charge', 'charge FINAL')} GROUP BY 1"))
    assert copy == ledger
    assert ledger[""] == expected[""]
    if len(expected) > 1:
        assert ledger == expected
    verdict = await report(environment, "verify")
    assert verdict["exact"], verdict
    print(trace.file, *(f"{figure:,}" for figure in ledger[""]))  # noqa: T201 - pytest -s


async def _ledger(settings: Settings) -> list[tuple[object, ...]]:
    connection = await asyncpg.connect(settings.postgres.get_secret_value())
    try:
        outcome = await connection.fetchrow(
            "SELECT sum(charged) AS charged, sum(duplicate) AS duplicate FROM batch_outcome"
        )
        assert outcome["charged"] == outcome["duplicate"]
        return [tuple(row) for row in await connection.fetch(f"{SUMS} GROUP BY 1")]
    finally:
        await connection.close()


async def _copied(settings: Settings, rows: int) -> None:
    deadline = time.monotonic() + COPIED_SECONDS_MAX
    while True:
        ((found,),) = await asyncio.to_thread(ask, settings, "SELECT count() FROM charge FINAL")
        if found == rows:
            return
        assert time.monotonic() < deadline, f"{found} of {rows} rows are in ClickHouse"
        await asyncio.sleep(0.3)


async def test_usage_as_providers_send_it_is_refused_row_by_row(
    topics: dict[str, str], environment: dict[str, str], tmp_path: Path
) -> None:
    """Raw answers of providers name no account and nest their counts: no row is guessed at."""
    if PUBLISHED_TRACES:
        path = Path(PUBLISHED_TRACES) / PROVIDER_USAGE
    else:
        path = tmp_path / PROVIDER_USAGE
        answer = {"host": "api.openai.com", "i": 0, "response_model": "gpt-4o-mini", "status": 200}
        rows = ({**answer, "usage": {"prompt_tokens": n, "completion_tokens": 7}} for n in range(9))
        path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    done = await run_tollgate(environment, "publish", str(path), "--accounts", "5", "--json")
    answer = json.loads(done.stdout)
    assert done.returncode == 1
    assert (answer["events"], answer["published"]) == (0, 0)
    with path.open() as lines:
        assert answer["refused"] == sum(1 for line in lines if line.strip())
    problem = "none of its fields is of usage; name them with --map"
    assert {row["problem"] for row in answer["problems"]} == {problem}
