"""A ledger written by SQL, as a rater would have left it, for tests of what reads the ledger."""

from dataclasses import dataclass

import asyncpg

from adapters.settings import Settings

WELCOME_MICRO = 1_000_000_000_000


@dataclass(frozen=True, slots=True)
class Batch:
    """How many charges to plant, when they occurred and in which epoch of the topic."""

    charges: int
    accounts: int = 5
    partitions: int = 3
    epoch: int = 1
    occurred_from: str = "2026-11-20 10:00:00.000001+00"
    step: str = "1 second"


_ACCOUNTS = """
WITH fresh AS (
    INSERT INTO account (account_id, tier, demo, balance_micro)
    SELECT 'account ' || n, CASE n % 2 WHEN 0 THEN 'free' ELSE 'pro' END, n % 5 = 4, $2
    FROM generate_series(0, $1 - 1) AS n
    ON CONFLICT DO NOTHING
    RETURNING account_id
), given AS (
    INSERT INTO credit_grant (account_id, source, granted_by, amount_micro, remaining_micro)
    SELECT account_id, 'welcome', 'rater', $2, $2 FROM fresh
    RETURNING grant_id, account_id
)
INSERT INTO credit_transaction (account_id, type, amount_micro, balance_after_micro,
                                grant_id, actor, reason, metadata)
SELECT account_id, 'WELCOME', $2, $2, grant_id, 'rater', 'welcome, "friend"',
       '{"model": "gpt-4o", "note": "' || account_id || ', \\"so\\""}'
FROM given
"""

_POSITIONS = """
INSERT INTO stream_position (topic, partition, epoch)
SELECT $1, n, $3 FROM generate_series(0, $2 - 1) AS n
ON CONFLICT (topic, partition) DO UPDATE
SET epoch = excluded.epoch, next_offset = 0, first_offset = 0
WHERE stream_position.epoch < excluded.epoch
"""

_CHARGES = """
WITH planned AS (
    SELECT n, n % $2::int AS a, (n % $2::int) % $3::int AS partition,
           (SELECT count(*) FROM charge) + n AS number,
           CASE WHEN n % $2::int % 5 = 4 THEN 0 ELSE 1 + n * 7919 % 5000 END::bigint AS amount_micro
    FROM generate_series(0, $1::bigint - 1) AS n
)
INSERT INTO charge (account_id, event_id, partition, epoch, "offset", occurred_at, payload_hash,
    price_version, rule, rated_micro, amount_micro, balance_after_micro, tier, demo, source, action,
    provider, model, power_level, input_tokens, cache_read_tokens, cache_write_tokens,
    output_tokens, reasoning_tokens, other_meters, quantity, own_key, hold_id, resource_id,
    attributes, service_tier, billed_currency, billed_pico, counter, counter_units, counter_before)
SELECT 'account ' || a, 'event-' || number, planned.partition, $4,
       stream_position.next_offset
           + row_number() OVER (PARTITION BY planned.partition ORDER BY n) - 1,
       $5::text::timestamptz + n * $6::text::interval, hashint8(n), 1, 'model:openai/gpt-4o',
       1 + n * 7919 % 5000, amount_micro,
       account.balance_micro - sum(amount_micro) OVER (PARTITION BY a ORDER BY n),
       account.tier, account.demo, 'app/chat', 'ai_completion', 'openai',
       (ARRAY['gpt-4o', 'o3', 'a "quoted", model', ''])[1 + n % 4], 'balanced',
       n % 3000, n % 7, n % 3, n % 500, n % 11,
       CASE n % 3 WHEN 0 THEN '{"audio_input":3}' ELSE '' END,
       1, n % 4 = 1, CASE n % 2 WHEN 0 THEN 'hold-' || n END, ' resource/' || n,
       CASE n % 2 WHEN 0 THEN '{"team":"a, \\"b\\""}' ELSE '' END,
       CASE n % 5 WHEN 3 THEN 'batch' ELSE 'standard' END,
       CASE n % 7 WHEN 3 THEN 'USD' ELSE '' END, CASE n % 7 WHEN 3 THEN 1234567890 + n ELSE 0 END,
       CASE n % 6 WHEN 5 THEN 'pages, "a4"' ELSE '' END,
       CASE n % 6 WHEN 5 THEN 1 + n % 3 ELSE 0 END, CASE n % 6 WHEN 5 THEN n ELSE 0 END
FROM planned
JOIN account ON account.account_id = 'account ' || a
JOIN stream_position ON stream_position.topic = $7 AND stream_position.partition = planned.partition
"""

