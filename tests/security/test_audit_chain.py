"""S20: an audit log that was changed, shortened or lengthened from outside is found, and where."""

import asyncio
from collections.abc import AsyncIterator, Sequence

import asyncpg
import pytest

from adapters.audit import audit
from adapters.audit_chain import Anchor, chain_end, check_chain, parse_anchor
from adapters.audit_log import Act, note
from adapters.failures import Failure
from adapters.migrations import Migration, apply, read_migrations, read_reference
from adapters.postgres import connect
from adapters.settings import Settings
from core.audit import Check
from tests.commands import report, run_tollgate
from tests.planted_ledger import run_sql

PUT_IN = """INSERT INTO audit_log
SELECT 99, at, actor, 'grant', 'mallory', before, after, reason, request_id, hash, hash
FROM audit_log WHERE audit_id = 6"""
# The row is changed and its own hash made anew, as the database's function does.
FORGED = "UPDATE audit_log SET hash = audit_row_hash(audit_log) WHERE audit_id = 3"

# What somebody with all rights does, and every place that must be named for it.
TAMPERED: list[tuple[Sequence[str], list[tuple[str, str]]]] = [
    (["UPDATE audit_log SET actor = 'nobody' WHERE audit_id = 3"], [("act 3,", "changed")]),
    (
        ["UPDATE audit_log SET at = at - interval '1 us' WHERE audit_id = 6"],
        [("act 6,", "changed")],
    ),
    (
        ["UPDATE audit_log SET after = '{\"balance_micro\": 4}' WHERE audit_id = 1"],
        [("act 1,", "")],
    ),
    (["UPDATE audit_log SET before = NULL WHERE audit_id = 2"], [("act 2,", "changed")]),
    (
        ["UPDATE audit_log SET reason = 'other' WHERE audit_id = 3", FORGED],
        [("act 4,", "act 3 is not the one that it followed")],
    ),
    (["DELETE FROM audit_log WHERE audit_id = 4"], [("act 5,", "act 4 to act 4 are gone")]),
    (["DELETE FROM audit_log WHERE audit_id < 3"], [("act 3,", "act 1 to act 2 are gone")]),
    (["DELETE FROM audit_log WHERE audit_id = 1"], [("act 2,", "act 1 to act 1 are gone")]),
    ([PUT_IN], [("act 99, grant mallory", "changed or put in")]),
    (
        ["UPDATE audit_log SET audit_id = audit_id * 10 WHERE audit_id IN (2, 4)"],
        [
            *(("act 3,", "gone"), ("act 5,", "gone"), ("act 20,", "changed")),
            *(("act 20,", "gone"), ("act 40,", "changed"), ("act 40,", "gone")),
        ],
    ),
]


async def noted(connection: asyncpg.Connection, number: int) -> int:
    before, after = {"balance_micro": number}, {"balance_micro": number + 1, "note": 'a "ü" \\ b'}
    return await note(connection, Act("root", "adjust", f"acct-{number}", before, after, "why"))


@pytest.fixture
async def connection(settings: Settings) -> AsyncIterator["asyncpg.Connection[asyncpg.Record]"]:
    made = await connect(settings, application_name="test")
    for number in range(1, 7):
        assert await noted(made, number) == number
    yield made
    await made.close()


async def test_what_was_written_is_one_chain(connection: asyncpg.Connection) -> None:
    result, anchor = await check_chain(connection, [])
    assert (result.compared, result.found) == (6, 0)
    stored = await connection.fetchval("SELECT hash FROM audit_log WHERE audit_id = 6")
    assert anchor == Anchor(6, stored.hex()) == await chain_end(connection)


async def test_tampering_is_named(connection: asyncpg.Connection) -> None:
    for statements, places in TAMPERED:
        undone = connection.transaction(isolation="repeatable_read")
        await undone.start()
        await connection.execute("SET LOCAL session_replication_role = replica")
        for statement in statements:
            await connection.execute(statement)
        result, _ = await check_chain(connection, [])
        await undone.rollback()
        assert result.found == len(places), (statements, result.findings)
        for where, what in places:
            assert any(
                finding.subject.startswith(where) and what in finding.found
                for finding in result.findings
            ), (statements, result.findings)


