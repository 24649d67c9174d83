"""ClickHouse over HTTP: connecting, and inserting ledger rows so that a repetition changes nothing.

The client is synchronous: the command line uses it as it is, a stage calls it in a thread.
"""

import hashlib
import logging
from collections.abc import Iterator, Mapping
from contextlib import closing, contextmanager
from importlib.resources import files
from urllib.parse import unquote, urlsplit

import clickhouse_connect
from clickhouse_connect.driver.client import Client
from clickhouse_connect.driver.exceptions import ClickHouseError, Error

from adapters.failures import Failure
from adapters.queries import load
from adapters.settings import Settings

# Without a handler its errors would stand on stderr beside ours, which say the same.
logging.getLogger("clickhouse_connect").addHandler(logging.NullHandler())

SQL = load("copy", "clickhouse")
MIGRATIONS = files("sql") / "clickhouse" / "migrations"
CONNECT_SECONDS_MAX = 5
ANSWER_SECONDS_MAX = 600

# How a CSV made by PostgreSQL's COPY is read, byte for byte, and how its insert is made repeatable.
# Everything is said: defaults differ between ClickHouse versions (async_insert since 26.2).
INSERT_SETTINGS: Mapping[str, str | int] = {
    "async_insert": 0,
    "insert_deduplicate": 1,
    "deduplicate_blocks_in_dependent_materialized_views": 1,
    "input_format_parallel_parsing": 0,
    "date_time_input_format": "best_effort",
    "format_csv_null_representation": "\\N",
    "input_format_csv_trim_whitespaces": 0,
    "input_format_csv_detect_header": 0,
    "input_format_csv_empty_as_default": 1,
    "input_format_null_as_default": 0,
    "input_format_allow_errors_num": 0,
    "input_format_allow_errors_ratio": 0,
}

# Answers that a repetition does not change: the tables, the grants or the rows are not what this
# version of the warehouse expects.
_REFUSALS = frozenset(
    {
        6,  # CANNOT_PARSE_TEXT
        16,  # NO_SUCH_COLUMN_IN_TABLE
        26,  # CANNOT_PARSE_QUOTED_STRING
        27,  # CANNOT_PARSE_INPUT_ASSERTION_FAILED
        33,  # CANNOT_READ_ALL_DATA
        38,  # CANNOT_PARSE_DATE
        41,  # CANNOT_PARSE_DATETIME
        47,  # UNKNOWN_IDENTIFIER
        53,  # TYPE_MISMATCH
        60,  # UNKNOWN_TABLE
        62,  # SYNTAX_ERROR
        72,  # CANNOT_PARSE_NUMBER
        81,  # UNKNOWN_DATABASE
        115,  # UNKNOWN_SETTING
        117,  # INCORRECT_DATA
        164,  # READONLY
        349,  # CANNOT_INSERT_NULL_IN_ORDINARY_COLUMN
        467,  # CANNOT_PARSE_BOOL
        469,  # VIOLATED_CONSTRAINT
        497,  # ACCESS_DENIED
        516,  # AUTHENTICATION_FAILED
    }
)


class Refused(Exception):  # noqa: N818 - an answer, not a defect of this program
    """ClickHouse understood and said no; the same request will be refused again."""


class Unreachable(Exception):  # noqa: N818 - a state of the world
    """ClickHouse did not answer, or answered that it cannot now; a repetition may heal it."""


@contextmanager
def answers() -> Iterator[None]:
    """Turns what the client raises into Refused or Unreachable."""
    try:
        yield
    except Error as error:
        if error.code in _REFUSALS:
            raise Refused(_first_line(error)) from error
        raise Unreachable(_first_line(error)) from error
    except (ClickHouseError, OSError) as error:
        raise Unreachable(_first_line(error)) from error


def _first_line(error: Exception) -> str:
    """What ClickHouse said, without what the client and the server put around it."""
    text = str(error).strip() or type(error).__name__
    said = text.partition("DB::Exception: ")[2] or text
    return said.partition(" (version ")[0].splitlines()[0][:500]


