"""Corrections written by SQL on a planted ledger, as voids, amendments and re-rates leave them."""

from dataclasses import dataclass

from adapters.settings import Settings
from tests.planted_ledger import connect


@dataclass(frozen=True, slots=True)
class Corrections:
    """Which charges to correct, and how: each whose number leaves `rest` by `every`.

    void: worth nothing from then on. amend: another model, more tokens, dearer or cheaper. rerate
    and revert: 7 micro-credits more by another version. Each on the state that the charge is in.
    """

    kind: str
    every: int
    rest: int = 0
    run_id: int | None = None


_CHOOSE = """
CREATE TEMP TABLE chosen ON COMMIT DROP AS
WITH standing AS (
    SELECT c.account_id, c.event_id, c.occurred_at, c.tier, c.demo, c.power_level, c.own_key,
           c.service_tier, c.billed_currency, c.billed_pico, c.counter_before, c.price_version,
           substr(c.event_id, 7)::bigint AS n,
           coalesce(s.sequence, 0) + 1 AS sequence, coalesce(s.action, c.action) AS action,
           coalesce(s.provider, c.provider) AS provider, coalesce(s.model, c.model) AS model,
           coalesce(s.rule, c.rule) AS rule, coalesce(s.rated_micro, c.rated_micro) AS was_rated,
           coalesce(s.amount_micro, c.amount_micro) AS was_amount,
           coalesce(s.input_tokens, c.input_tokens) AS input_tokens,
           coalesce(s.other_meters, c.other_meters) AS other_meters,
           coalesce(s.counter, c.counter) AS counter,
           coalesce(s.counter_units, c.counter_units) AS counter_units,
           c.cache_read_tokens, c.cache_write_tokens, c.output_tokens, c.reasoning_tokens,
           c.quantity
    FROM charge AS c
    LEFT JOIN LATERAL (
        SELECT * FROM charge_correction AS k
        WHERE k.account_id = c.account_id AND k.event_id = c.event_id
        ORDER BY sequence DESC LIMIT 1
    ) AS s ON true
    WHERE substr(c.event_id, 7)::bigint % $2 = $3
), priced AS (
    SELECT *, CASE $1::text WHEN 'void' THEN 0
                      WHEN 'amend' THEN CASE n % 2 WHEN 0 THEN was_rated * 2 ELSE was_rated / 2 END
                      ELSE was_rated + 7 END AS rated
    FROM standing
)
SELECT *, CASE WHEN demo THEN 0 ELSE rated END AS amount,
       CASE WHEN demo THEN 0 ELSE rated END - was_amount AS change,
       CASE WHEN NOT demo AND rated <> was_rated
            THEN nextval(pg_get_serial_sequence('credit_transaction', 'transaction_id'))
       END AS number
FROM priced
"""

_TRANSACTIONS = """
INSERT INTO credit_transaction (transaction_id, account_id, type, amount_micro, balance_after_micro,
                                event_id, actor, reason)
OVERRIDING SYSTEM VALUE
SELECT number, account_id, 'CORRECTION', -change,
       balance_micro - sum(change) OVER (PARTITION BY account_id ORDER BY number), event_id,
       'tests', 'a "reason", said'
FROM chosen JOIN account USING (account_id)
WHERE number IS NOT NULL
"""

_CORRECTIONS = """
INSERT INTO charge_correction (account_id, event_id, sequence, kind, run_id, voided, occurred_at,
    price_version, rule, rated_micro, amount_micro, rated_change_micro, amount_change_micro, tier,
    demo, action, provider, model, power_level, service_tier, input_tokens, cache_read_tokens,
    cache_write_tokens, output_tokens, reasoning_tokens, other_meters, quantity, own_key,
    billed_currency, billed_pico, counter, counter_units, counter_before, transaction_id, actor,
    reason, idempotency_key)
SELECT account_id, event_id, sequence, $1::text, $2::bigint, $1 = 'void', occurred_at,
       CASE $1 WHEN 'amend' THEN price_version ELSE 2 END, rule, rated, amount, rated - was_rated,
       change, tier, demo, action, provider,
       CASE $1 WHEN 'amend' THEN 'amended, "model"' ELSE model END, power_level,
       service_tier, input_tokens + CASE $1 WHEN 'amend' THEN 100 ELSE 0 END,
       cache_read_tokens, cache_write_tokens, output_tokens, reasoning_tokens, other_meters,
       quantity, own_key, billed_currency, billed_pico,
       CASE $1 WHEN 'void' THEN '' ELSE counter END,
       CASE $1 WHEN 'void' THEN 0 ELSE counter_units END, counter_before, number, 'tests',
       'a "reason", said',
       CASE $1 WHEN 'void' THEN 'void ' || account_id || event_id || sequence END
FROM chosen
ORDER BY account_id, event_id
"""

_COUNTERS = """
UPDATE usage_counter AS u SET units = u.units - gone.units
FROM (
    SELECT account_id, counter, date_trunc('month', occurred_at AT TIME ZONE 'UTC')::date AS month,
           sum(counter_units)::bigint AS units
    FROM chosen WHERE counter <> '' AND $1 = 'void' GROUP BY 1, 2, 3
) AS gone
WHERE (u.account_id, u.counter, u.month) = (gone.account_id, gone.counter, gone.month)
"""

_MONEY = """
WITH total AS (
    SELECT account_id, sum(change)::bigint AS micro FROM chosen GROUP BY account_id
), moved AS (
    UPDATE account SET balance_micro = balance_micro - micro, spend_micro = spend_micro + micro
    FROM total
    WHERE account.account_id = total.account_id
), given AS (
    INSERT INTO credit_grant (account_id, source, granted_by, amount_micro, remaining_micro)
    SELECT account_id, 'correction', 'tests', -micro, -micro FROM total WHERE micro < 0
), burned AS (
    UPDATE credit_grant SET remaining_micro = remaining_micro - micro FROM total
    WHERE credit_grant.account_id = total.account_id AND source = 'welcome' AND micro > 0
    RETURNING grant_id, micro
)
INSERT INTO grant_draw (grant_id, cause, amount_micro)
SELECT grant_id, 'correction:1', micro FROM burned
"""


async def plant_corrections(settings: Settings, planned: Corrections) -> int:
    """Appends the corrections in one transaction, their credits moved; returns how many."""
    run_id = planned.run_id or (1 if planned.kind in {"rerate", "revert"} else None)
    connection = await connect(settings)
    try:
        async with connection.transaction():
            await connection.execute(_CHOOSE, planned.kind, planned.every, planned.rest)
            await connection.execute(_TRANSACTIONS)
            await connection.execute(_CORRECTIONS, planned.kind, run_id)
            await connection.execute(_COUNTERS, planned.kind)
            await connection.execute(_MONEY)
            done: int = await connection.fetchval("SELECT count(*) FROM chosen")
    finally:
        await connection.close()
    return done


async def plant_every_kind(settings: Settings) -> int:
    """A void, an amendment, a re-rate of what was amended, and a void of what was re-rated."""
    done = 0
    for planned in (
        Corrections("void", 10, 1),
        Corrections("amend", 5, 2),
        Corrections("rerate", 2, 0),
        Corrections("void", 20, 2),
    ):
        done += await plant_corrections(settings, planned)
    return done
