"""The lines of what-if runs in ClickHouse, and the report over them.

A chunk's lines go in under a token that names the run and the chunk, so that a chunk that is
repeated after a crash is there once. The client is synchronous: a run calls it in a thread.
"""

import csv
import io
from collections.abc import Iterator, Sequence
from contextlib import closing, contextmanager
from datetime import datetime

from clickhouse_connect.driver.client import Client

from adapters.clickhouse import Refused, Unreachable, answers, connect, insert_csv
from adapters.failures import Failure
from adapters.queries import load
from adapters.rerate_runs import Group
from adapters.settings import Settings
from core.rerating import Line

SQL = load("rerate", "clickhouse")
TABLE = "rerate_line"
COLUMNS = list(Line._fields)
ALL_GROUPS = 2**63


class Lines:
    """The lines of one run. Every method raises Refused or Unreachable."""

    def __init__(self, client: Client, run_id: int, started_at: datetime) -> None:
        self._client = client
        self._run_id = run_id
        # PostgreSQL may have been restored: the number comes again, the moment does not.
        self._name = f"rerate:{run_id}:{started_at:%Y%m%dT%H%M%S.%f}"

    def forget_namesakes(self) -> None:
        """Drops lines of another run with this number; for a run that is about to begin."""
        with answers():
            found = self._client.query(SQL.partitions_of_run, parameters={"run_id": self._run_id})
            for (partition_id,) in found.result_rows:
                self._client.command(SQL.drop_partition, parameters={"partition_id": partition_id})

    def insert(self, chunk: int, lines: Sequence[Line]) -> None:
        """Adds a chunk's lines unless that chunk was inserted before. At most 100,000."""
        if not lines:
            return
        text = io.StringIO()
        csv.writer(text, lineterminator="\n").writerows((self._run_id, *line) for line in lines)
        insert_csv(
            self._client,
            table=TABLE,
            columns=["run_id", *COLUMNS],
            data=text.getvalue().encode(),
            token=f"{self._name}:{chunk}",
        )

    def count(self) -> int:
        """How many events have a line."""
        with answers():
            found = self._client.query(SQL.count_lines, parameters={"run_id": self._run_id})
        return int(found.result_rows[0][0])

    def groups(self, groups_max: int | None) -> Iterator[Group]:
        """The report, the largest differences first; read as it comes, in bounded memory."""
        parameters = {"run_id": self._run_id, "groups_max": groups_max or ALL_GROUPS}
        with (
            answers(),
            self._client.query_row_block_stream(SQL.line_groups, parameters=parameters) as blocks,
        ):
            for block in blocks:
                for row in block:
                    yield Group(*row)


@contextmanager
def open_client(settings: Settings) -> Iterator[Client]:
    """A client for a run; ClickHouse's no, or its silence, is a Failure of one line."""
    try:
        with closing(connect(settings)) as client:
            yield client
    except Unreachable as error:
        raise Failure(
            f"ClickHouse does not answer, and a what-if writes its lines there: {error}. Start it,"
            " or set TOLLGATE_CLICKHOUSE"
        ) from None
    except Refused as error:
        raise Failure(
            f"ClickHouse refuses the lines of the run: {error}. Run `tollgate migrate`"
        ) from None
