"""Which rights statements need, as PostgreSQL itself says, and which ones a role has.

With `debug_print_parse` PostgreSQL tells for every statement that is prepared which rights on which
table and columns it will check. Nothing is run, and nothing is guessed from the text.
"""

import asyncio
import re
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from typing import Any

import asyncpg

from adapters.queries import load
from tests.security.reached import Use

# The tree is broken into lines anywhere between two words.
_CHECKED = re.compile(
    r"\{RTEPERMISSIONINFO :relid (\d+) [^{}]*?"
    r":requiredPerms (\d+) [^{}]*?:updatedCols \(b([ \d]*)\)"
)
_VERBS = {1: "INSERT", 2: "SELECT", 4: "UPDATE", 8: "DELETE"}
_FIRST_COLUMN = 7  # a column's number is counted from the lowest system column
_SEQUENCE = re.compile(r"nextval\('(\w+)'\)")
_SERIAL = re.compile(r"pg_get_serial_sequence\('(\w+)', '(\w+)'\)")
# What a trigger of ours reads, with the rights of whoever writes.
_BY_TRIGGER = {("audit_log", "INSERT"): ("audit_log", "SELECT")}
LOCKED = "any column"  # what SELECT ... FOR UPDATE asks for


@dataclass(frozen=True, slots=True, order=True)
class Right:
    """A verb on a table or sequence; UPDATE on one column of it."""

    thing: str
    verb: str
    column: str = ""

    def __str__(self) -> str:
        return f"{self.verb}{f' ({self.column})' if self.column else ''} ON {self.thing}"


class Parser:
    """Asks a connection of the tests, which is for nothing else, what statements need."""

    def __init__(self, connection: "asyncpg.Connection[asyncpg.Record]") -> None:
        self._connection = connection
        self._trees: list[str] = []
        self._columns: dict[tuple[int, int], str] = {}
        self._tables: dict[int, str] = {}
        self._known: dict[Use, set[Right]] = {}

    async def listen(self) -> None:
        """To be called once, before anything is asked."""
        for row in await self._connection.fetch(
            "SELECT attrelid::bigint, relname, attnum, attname FROM pg_attribute"
            " JOIN pg_class ON pg_class.oid = attrelid"
            " WHERE relnamespace = current_schema()::regnamespace AND attnum > 0"
        ):
            self._tables[row["attrelid"]] = row["relname"]
            self._columns[row["attrelid"], row["attnum"]] = row["attname"]
        self._connection.add_log_listener(self._hear)
        await self._connection.execute(
            "SET debug_print_parse = on; SET debug_pretty_print = off;"
            " SET client_min_messages = log"
        )

    def _hear(self, _connection: object, message: Any) -> None:
        if message.message == "parse tree:":
            self._trees.append(message.detail)

    async def needed(self, use: Use) -> set[Right]:
        """The rights of one statement or COPY."""
        if use not in self._known:
            self._known[use] = await self._ask(use)
        return self._known[use]

    async def _ask(self, use: Use) -> set[Right]:
        if use.file == "COPY":
            found = {Right(use.name, "INSERT")}
        else:
            text = getattr(load(use.file), use.name)
            self._trees.clear()
            await self._connection.prepare(text)
            await asyncio.sleep(0)  # asyncpg hands messages to the loop
            found = {right for tree in self._trees for right in self._of_tree(tree)}
            found |= {Right(name, "USAGE") for name in _SEQUENCE.findall(text)}
            found |= {
                Right(f"{table}_{column}_seq", "USAGE") for table, column in _SERIAL.findall(text)
            }
        for right in tuple(found):
            if (right.thing, right.verb) in _BY_TRIGGER:
                found.add(Right(*_BY_TRIGGER[right.thing, right.verb]))
        return found

    def _of_tree(self, tree: str) -> Iterator[Right]:
        for relation, wanted, updated in _CHECKED.findall(" ".join(tree.split())):
            table = self._tables.get(int(relation))
            if table is None:  # a catalog of PostgreSQL
                continue
            for bit, verb in _VERBS.items():
                if not int(wanted) & bit:
                    continue
                if verb == "UPDATE":
                    numbers = [int(each) - _FIRST_COLUMN for each in updated.split()]
                    names = [self._columns[int(relation), number] for number in numbers]
                    yield from (Right(table, verb, name) for name in names or [LOCKED])
                else:
                    yield Right(table, verb)


async def needed_by(parser: Parser, uses: Iterable[Use]) -> dict[Right, list[str]]:
    """Every right that these need, and which of them need it."""
    found: dict[Right, list[str]] = {}
    for use in sorted(uses, key=str):
        for right in await parser.needed(use):
            found.setdefault(right, []).append(str(use))
    for right in tuple(found):
        has_column = any(
            other.thing == right.thing and other.verb == "UPDATE" and other.column != LOCKED
            for other in found
        )
        if right.column == LOCKED and has_column:
            del found[right]
    return found


async def granted_to(connection: "asyncpg.Connection[asyncpg.Record]", role: str) -> set[Right]:
    """What the role was granted by name on tables, columns and sequences of the schema."""
    rows = await connection.fetch(
        """
        SELECT relname, privilege_type, '' AS attname
        FROM pg_class, aclexplode(relacl)
        WHERE relnamespace = current_schema()::regnamespace AND grantee = $1::text::regrole
        UNION ALL
        SELECT relname, privilege_type, attname
        FROM pg_class JOIN pg_attribute ON attrelid = pg_class.oid, aclexplode(attacl)
        WHERE relnamespace = current_schema()::regnamespace AND grantee = $1::text::regrole
        """,
        role,
    )
    return {Right(row["relname"], row["privilege_type"], row["attname"]) for row in rows}


async def called_functions(
    connection: "asyncpg.Connection[asyncpg.Record]", uses: Iterable[Use]
) -> set[Right]:
    """What the functions of the schema that these call need at least, by their text.

    PostgreSQL looks into a function only when it runs, so columns are not known here.
    """
    texts = [getattr(load(use.file), use.name) for use in uses if use.file != "COPY"]
    found: set[Right] = set()
    for name, body in await connection.fetch(
        "SELECT proname, prosrc FROM pg_proc WHERE pronamespace = current_schema()::regnamespace"
    ):
        if any(re.search(rf"\b{name}\(", text) for text in texts):
            found |= set(_named_in(body))
    tables = await connection.fetch(
        "SELECT relname FROM pg_class"
        " WHERE relnamespace = current_schema()::regnamespace AND relkind IN ('r', 'p')"
    )
    known = {row["relname"] for row in tables}
    return {right for right in found if right.thing in known}


def _named_in(body: str) -> Iterator[Right]:
    text = re.sub(r"--.*", "", body)
    yield from (Right(table, "INSERT") for table in re.findall(r"INSERT INTO (\w+)", text))
    yield from (Right(table, "DELETE") for table in re.findall(r"DELETE FROM (\w+)", text))
    yield from (Right(table, "SELECT") for table in re.findall(r"(?:FROM|JOIN) (\w+)", text))
    changed = re.findall(r"UPDATE (\w+)(?: AS \w+)? SET", text)
    yield from (Right(table, "UPDATE", LOCKED) for table in changed)
