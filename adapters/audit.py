"""All invariants, checked against one consistent snapshot. Reads only, locks nothing."""

import asyncio
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass
from datetime import datetime

import asyncpg

from adapters import clickhouse
from adapters.audit_chain import Anchor, chain_end
from adapters.clickhouse import Refused, Unreachable
from adapters.clickhouse_tables import NOTHING_COPIED, generation_of, read_tables
from adapters.copy_audit import CopyAudit
from adapters.failures import Failure
from adapters.postgres import Connection, connect
from adapters.queries import load
from adapters.settings import Settings
from core.audit import Check, Finding, Result
from schemas.topics import USAGE_EVENTS

SQL = load("verify")
ACTS = load("audit_log")

OnResult = Callable[[Result], None]


@dataclass(frozen=True, slots=True)
class Waiting:
    """What the snapshot holds that is not in ClickHouse yet, by stream; charges as offsets."""

    offsets: int
    transactions: int
    corrections: int

    @property
    def total(self) -> int:
        """How much waits in all; 0: the copy has everything that the snapshot has."""
        return self.offsets + self.transactions + self.corrections


@dataclass(frozen=True, slots=True)
class Report:
    """What an audit found. Exact: not one difference. What waits to be copied is no difference.

    `audit_anchor` is the end of the audit log: kept elsewhere, it shows later that nothing before
    it was rewritten or cut off.
    """

    taken_at: datetime
    generation: int
    results: list[Result]
    waiting: Waiting
    audit_anchor: Anchor

    @property
    def exact(self) -> bool:
        """Whether every invariant holds."""
        return not any(result.found for result in self.results)


async def audit(settings: Settings, on_result: OnResult = lambda _: None) -> Report:
    """Checks everything and calls `on_result` after each check.

    PostgreSQL is read in one REPEATABLE READ READ ONLY transaction. ClickHouse has no snapshots:
    compared is what the snapshot says was shipped, which does not change any more. Memory is
    bounded: both sides aggregate. Raises Failure when a store is away or was never migrated, a
    rebuild is at work, or `audit_seconds_max` are over.
    """
    limit = asyncio.timeout(settings.audit_seconds_max)
    try:
        async with limit, _line(settings, long_snapshot=True) as connection:
            await connection.transaction(isolation="repeatable_read", readonly=True).start()
            return await _audit(settings, connection, on_result)
    except TimeoutError as error:
        if not limit.expired():
            raise
        seconds = f"{settings.audit_seconds_max:g} s (TOLLGATE_AUDIT_SECONDS_MAX)"
        raise Failure(f"the audit took longer than {seconds}") from error
    except (Refused, Unreachable) as error:
        raise Failure(f"ClickHouse does not answer: {error}") from error
    except asyncpg.UndefinedTableError as error:
        raise Failure(f"PostgreSQL: {error}: run `tollgate migrate` first") from error


async def _audit(settings: Settings, connection: Connection, on_result: OnResult) -> Report:
    topic = settings.topic_prefix + USAGE_EVENTS.name
    taken = await connection.fetchrow(SQL.snapshot)
    if taken is None:
        raise Failure("PostgreSQL gave no snapshot")
    generation = taken["generation"] or 1
    results: list[Result] = []
    async for result in _ledger_checks(connection, topic, taken):
        results.append(result)
        on_result(result)
    async for result in _copy_checks(settings, connection, topic, generation):
        results.append(result)
        on_result(result)
    waiting = await connection.fetchrow(SQL.waiting, topic, generation)
    anchor = await chain_end(connection)
    return Report(taken["taken_at"], generation, results, Waiting(*waiting), anchor)


async def _ledger_checks(
    connection: Connection, topic: str, taken: asyncpg.Record
) -> AsyncIterator[Result]:
    """PostgreSQL against itself."""
    balance = Result(Check.BALANCE, taken["accounts"], "accounts")
    chain = Result(Check.CHAIN, taken["accounts"], "accounts")
    async for row in connection.cursor(SQL.balance_findings):
        result = balance if row["kind"] == "balance" else chain
        result.add([Finding(result.check, row["subject"], row["expected"], row["found"])])
    yield balance
    yield chain
    plan: tuple[tuple[Check, str, int, str, tuple[str, ...]], ...] = (
        (Check.GRANTS, SQL.grant_findings, taken["accounts"], "accounts", ()),
        (Check.DRAWS, SQL.draw_findings, taken["grants"], "grants", ()),
        (Check.HOLDS, SQL.hold_findings, taken["holds"], "open holds", ()),
        (Check.OFFSETS, SQL.offset_findings, taken["batches"], "batches", ()),
        (Check.OUTCOMES, SQL.outcome_findings, taken["batches"], "batches", (topic,)),
        (Check.CORRECTIONS, SQL.correction_findings, taken["corrections"], "corrections", ()),
        (
            Check.CORRECTION_CREDITS,
            SQL.correction_credit_findings,
            taken["corrections"],
            "corrections",
            (),
        ),
        (Check.COUNTERS, SQL.counter_findings, taken["counters"], "counters", ()),
        (Check.SPEND, SQL.spend_findings, taken["accounts"], "accounts", ()),
        (Check.COUPONS, SQL.coupon_findings, taken["coupons"], "coupons", ()),
        (Check.REFRESHES, SQL.refresh_findings, taken["refreshes"], "refreshes", ()),
        (Check.REPORTS, SQL.report_findings, taken["reports"], "reports", ()),
        (Check.AUDIT_LOG, ACTS.chain_findings, taken["acts"], "acts", ()),
    )
    for check, statement, compared, what, arguments in plan:
        result = Result(check, compared, what)
        async for row in connection.cursor(statement, *arguments):
            result.add([Finding(check, row["subject"], row["expected"], row["found"])])
        yield result


async def _copy_checks(
    settings: Settings, connection: Connection, topic: str, generation: int
) -> AsyncIterator[Result]:
    """ClickHouse against the snapshot, and against itself."""
    client = await asyncio.to_thread(clickhouse.connect, settings)
    try:
        held = generation_of(await asyncio.to_thread(read_tables, client))
        if held not in {generation, NOTHING_COPIED}:
            raise Failure(
                f"ClickHouse's copy is of generation {held}, PostgreSQL shipped {generation}: "
                "a rebuild is at work or was interrupted; wait for it or run `tollgate rebuild`"
            )
        checks = CopyAudit(connection, client, generation)
        yield await checks.charges()
        yield await checks.credits()
        yield await checks.corrections()
        yield await checks.duplicates()
        yield await checks.roll_ups()
        async with _line(settings) as now:  # outside of the snapshot
            yield await checks.beyond(now, topic)
    finally:
        client.close()


@asynccontextmanager
async def _line(settings: Settings, *, long_snapshot: bool = False) -> AsyncIterator[Connection]:
    """A connection without a limit of a statement. What a server that has vanished will never
    answer is not waited for when the block fails or is cancelled, no ROLLBACK either.
    """
    try:
        connection = await connect(
            settings, application_name="verify", unlimited=True, long_snapshot=long_snapshot
        )
    except (OSError, asyncpg.PostgresError, TimeoutError) as error:
        raise Failure(f"PostgreSQL does not answer: {error}") from error
    try:
        yield connection
        await connection.close(timeout=2)
    finally:
        connection.terminate()
