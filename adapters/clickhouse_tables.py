"""Which generation ClickHouse's copy holds, whether its tables keep their promise, a new start.

A generation is one making of the copy. PostgreSQL knows which one is wanted; the tables' constraint
`shipped_generation` knows which one they take, so that a warehouse that slept through a rebuild
cannot add old rows to the new copy.
"""

import re
from collections.abc import Mapping
from dataclasses import dataclass

from clickhouse_connect.driver.client import Client

from adapters.clickhouse import SQL, answers, apply_migrations, statements

TABLES = ("charge", "credit_transaction", "charge_by_day", "credit_by_day")
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


def generation_of(tables: Mapping[str, Table]) -> int | None:
    """The generation that both copied tables take; 0: nothing was copied yet. None: no such tables.

    When a rebuild died between the two tables, the lower one counts.
    """
    generations = []
    for name in ("charge", "credit_transaction"):
        found = _GENERATION.search(tables[name].create_query) if name in tables else None
        if found is None:
            return None
        generations.append(int(found[1]))
    return min(generations)


def weak_tables(tables: Mapping[str, Table]) -> list[str]:
    """Names of tables that would keep a repeated insert: no window of tokens, or too small a one.

    Looks at the copied tables, the roll-ups and the target of every materialized view, those that
    somebody else added included.
    """
    names = set(TABLES)
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
        for statement in (SQL.accept_charge_generation, SQL.accept_credit_generation):
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
