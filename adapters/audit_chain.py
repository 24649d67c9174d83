"""Whether the audit log is the one that was written: its chain, and anchors kept elsewhere.

The chain shows what was changed, taken out or put in by somebody who did not write all that follows
anew. Against that, and against a log that was cut off at its end, there are anchors: the number and
the hash of an act, kept where whoever can write to the database can not.
"""

import re
from collections.abc import Iterable
from dataclasses import dataclass

from adapters.failures import Failure
from adapters.postgres import Connection
from adapters.queries import load
from core.audit import Check, Finding, Result

SQL = load("audit_log")
_ANCHOR = re.compile(r"(\d{1,18}):([0-9a-f]{64}|)")


@dataclass(frozen=True, slots=True)
class Anchor:
    """An act's number and hash; 0 and nothing for an empty log."""

    number: int
    hash: str

    def __str__(self) -> str:
        """As it is printed, and as `parse_anchor` reads it."""
        return f"{self.number}:{self.hash}"


def parse_anchor(text: str) -> Anchor:
    """The anchor of NUMBER:HASH; raises Failure for anything else."""
    match = _ANCHOR.fullmatch(text.strip())
    if match is None or (match[1] == "0") != (match[2] == ""):
        raise Failure(f"{text[:100]!r} is no anchor: NUMBER:HASH, as `audit-log verify` prints it")
    return Anchor(int(match[1]), match[2])


async def chain_end(connection: Connection) -> Anchor:
    """The anchor of the last act."""
    row = await connection.fetchrow(SQL.chain_end)
    assert row is not None  # noqa: S101 - one row, also of an empty log
    return Anchor(row["audit_id"], row["hash"])


async def check_chain(connection: Connection, anchors: Iterable[Anchor]) -> tuple[Result, Anchor]:
    """Every place where the chain is broken or an anchor does not hold, and the anchor of now.

    One snapshot, reads only, locks nothing.
    """
    async with connection.transaction(isolation="repeatable_read", readonly=True):
        end = await connection.fetchrow(SQL.chain_end)
        assert end is not None  # noqa: S101 - one row, also of an empty log
        result = Result(Check.AUDIT_LOG, end["acts"], "acts")
        async for row in connection.cursor(SQL.chain_findings):
            result.add([Finding(result.check, row["subject"], row["expected"], row["found"])])
        for anchor in anchors:
            result.add(await _against(connection, anchor))
    return result, Anchor(end["audit_id"], end["hash"])


async def _against(connection: Connection, anchor: Anchor) -> list[Finding]:
    found = await connection.fetchval(SQL.chain_at, anchor.number)
    if anchor.number == 0 or found == anchor.hash:
        return []
    subject, expected = f"act {anchor.number}", f"hash {anchor.hash}, by the anchor"
    return [Finding(Check.AUDIT_LOG, subject, expected, f"hash {found}" if found else "no row")]