def connect(
    settings: Settings,
    *,
    database: str | None = None,
    answer_seconds_max: int = ANSWER_SECONDS_MAX,
) -> Client:
    """A client of the configured database (or of `database`). Raises Refused or Unreachable.

    One request at a time. Nothing is kept on the server between requests, so a restarted
    ClickHouse is simply used again.
    """
    url = urlsplit(settings.clickhouse.get_secret_value())
    if url.scheme not in {"http", "https"} or not url.hostname:
        raise Failure("TOLLGATE_CLICKHOUSE: give a URL such as http://127.0.0.1:8123")
    with answers():
        return clickhouse_connect.get_client(
            interface=url.scheme,
            host=url.hostname,
            port=url.port or (8443 if url.scheme == "https" else 8123),
            username=unquote(url.username) if url.username else None,
            password=unquote(url.password or ""),
            database=settings.clickhouse_database if database is None else database,
            connect_timeout=CONNECT_SECONDS_MAX,
            send_receive_timeout=answer_seconds_max,
            autogenerate_session_id=False,
            compress=False,
        )


def insert_csv(client: Client, *, table: str, columns: list[str], data: bytes, token: str) -> None:
    """Inserts the rows unless rows with this token were inserted before: then nothing happens.

    Safe to repeat after any failure, with the same bytes and token. At most 100,000 rows of one
    month, so that ClickHouse makes one block of one partition of them. Raises Refused or
    Unreachable; after Unreachable the rows may be there, may be there in part, or may still arrive.
    """
    with answers():
        client.raw_insert(
            table,
            column_names=columns,
            insert_block=data,
            settings={**INSERT_SETTINGS, "insert_deduplication_token": token},
            fmt="CSV",
        )


def read_only_answer(
    settings: Settings,
    sql: str,
    form: str,
    options: Mapping[str, str | int],
    parameters: Mapping[str, str],
) -> bytes:
    """The answer to one statement, in the output format `form` unless it names its own.

    A statement that would change anything is refused by ClickHouse. Raises Refused or Unreachable.
    """
    with closing(connect(settings)) as client, answers():
        answer: bytes = client.raw_query(
            sql,
            parameters=dict(parameters),
            settings={**options, "readonly": 2},
            transport_settings={"X-ClickHouse-Format": form},
        )
    return answer


def migrate(settings: Settings) -> list[str]:
    """Brings the database to the newest version and returns the names of what was applied.

    Idempotent, and safe when two run at once: every statement can be repeated, and a version is
    noted after its statements. Raises Failure when an applied migration was changed afterwards, or
    when ClickHouse is away.
    """
    try:
        with closing(connect(settings, database="default")) as client, answers():
            client.command(SQL.create_database, parameters={"name": settings.clickhouse_database})
        with closing(connect(settings)) as client, answers():
            return apply_migrations(client)
    except (Refused, Unreachable) as error:
        raise Failure(f"ClickHouse could not be migrated: {error}") from error


def apply_migrations(client: Client) -> list[str]:
    """Applies what the client's database lacks, in order; see `migrate`."""
    client.command(SQL.create_migrations)
    rows = client.query(SQL.applied_migrations).result_rows
    applied: dict[int, str] = {version: digest for version, digest in rows}  # noqa: C416
    fresh = []
    for path in sorted(MIGRATIONS.iterdir(), key=lambda path: path.name):
        if not path.name.endswith(".sql"):
            continue
        text = path.read_text(encoding="utf-8")
        name = path.name.removesuffix(".sql")
        version = int(name.split("_", 1)[0])
        digest = hashlib.sha256(text.encode()).hexdigest()
        if version not in applied:
            for statement in statements(text):
                client.command(statement)
            client.command(
                SQL.note_migration,
                parameters={"version": version, "name": name, "digest": digest},
            )
            fresh.append(name)
        elif applied[version] != digest:
            raise Failure(f"ClickHouse migration {name} was changed after it was applied")
    return fresh


def statements(text: str) -> list[str]:
    """The statements of a file: each ends with a semicolon at the end of a line."""
    parts = (part.strip().removesuffix(";").strip() for part in text.split(";\n"))
    return [part for part in parts if part]