async def test_a_log_that_is_cut_off_or_written_anew_is_found_by_an_anchor(
    settings: Settings, connection: asyncpg.Connection
) -> None:
    held = await chain_end(connection)
    await noted(connection, 7)
    assert (await check_chain(connection, [held, Anchor(0, "")]))[0].found == 0
    await run_sql(settings, "DELETE FROM audit_log WHERE audit_id >= 5")
    assert (await check_chain(connection, []))[0].found == 0, "the chain alone can not know"
    [finding] = (await check_chain(connection, [held]))[0].findings
    assert (finding.subject, finding.found) == ("act 6", "no row")
    for number in (5, 6, 7):
        await noted(connection, number)
    [finding] = (await check_chain(connection, [held]))[0].findings
    assert finding.expected.startswith(f"hash {held.hash}")


async def test_acts_at_once_get_one_place_each(
    settings: Settings, connection: asyncpg.Connection
) -> None:
    """Twelve connections, each with four acts in transactions of their own; some are undone."""

    async def acts(number: int) -> None:
        mine = await connect(settings, application_name="test")
        for turn in range(4):
            transaction = mine.transaction()
            await transaction.start()
            await noted(mine, number)
            await (transaction.rollback() if (number + turn) % 3 == 0 else transaction.commit())
        await mine.close()

    await asyncio.gather(*(acts(number) for number in range(12)))
    result, anchor = await check_chain(connection, [])
    assert result.findings == []
    assert anchor.number == result.compared == 6 + 32


async def test_a_caller_can_not_choose_its_place(connection: asyncpg.Connection) -> None:
    await connection.execute(
        "INSERT INTO audit_log (audit_id, actor, action, subject, previous_hash, hash)"
        " VALUES (500, 'x', 'x', 'x', 'x', 'x')"
    )
    result, anchor = await check_chain(connection, [])
    assert (anchor.number, result.found) == (7, 0)


async def test_verify_includes_it(settings: Settings, connection: asyncpg.Connection) -> None:
    assert (await audit(settings)).audit_anchor == await chain_end(connection)
    await run_sql(settings, "UPDATE audit_log SET subject = 'other' WHERE audit_id = 2")
    results = {result.check: result for result in (await audit(settings)).results}
    assert [each.subject for each in results[Check.AUDIT_LOG].findings] == ["act 2, adjust other"]


async def test_the_rows_of_before_get_into_the_chain(settings: Settings) -> None:
    """What 0007 does to a log that has rows, some numbers missing after acts that were undone."""
    migrations = read_migrations()
    connection = await connect(settings, application_name="test", unlimited=True)
    try:
        await connection.execute("DROP SCHEMA public CASCADE; CREATE SCHEMA public")
        await apply(connection, migrations[:6], await _reference_of(migrations[:6]))
        for subject in ("a", "b", "c"):
            await connection.execute(
                "INSERT INTO audit_log (actor, action, subject) VALUES ('x', 'y', $1)", subject
            )
            await connection.execute("SELECT nextval('audit_log_audit_id_seq')")
        await apply(connection, migrations, read_reference())
        assert (await check_chain(connection, []))[0].findings == []
        assert await noted(connection, 1) == 6
        assert (await check_chain(connection, []))[0].findings == []
        with pytest.raises(asyncpg.RaiseError, match="append-only"):
            await connection.execute("UPDATE audit_log SET actor = 'x'")
    finally:
        await connection.close()


async def _reference_of(migrations: Sequence[Migration]) -> str:
    return "\n".join(migration.sql for migration in migrations)


@pytest.mark.parametrize("text", ["", "7", "7:", "0:" + "a" * 64, "7:" + "a" * 63, "x:" + "a" * 64])
def test_what_is_no_anchor(text: str) -> None:
    with pytest.raises(Failure, match="is no anchor"):
        parse_anchor(text)


async def test_the_command(
    settings: Settings, connection: asyncpg.Connection, environment: dict[str, str]
) -> None:
    good = await report(environment, "audit-log", "verify")
    assert (good["intact"], good["acts"]) == (True, 6)
    await run_sql(settings, "DELETE FROM audit_log WHERE audit_id = 6")
    assert (await report(environment, "audit-log", "verify"))["intact"]
    cut = await run_tollgate(environment, "audit-log", "verify", "--anchor", good["anchor"])
    assert cut.returncode == 1
    assert "act 6" in cut.stdout
    assert "NOT intact: 1 findings in 5 acts" in cut.stdout
