"""How a request's bytes are told apart: ClickHouse's grammar, as far as the data begins."""

import contextlib

import pytest
from hypothesis import given
from hypothesis import strategies as st

from stack.clickhouse_server.errors import EngineError, from_engine
from stack.clickhouse_server.statement import Insert, Query, parse

INSERTS = [
    (b"INSERT INTO t FORMAT CSV\n1,2\n", b"INSERT INTO t ", "CSV", b"1,2\n"),
    (
        b"insert into t (a, b) format Native\n\x01\x02",
        b"insert into t (a, b) ",
        "Native",
        b"\x01\x02",
    ),
    (b"INSERT INTO t FORMAT RowBinary \r\n\r\n", b"INSERT INTO t ", "RowBinary", b"\r\n"),
    (b"INSERT INTO t VALUES (1, 'FORMAT CSV')", b"INSERT INTO t ", "Values", b" (1, 'FORMAT CSV')"),
    (
        b"/* SELECT */ INSERT INTO `for mat` FORMAT CSV 1",
        b"/* SELECT */ INSERT INTO `for mat` ",
        "CSV",
        b"1",
    ),
    (
        b"INSERT INTO t SETTINGS async_insert = 0 FORMAT JSONEachRow {}",
        b"INSERT INTO t SETTINGS async_insert = 0 ",
        "JSONEachRow",
        b"{}",
    ),
    (
        b"INSERT INTO t FORMAT CSV SETTINGS a = 'x,\\'y', b = 2\n1",
        b"INSERT INTO t SETTINGS a = 'x,\\'y', b = 2",
        "CSV",
        b"1",
    ),
    (
        b"-- VALUES\nINSERT INTO t (values) FORMAT TSV\n1",
        b"-- VALUES\nINSERT INTO t (values) ",
        "TSV",
        b"1",
    ),
]


@pytest.mark.parametrize(("text", "sql", "input_format", "data"), INSERTS)
def test_an_insert_ends_where_its_data_begins(
    text: bytes, sql: bytes, input_format: str, data: bytes
) -> None:
    found = parse(text)
    assert isinstance(found, Insert)
    assert (found.sql, found.input_format, text[found.data_offset :]) == (sql, input_format, data)


@pytest.mark.parametrize(
    ("text", "output_format"),
    [
        (b"SELECT 1", None),
        (b"SELECT 1 FORMAT Native", "Native"),
        (b"SELECT 'x FORMAT CSV'", None),
        (b"SELECT * FROM (SELECT 1 FORMAT CSV)", None),
        (b"SELECT 1 FORMAT JSON SETTINGS max_threads = 1;", "JSON"),
        (b"SELECT 1 -- FORMAT CSV", None),
        (b"INSERT INTO t SELECT 1 FORMAT Null", None),
        (b"INSERT INTO t", None),
        (b"", None),
    ],
)
def test_a_query_keeps_its_text_and_names_its_format(
    text: bytes, output_format: str | None
) -> None:
    assert parse(text) == Query(text, output_format)


@pytest.mark.parametrize(
    ("text", "code"),
    [
        (b"SELECT 1 INTO OUTFILE '/tmp/x'", 358),
        (b"INSERT INTO t FROM INFILE '/etc/passwd' FORMAT CSV", 78),
        (b"INSERT INTO t SELECT x FROM input('x UInt8') FORMAT CSV\n1", 48),
        (b"INSERT INTO t SELECT x FROM (SELECT * FROM INPUT ('x UInt8')) FORMAT CSV\n1", 48),
    ],
)
def test_what_the_engine_would_do_and_a_server_refuses(text: bytes, code: int) -> None:
    with pytest.raises(EngineError) as caught:
        parse(text)
    assert caught.value.code == code


@given(st.binary(max_size=200), st.sampled_from(["CSV", "Native", "Parquet", "RowBinary"]))
def test_data_of_any_bytes_comes_through_whole(data: bytes, input_format: str) -> None:
    head = f"INSERT INTO t FORMAT {input_format}\n".encode()
    found = parse(head + data)
    assert isinstance(found, Insert)
    assert (head + data)[found.data_offset :] == data


@given(st.binary(max_size=300))
def test_no_bytes_break_the_reader(text: bytes) -> None:
    with contextlib.suppress(EngineError):
        assert isinstance(parse(text), Query | Insert)


def test_errors_without_a_code_are_unknown_and_the_clients_faults_are_not_the_servers() -> None:
    assert from_engine("std::bad_alloc").code == 1002
    assert from_engine("Code: 60. DB::Exception: x (UNKNOWN_TABLE)").status == 404
    assert from_engine("Code: 62. DB::Exception: x (SYNTAX_ERROR)").status == 400
    assert from_engine("Code: 241. DB::Exception: x (MEMORY_LIMIT_EXCEEDED)").status == 500
