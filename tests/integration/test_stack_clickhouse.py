"""The local ClickHouse, spoken to as a server: by clickhouse-connect and by plain HTTP."""

import asyncio
import http.client
import json
import threading
import time
import uuid
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from datetime import UTC, datetime
from urllib.parse import urlencode, urlsplit

import clickhouse_connect
import pytest
from clickhouse_connect.driver.client import Client
from clickhouse_connect.driver.exceptions import DatabaseError

from stack.clickhouse_server.compression import encode
from stack.local import Stack

SCHEMA = """
CREATE TABLE t (id UInt64, at DateTime64(6, 'UTC'), amount_micro Int64, note String)
ENGINE = MergeTree PARTITION BY toYYYYMM(at) ORDER BY id
SETTINGS non_replicated_deduplication_window = 100;

CREATE TABLE by_month (month UInt32, rows UInt64) ENGINE = SummingMergeTree ORDER BY month
SETTINGS non_replicated_deduplication_window = 100;

CREATE MATERIALIZED VIEW view TO by_month
AS SELECT toYYYYMM(at) AS month, count() AS rows FROM t GROUP BY month
"""
INSERT = "INSERT INTO t FORMAT CSV"
TOKEN_SETTINGS = {
    "async_insert": "0",
    "input_format_parallel_parsing": "0",
    "date_time_input_format": "best_effort",
    "deduplicate_blocks_in_dependent_materialized_views": "1",
}


@dataclass(frozen=True)
class Reply:
    status: int
    headers: http.client.HTTPMessage
    body: bytes

    @property
    def error_code(self) -> str | None:
        return self.headers["X-ClickHouse-Exception-Code"]


@dataclass(frozen=True)
class Http:
    """A plain HTTP client of one database."""

    url: str
    database: str

    def call(
        self,
        query: str,
        data: bytes | Iterable[bytes] = b"",
        *,
        method: str = "POST",
        headers: dict[str, str] | None = None,
        **given: str,
    ) -> Reply:
        place = urlsplit(self.url)
        connection = http.client.HTTPConnection(place.hostname or "", place.port, timeout=30)
        try:
            connection.request(method, self.path(query, **given), data, headers or {})
            reply = connection.getresponse()
            return Reply(reply.status, reply.headers, reply.read())
        finally:
            connection.close()

    def path(self, query: str, **given: str) -> str:
        return "/?" + urlencode({"database": self.database, **given, "query": query})

    def ask(self, query: str, data: bytes | Iterable[bytes] = b"", **given: str) -> bytes:
        reply = self.call(query, data, **given)
        assert reply.status == 200, reply.body
        return reply.body

    def counts(self) -> tuple[int, int]:
        """Rows of the table, and rows that the roll-up behind the view counted."""
        return int(self.ask("SELECT count() FROM t")), int(
            self.ask("SELECT sum(rows) FROM by_month")
        )


@pytest.fixture
def server(stack: Stack) -> Iterator[Http]:
    """A database with a table by month and a roll-up behind a view; both keep tokens."""
    made = Http(stack.address("clickhouse"), f"test_{uuid.uuid4().hex[:10]}")
    named = {"param_name": made.database, "database": "default"}
    made.ask("CREATE DATABASE {name:Identifier}", **named)
    for statement in SCHEMA.split(";"):
        made.ask(statement)
    yield made
    made.ask("DROP DATABASE {name:Identifier} SYNC", **named)


@pytest.fixture
def client(server: Http) -> Iterator[Client]:
    made = clickhouse_connect.get_client(dsn=server.url, database=server.database)
    yield made
    made.close()


def token(name: str) -> dict[str, str]:
    return {**TOKEN_SETTINGS, "insert_deduplication_token": name}


def csv(rows: int, months: int = 3) -> bytes:
    lines = (f"{i},2026-{1 + i % months:02}-03T10:00:00.000001+00,{i},x\n" for i in range(rows))
    return "".join(lines).encode()


def test_clickhouse_connect_reads_and_writes(client: Client) -> None:
    row = [7, datetime(2026, 11, 21, 9, 0, 0, 123, tzinfo=UTC), -5, "it's\\ a\ttab\n ü"]
    done = client.insert("t", [row], column_names=["id", "at", "amount_micro", "note"])
    assert done.written_rows >= 1
    assert client.query("SELECT id, amount_micro, note FROM t").result_rows == [(7, -5, row[3])]
    bound = client.query("SELECT {text:String}, {list:Array(UInt8)}", {"text": row[3], "list": [1]})
    assert bound.result_rows == [(row[3], [1])]
    assert client.query("SELECT number FROM numbers(3)", settings={"max_threads": 1}).row_count == 3
    assert client.raw_query("SELECT 1 AS a", fmt="JSONEachRow") == b'{"a":1}\n'
    assert client.ping()
    with pytest.raises(DatabaseError, match="UNKNOWN_TABLE"):
        client.query("SELECT * FROM nowhere")