_BOOK = """
WITH posted AS (
    SELECT c.* FROM charge AS c
    JOIN stream_position AS p ON p.topic = $1 AND p.partition = c.partition
    WHERE c.epoch = p.epoch AND c."offset" >= p.next_offset
), spent AS (
    SELECT account_id, sum(amount_micro)::bigint AS micro FROM posted GROUP BY account_id
), moved AS (
    UPDATE account SET balance_micro = balance_micro - micro, spend_micro = spend_micro + micro,
        spend_month = date_trunc('month', now() AT TIME ZONE 'UTC')::date
    FROM spent
    WHERE account.account_id = spent.account_id
), burned AS (
    UPDATE credit_grant SET remaining_micro = remaining_micro - micro FROM spent
    WHERE credit_grant.account_id = spent.account_id AND source = 'welcome' AND micro > 0
    RETURNING grant_id, micro
), drawn AS (
    INSERT INTO grant_draw (grant_id, cause, amount_micro)
    SELECT grant_id, 'batch:1', micro FROM burned
), counted AS (
    INSERT INTO usage_counter (account_id, counter, month, units)
    SELECT account_id, counter, date_trunc('month', occurred_at AT TIME ZONE 'UTC')::date,
           sum(counter_units)
    FROM posted WHERE counter <> '' GROUP BY 1, 2, 3
    ON CONFLICT (account_id, counter, month)
    DO UPDATE SET units = usage_counter.units + excluded.units
), per_partition AS (
    SELECT partition, epoch, min("offset") AS from_offset, max("offset") + 1 AS to_offset,
           count(*)::int AS charged
    FROM posted GROUP BY partition, epoch
), booked AS (
    INSERT INTO batch_outcome (batch_id, topic, partition, epoch, from_offset, to_offset, charged,
                               duplicate, dead)
    SELECT 1, $1, partition, epoch, from_offset, to_offset, charged, 0, 0 FROM per_partition
)
UPDATE stream_position AS p SET next_offset = to_offset FROM per_partition
WHERE p.topic = $1 AND p.partition = per_partition.partition
"""


def topic_of(settings: Settings) -> str:
    """The real name of the usage topic."""
    return f"{settings.topic_prefix}usage.events"


async def connect(settings: Settings) -> "asyncpg.Connection[asyncpg.Record]":
    """A connection of the test itself, in UTC."""
    dsn = settings.postgres.get_secret_value()
    return await asyncpg.connect(dsn, server_settings={"timezone": "UTC"})


async def plant(settings: Settings, batch: Batch) -> None:
    """Charges, draws, outcomes and positions in one transaction, as one batch of the rater."""
    connection = await connect(settings)
    topic = topic_of(settings)
    try:
        async with connection.transaction():
            await connection.execute(_ACCOUNTS, batch.accounts, WELCOME_MICRO)
            await connection.execute(_POSITIONS, topic, batch.partitions, batch.epoch)
            await connection.execute(
                _CHARGES,
                batch.charges,
                batch.accounts,
                batch.partitions,
                batch.epoch,
                batch.occurred_from,
                batch.step,
                topic,
            )
            await connection.execute(_BOOK, topic)
    finally:
        await connection.close()


async def run_sql(settings: Settings, *statements: str) -> None:
    """Runs statements in one transaction without the triggers: plants what must not be."""
    connection = await connect(settings)
    try:
        async with connection.transaction():
            await connection.execute("SET LOCAL session_replication_role = replica")
            for statement in statements:
                await connection.execute(statement)
    finally:
        await connection.close()
