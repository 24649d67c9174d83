"""Shipping by hand, and the proof that the copy is exact, for tests of the warehouse."""

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass

from adapters import clickhouse
from adapters.audit import Report
from adapters.copy import Copy
from adapters.postgres import open_pool
from adapters.ranges import BYTES_MAX, Ranges
from adapters.settings import Settings
from core.audit import Check
from core.ranges import Stream
from tests.planted_ledger import connect, topic_of


@dataclass
class Bench:
    """What a test of shipping works with."""

    settings: Settings
    ranges: Ranges
    copy: Copy

    async def drain(self) -> int:
        """Ships until nothing waits; returns the number of ranges."""
        await self.copy.agree()
        done = 0
        for stream in Stream:
            while await self.copy.ship_next(stream) is not None:
                done += 1
        return done

    async def drain_with_credits(self) -> None:
        """As `drain`, until credits and corrections are there: any transaction of the server delays
        them.
        """
        for _ in range(600):
            await self.drain()
            connection = await connect(self.settings)
            booked = tuple(await connection.fetchrow(COUNT_BOTH))
            await connection.close()
            if await asyncio.to_thread(ask, self.settings, COUNT_BOTH) == [booked]:
                return
            await asyncio.sleep(0.1)
        raise AssertionError("credits or corrections did not arrive, or came more than once")


@asynccontextmanager
async def bench(
    settings: Settings, rows_max: int = 100_000, bytes_max: int = BYTES_MAX
) -> AsyncIterator[Bench]:
    async with open_pool(settings, application_name="tests", size=4) as pool:
        ranges = Ranges(pool, topic=topic_of(settings), rows_max=rows_max, bytes_max=bytes_max)
        yield Bench(settings, ranges, Copy(settings, ranges))


def found(report: Report, check: Check) -> list[str]:
    """The findings of one check: where, and what was found there."""
    [result] = [result for result in report.results if result.check is check]
    return [f"{finding.subject}: {finding.found}" for finding in result.findings]


def ask(settings: Settings, sql: str) -> list[tuple[object, ...]]:
    with clickhouse.connect(settings) as client:
        return [tuple(row) for row in client.query(sql).result_rows]


COUNT_BOTH = """SELECT (SELECT count(*) FROM credit_transaction) AS credits,
(SELECT count(*) FROM charge_correction) AS corrections"""
COLUMNS = """account_id, event_id, partition, epoch, "offset", payload_hash, price_version, rule,
rated_micro, amount_micro, balance_after_micro, tier, demo, source, action, provider, model,
power_level, input_tokens, cache_read_tokens, cache_write_tokens, output_tokens, reasoning_tokens,
other_meters, quantity, own_key, hold_id, resource_id, attributes, service_tier, billed_currency,
billed_pico, counter, counter_units, counter_before"""
CORRECTION_COLUMNS = """correction_id, account_id, event_id, sequence, kind, run_id, voided,
price_version, rule, rated_micro, amount_micro, rated_change_micro, amount_change_micro, tier, demo,
action, provider, model, power_level, service_tier, input_tokens, cache_read_tokens,
cache_write_tokens, output_tokens, reasoning_tokens, other_meters, quantity, own_key,
billed_currency, billed_pico, counter, counter_units, counter_before, transaction_id, actor, reason,
idempotency_key"""
CLICKHOUSE_TIMES = "toUnixTimestamp64Micro(occurred_at), toUnixTimestamp64Micro(posted_at)"
POSTGRES_TIMES = "(extract(epoch FROM occurred_at) * 1000000)::bigint, (extract(epoch FROM posted_at) * 1000000)::bigint"  # noqa: E501


NET_BY_DAY = """
SELECT day, account_id, provider, model, action, demo, toInt64(count()),
       sum(toInt128(u.quantity)), sum(toInt128(u.input_tokens)), sum(toInt128(u.cache_read_tokens)),
       sum(toInt128(u.cache_write_tokens)), sum(toInt128(u.output_tokens)),
       sum(toInt128(u.reasoning_tokens)), sum(toInt128(u.tokens)), sum(u.credits),
       sum(u.list_credits)
FROM net_usage AS u
GROUP BY day, account_id, provider, model, action, demo
ORDER BY ALL
"""


async def assert_copied_exactly(settings: Settings) -> int:
    """Every column of every row is equal, no row is there twice, roll-ups agree; returns rows."""
    connection = await connect(settings)
    ledger = await connection.fetch(
        f"SELECT {COLUMNS}, {POSTGRES_TIMES} FROM charge ORDER BY account_id, event_id"  # noqa: S608
    )
    credits_there = await connection.fetch(
        "SELECT transaction_id, account_id, type, amount_micro, reason, grant_id"
        " FROM credit_transaction ORDER BY transaction_id"
    )
    corrections = await connection.fetch(
        f"SELECT {CORRECTION_COLUMNS}, (extract(epoch FROM occurred_at) * 1000000)::bigint"  # noqa: S608
        " FROM charge_correction ORDER BY correction_id"
    )
    await connection.close()
    copied_corrections = ask(
        settings,
        f"SELECT {CORRECTION_COLUMNS}, toUnixTimestamp64Micro(occurred_at)"  # noqa: S608
        " FROM charge_correction ORDER BY correction_id",
    )
    assert copied_corrections == [tuple(row) for row in corrections]
    copied = ask(
        settings,
        f"SELECT {COLUMNS}, {CLICKHOUSE_TIMES} FROM charge ORDER BY account_id, event_id",  # noqa: S608
    )
    assert copied == [tuple(row) for row in ledger]
    copied_credits = ask(
        settings,
        "SELECT transaction_id, account_id, type, amount_micro, reason, grant_id"
        " FROM credit_transaction ORDER BY transaction_id",
    )
    assert copied_credits == [tuple(row) for row in credits_there]
    assert rolled_up(settings) == ask(
        settings,
        "SELECT count(), sum(toInt128(amount_micro)), sum(toInt128(input_tokens)) FROM charge",
    )
    assert_net_is_one_figure(settings)
    return len(ledger)


def assert_net_is_one_figure(settings: Settings) -> None:
    """Both net views say the same of every group, and as much money as charges and corrections."""
    by_day = ask(settings, "SELECT * FROM net_usage_by_day ORDER BY ALL")
    assert by_day == ask(settings, NET_BY_DAY)
    [(net, ledger)] = ask(
        settings,
        "SELECT (SELECT sum(credits) * 1000000 FROM net_usage),"
        " (SELECT sum(toInt128(amount_micro)) FROM charge)"
        " + (SELECT sum(toInt128(amount_change_micro)) FROM charge_correction)",
    )
    assert net == ledger


def rolled_up(settings: Settings) -> list[tuple[object, ...]]:
    return ask(
        settings, "SELECT sum(events), sum(amount_micro), sum(input_tokens) FROM charge_by_day"
    )