@pytest.mark.parametrize("encoding", ["lz4", "zstd", "gzip"])
def test_clickhouse_connect_reads_compressed_streams(server: Http, encoding: str) -> None:
    client = clickhouse_connect.get_client(dsn=server.url, compress=encoding)
    with client.query_row_block_stream("SELECT number FROM numbers(200000)") as blocks:
        assert sum(row[0] for block in blocks for row in block) == 199_999 * 100_000
    client.close()


async def test_the_async_client_asks_many_things_at_once(server: Http) -> None:
    client = await clickhouse_connect.get_async_client(
        dsn=server.url, autogenerate_session_id=False
    )
    query = "SELECT sum(number) FROM numbers({size:UInt32})"
    sums = await asyncio.gather(*(client.query(query, {"size": size}) for size in range(1, 21)))
    await client.close()
    assert [answer.result_rows[0][0] for answer in sums] == [n * (n - 1) // 2 for n in range(1, 21)]


def test_a_session_keeps_temporary_tables_and_no_settings_of_a_request(server: Http) -> None:
    kept = {"session_id": uuid.uuid4().hex}
    server.ask("CREATE TEMPORARY TABLE kept (a UInt8)", **kept)
    server.ask("INSERT INTO kept FORMAT CSV", b"5\n", max_threads="3", **kept)
    assert server.ask("SELECT a FROM kept", **kept) == b"5\n"
    assert server.ask("SELECT getSetting('max_threads') = 3", **kept) == b"0\n"
    assert server.call("SELECT a FROM kept").error_code == "60"
    assert server.call("SELECT 1", session_id="none", session_check="1").error_code == "372"


@pytest.mark.parametrize(
    "input_format",
    ["CSV", "TabSeparated", "JSONEachRow", "Native", "RowBinary", "Parquet", "Arrow", "Values"],
)
def test_every_format_goes_in_as_it_came_out(server: Http, input_format: str) -> None:
    data = server.ask(
        "SELECT number AS id, toDateTime64('2026-01-05', 6, 'UTC') AS at,"
        " toInt64(-1) AS amount_micro, unhex('C3BC2227') AS note FROM numbers(10)",
        default_format=input_format,
    )
    insert = f"INSERT INTO t FORMAT {input_format}"
    server.ask(insert, data, **token("data in the body"))
    server.ask("", insert.encode() + b"\n" + data, **token("all in the body"))
    found = server.ask("SELECT count(), sum(id), sum(amount_micro), any(note) FROM t")
    assert found == "20\t90\t-20\tü\"\\'\n".encode()


@pytest.mark.parametrize("encoding", ["", "gzip", "zstd", "lz4"])
def test_an_insert_may_be_compressed(client: Client, encoding: str) -> None:
    client.raw_insert(
        "t",
        insert_block=encode(csv(1000), encoding) if encoding else csv(1000),
        fmt="CSV",
        compression=encoding or None,
        settings={"async_insert": 0, "date_time_input_format": "best_effort"},
    )
    assert client.command("SELECT count() FROM t") == 1000


def test_a_token_makes_an_insert_over_three_months_repeatable(server: Http) -> None:
    data = csv(30_000)
    for _ in range(3):
        server.ask(INSERT, data, **token("first"))
    assert server.counts() == (30_000, 30_000)
    server.ask(INSERT, data, **token("second"))
    assert server.counts() == (60_000, 60_000)
    parts = server.ask(
        "SELECT uniq(partition) FROM system.parts WHERE database = currentDatabase()"
        " AND table = 't'"
    )
    assert parts == b"3\n"


@pytest.mark.parametrize(
    ("query", "status", "code", "name"),
    [
        ("SELECT * FROM nowhere", 404, "60", "UNKNOWN_TABLE"),
        ("SELEC 1", 400, "62", "SYNTAX_ERROR"),
        ("SELECT 1; SELECT 2", 400, "62", "SYNTAX_ERROR"),
        ("SELECT nothing", 404, "47", "UNKNOWN_IDENTIFIER"),
        ("INSERT INTO nowhere FORMAT CSV 1", 404, "60", "UNKNOWN_TABLE"),
        ("SELECT throwIf(1)", 500, "395", "FUNCTION_THROW_IF_VALUE_IS_NON_ZERO"),
        ("SELECT 1 INTO OUTFILE 'x'", 500, "358", "INTO_OUTFILE_NOT_ALLOWED"),
        ("", 400, "62", "SYNTAX_ERROR"),
    ],
)
def test_errors_have_clickhouses_form(
    server: Http, query: str, status: int, code: str, name: str
) -> None:
    reply = server.call(query)
    text = reply.body.decode()
    assert (reply.status, reply.error_code) == (status, code)
    assert text.startswith(f"Code: {code}. DB::Exception: ")
    assert f"({name}) (version 26." in text


def test_a_wrong_setting_database_or_row_changes_nothing(server: Http) -> None:
    assert server.call("SELECT 1", no_such_setting="1").error_code == "115"
    assert server.call("SELECT 1", database="no_such_database").error_code == "81"
    reply = server.call(INSERT, csv(2000) + b"x,y\n", **TOKEN_SETTINGS)
    assert (reply.status, reply.error_code) == (400, "27")
    assert server.counts() == (0, 0)


def test_an_insert_refused_behind_its_parsing_says_so(server: Http) -> None:
    """The engine's streaming insert answers well to both and keeps no row."""
    server.ask("ALTER TABLE t ADD CONSTRAINT positive CHECK amount_micro > 0")
    assert server.call(INSERT, b"1,2026-01-03 10:00:00,0,x\n").error_code == "469"
    server.ask("ALTER TABLE t DROP CONSTRAINT positive")
    server.ask("ALTER TABLE t ADD COLUMN fence UInt8 MATERIALIZED throwIf(note = 'bad')")
    into = "INSERT INTO t (id, at, amount_micro, note) FORMAT CSV"
    assert server.call(into, b"1,2026-01-03 10:00:00,0,bad\n").error_code == "395"
    assert server.counts() == (0, 0)


def test_get_only_reads(server: Http) -> None:
    for query in ("DROP TABLE t", "INSERT INTO t VALUES (1)", "SET max_threads = 1"):
        assert server.call(query, method="GET").error_code == "164"
    reply = server.call("SELECT 1 AS a", method="GET", default_format="JSONEachRow")
    assert reply.body == b'{"a":1}\n'
    assert reply.headers["X-ClickHouse-Format"] == "JSONEachRow"
    assert json.loads(reply.headers["X-ClickHouse-Summary"])["read_rows"] == "1"


def test_parameters_come_by_url_header_and_form(server: Http) -> None:
    assert server.ask("SELECT {a:UInt8} + 1", param_a="4") == b"5\n"
    headers = {"X-ClickHouse-Database": "system", "X-ClickHouse-Format": "JSONCompactEachRow"}
    reply = server.call("SELECT currentDatabase()", headers=headers, database="")
    assert reply.body == b'["system"]\n'
    form = (
        b'--b\r\nContent-Disposition: form-data; name="query"\r\n\r\nSELECT {a:String}\r\n'
        b'--b\r\nContent-Disposition: form-data; name="param_a"\r\n\r\nx y\r\n--b--\r\n'
    )
    kind = {"Content-Type": "multipart/form-data; boundary=b"}
    assert server.call("", form, headers=kind).body == b"x y\n"


def test_a_chunked_body_counts_whole_and_one_that_is_cut_off_not_at_all(server: Http) -> None:
    server.ask(INSERT, iter([csv(500), csv(500)]), **TOKEN_SETTINGS)
    place = urlsplit(server.url)
    cut = http.client.HTTPConnection(place.hostname or "", place.port)
    cut.putrequest("POST", server.path(INSERT, **TOKEN_SETTINGS))
    cut.putheader("Content-Length", "1000000")
    cut.endheaders(csv(5000))
    cut.close()
    time.sleep(0.2)
    assert server.counts() == (1000, 1000)


def test_a_long_statement_keeps_nobody_waiting(server: Http) -> None:
    long = "SELECT sum(sipHash64(number)) FROM numbers(100000000)"
    began_all = time.monotonic()
    work = threading.Thread(target=server.ask, args=(long,))
    work.start()
    waits = []
    while work.is_alive():
        began = time.monotonic()
        server.ask("SELECT 1")
        waits.append(time.monotonic() - began)
    work.join()
    assert len(waits) > 2
    assert min(waits) < (time.monotonic() - began_all) / 4


def test_a_greedy_query_is_refused_and_the_server_lives_on(server: Http) -> None:
    greedy = "SELECT groupArray(number) FROM numbers(1000000000)"
    assert server.call(greedy, max_memory_usage="100000000").error_code == "241"
    assert server.ask("SELECT 1") == b"1\n"
