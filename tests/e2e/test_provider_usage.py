"""Recorded answers of providers by the real commands: published, charged or parked, none lost.

TOLLGATE_TRACES names a directory with the published recordings; without it, rows of the same forms
are published. What must arrive is added up from the file, by the producer's own reading of it.
"""

import os
from pathlib import Path

import asyncpg

from adapters.settings import Settings
from producers.normalise.outcome import Normalised
from producers.normalise.recorded import normalise_recorded
from tests.commands import run_tollgate
from tests.unit.test_normalise_recorded import PUBLISHED, ROWS, SAMPLES
from tests.workers import Worker, wait_applied

FILE = PUBLISHED if os.environ.get("TOLLGATE_TRACES") else SAMPLES
SUMS = """
SELECT count(*), coalesce(sum(input_tokens), 0), coalesce(sum(output_tokens), 0)
FROM charge
"""


async def test_every_row_is_charged_parked_or_refused_by_name(
    settings: Settings, topics: dict[str, str], environment: dict[str, str], tmp_path: Path
) -> None:
    found = [normalise_recorded(row) for row in ROWS]
    lines = [line for one in found if isinstance(one, Normalised) for line in one.lines]
    command = ("publish", str(FILE), "--format", "provider-usage", "--accounts", "5", "--json")
    done = await run_tollgate(environment, *command)
    assert done.returncode == 1, "some rows are refused, and named"
    with Worker("rater", environment) as rater:
        await wait_applied(settings, len(lines), seconds_max=120, worker=rater)
        again = await run_tollgate(environment, *command)
        assert again.returncode == 1
        await wait_applied(settings, 2 * len(lines), seconds_max=120, worker=rater)
    connection = await asyncpg.connect(settings.postgres.get_secret_value())
    try:
        charged, tokens_in, tokens_out = await connection.fetchrow(SUMS)
        parked = await connection.fetch(
            "SELECT reason, count(DISTINCT event_id) FROM dead_letter GROUP BY 1"
        )
    finally:
        await connection.close()
    assert [row[0] for row in parked] == ["unpriced"]
    assert charged + parked[0][1] == len(lines)
    assert charged > len(lines) * 0.6
    assert 0 < tokens_in <= sum(line.tokens.input for line in lines)
    assert 0 < tokens_out <= sum(line.tokens.output for line in lines)
    print(f"{len(lines)} lines, {charged} charged, {parked[0][1]} without a price")  # noqa: T201
