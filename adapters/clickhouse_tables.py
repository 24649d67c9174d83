"""Which generation ClickHouse's copy holds, whether its tables keep their promise, a new start.

A generation is one making of the copy. PostgreSQL knows which one is wanted; the tables' constraint
`shipped_generation` knows which one they take, so that a warehouse that slept through a rebuild
cannot add old rows to the new copy.
"""

import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Final

from clickhouse_connect.driver.client import Client

from adapters.clickhouse import SQL, answers, apply_migrations, statements
from core.ranges import Stream

TABLE_OF: Final[Mapping[Stream, str]] = {
    Stream.CHARGE: "charge",
    Stream.CREDIT: "credit_transaction",
    Stream.CORRECTION: "charge_correction",
}
ROLL_UPS = ("charge_by_day", "credit_by_day", "charge_correction_by_day")
NOTHING_COPIED = 0
WINDOW_TOKENS_MIN = 1_000

_GENERATION = re.compile(r"CONSTRAINT shipped_generation CHECK generation = (?:_CAST\()?(\d+)")
_WINDOW = re.compile(r"\b(?:non_)?replicated_deduplication_window = (\d+)")
_TARGET = re.compile(r"CREATE MATERIALIZED VIEW \S+ TO (?:\S+\.)?`?(\w+)`?")


@dataclass(frozen=True, slots=True)
class Table:
    """One table as ClickHouse has it."""

    engine: str
    engine_full: str
    create_query: str


def read_tables(client: Client) -> dict[str, Table]:
    """Every table and view of the database by name. Raises Refused or Unreachable."""
    with answers():
        rows = client.query(SQL.tables).result_rows
    return {name: Table(engine, full, create) for name, engine, full, create in rows}


def generations_of(tables: Mapping[str, Table]) -> dict[Stream, int]:
    """The generation that each stream's table takes; 0: nothing was copied yet.

    A stream whose table is not there, or has lost its constraint, is not in it.
    """
    generations = {}
    for stream, name in TABLE_OF.items():
        found = _GENERATION.search(tables[name].create_query) if name in tables else None
        if found is not None:
            generations[stream] = int(found[1])
    return generations


def generation_of(tables: Mapping[str, Table]) -> int | None:
    """The generation that the copied tables take; 0: nothing was copied yet. None: one is missing.

    When they differ, because a rebuild died between two of them or a migration made a new one, the
    lowest counts.
    """
    generations = generations_of(tables)
    return min(generations.values()) if len(generations) == len(TABLE_OF) else None


def weak_tables(tables: Mapping[str, Table]) -> list[str]:
    """Names of tables that would keep a repeated insert: no window of tokens, or too small a one.

    Looks at the copied tables, the roll-ups and the target of every materialized view, those that
    somebody else added included.
    """
    names = {*TABLE_OF.values(), *ROLL_UPS}
    for table in tables.values():
        target = _TARGET.match(table.create_query)
        if table.engine == "MaterializedView" and target:
            names.add(target[1])
    return sorted(name for name in names if name in tables and _weak(tables[name]))


def _weak(table: Table) -> bool:
    if "MergeTree" not in table.engine:
        return False
    window = _WINDOW.search(table.engine_full)
    if window is None:
        return not table.engine.startswith("Replicated")
    return int(window[1]) < WINDOW_TOKENS_MIN


def accept_generation(client: Client, generation: int) -> None:
    """From now on the copy takes rows of this generation and refuses all others. Idempotent."""
    with answers():
        for statement in statements(SQL.accept_generation):
            client.command(statement, parameters={"generation": generation})


def make_anew(client: Client, generation: int) -> None:
    """Drops the copy with its tokens, makes empty tables and opens them for `generation`.

    Idempotent; whatever it is interrupted at, a repetition ends the same. Only `tollgate rebuild`
    calls it.
    """
    with answers():
        for statement in statements(SQL.drop_tables):
            client.command(statement)
        client.command(SQL.forget_migrations)
        apply_migrations(client)
    accept_generation(client, generation)
