-- The audit's statements, all run in one REPEATABLE READ READ ONLY transaction. Those named *_findings
-- return one row for each difference: subject, expected, found. Nothing returned: no difference.
-- Sums are numeric, so that no drift is hidden by an overflow.

-- name: snapshot
-- What the snapshot is of.
SELECT now() AS taken_at, pg_current_snapshot()::text AS snapshot,
       (SELECT count(*) FROM account) AS accounts,
       (SELECT count(*) FROM credit_grant) AS grants,
       (SELECT count(*) FROM credit_hold WHERE state = 'open') AS holds,
       (SELECT count(*) FROM batch_outcome) AS batches,
       (SELECT value::integer FROM deployment WHERE name = 'clickhouse_generation') AS generation

-- name: balance_findings
-- Per account: the sum of its ledger is its balance, and the ledger's rows form one chain of balances
-- from zero to it. The chain is compared without an order: the XOR of what each row started from and
-- of what it left leaves only the two ends.
WITH charged AS (
    SELECT account_id, sum(amount_micro) AS micro,
           bit_xor(hashint8extended(balance_after_micro + amount_micro, 0)
                   # hashint8extended(balance_after_micro, 0)) AS links
    FROM charge
    GROUP BY account_id
), credited AS (
    SELECT account_id, sum(amount_micro) AS micro,
           bit_xor(hashint8extended(balance_after_micro - amount_micro, 0)
                   # hashint8extended(balance_after_micro, 0)) AS links
    FROM credit_transaction
    WHERE status = 'COMPLETED'
    GROUP BY account_id
), ledger AS (
    SELECT account_id, coalesce(credited.micro, 0) - coalesce(charged.micro, 0) AS micro,
           coalesce(credited.links, 0) # coalesce(charged.links, 0) AS links
    FROM charged FULL JOIN credited USING (account_id)
), compared AS (
    SELECT account_id, balance_micro, coalesce(ledger.micro, 0) AS ledger_micro,
           coalesce(ledger.links, 0)
           = hashint8extended(0, 0) # hashint8extended(coalesce(balance_micro, 0), 0) AS chained
    FROM account FULL JOIN ledger USING (account_id)
)
SELECT 'balance' AS kind, account_id AS subject, 'ledger ' || ledger_micro AS expected,
       'balance ' || coalesce(balance_micro::text, 'of no account') AS found
FROM compared
WHERE balance_micro IS DISTINCT FROM ledger_micro
UNION ALL
SELECT 'chain', account_id, 'one chain of balances from 0 to ' || balance_micro,
       'a row whose balance_after_micro does not follow'
FROM compared
WHERE balance_micro = ledger_micro AND NOT chained
ORDER BY 2, 1

-- name: grant_findings
-- Per account: the balance is what its grants have left, less the overdraft; never both.
WITH left_over AS (
    SELECT account_id, sum(remaining_micro) AS micro FROM credit_grant GROUP BY account_id
)
SELECT account_id AS subject,
       'grants ' || coalesce(micro, 0) || ' - overdraft ' || overdraft_micro AS expected,
       'balance ' || balance_micro AS found
FROM account LEFT JOIN left_over USING (account_id)
WHERE balance_micro <> coalesce(micro, 0) - overdraft_micro
ORDER BY 1

-- name: draw_findings
-- Per grant: between 0 and its amount, and what is gone is the sum of its draws.
WITH drawn AS (
    SELECT grant_id, sum(amount_micro) AS micro FROM grant_draw GROUP BY grant_id
)
SELECT coalesce('grant ' || g.grant_id || ' of ' || account_id, 'grant ' || drawn.grant_id) AS subject,
       'draws ' || coalesce(micro, 0) AS expected,
       coalesce('gone ' || amount_micro - remaining_micro || ' of ' || amount_micro, 'no such grant')
           AS found
FROM credit_grant AS g FULL JOIN drawn ON drawn.grant_id = g.grant_id
WHERE g.grant_id IS NULL
   OR amount_micro - remaining_micro <> coalesce(micro, 0)
   OR remaining_micro NOT BETWEEN 0 AND amount_micro
ORDER BY 1

-- name: hold_findings
-- Per account: held is the sum of its open holds.
WITH open_holds AS (
    SELECT account_id, sum(amount_micro) AS micro FROM credit_hold WHERE state = 'open' GROUP BY account_id
)
SELECT account_id AS subject, 'open holds ' || coalesce(micro, 0) AS expected, 'held ' || held_micro AS found
FROM account LEFT JOIN open_holds USING (account_id)
WHERE held_micro <> coalesce(micro, 0)
ORDER BY 1

-- name: offset_findings
-- Per partition and epoch: the batches follow one another without a gap or an overlap, from the first
-- offset to the position.
WITH batch AS (
    SELECT topic, partition, epoch, from_offset, to_offset,
           lag(to_offset) OVER by_offset AS previous_to,
           lead(from_offset) OVER by_offset AS next_from
    FROM batch_outcome
    WINDOW by_offset AS (PARTITION BY topic, partition, epoch ORDER BY from_offset)
)
SELECT topic || '/' || partition || ' epoch ' || epoch AS subject,
       'a batch from offset ' || coalesce(previous_to, first_offset) AS expected,
       'from offset ' || from_offset AS found
FROM batch LEFT JOIN stream_position AS stands USING (topic, partition, epoch)
WHERE from_offset <> coalesce(previous_to, first_offset)
UNION ALL
SELECT topic || '/' || partition || ' epoch ' || epoch, 'batches up to offset ' || next_offset,
       'up to offset ' || coalesce(to_offset, first_offset)
FROM stream_position LEFT JOIN (SELECT * FROM batch WHERE next_from IS NULL) AS last
     USING (topic, partition, epoch)
WHERE next_offset <> coalesce(to_offset, first_offset)
ORDER BY 1, 2

-- name: outcome_findings
-- Per partition and epoch: as many charges and dead letters as the batches say. $1 the usage topic.
WITH booked AS (
    SELECT topic, epoch, partition, sum(charged) AS charged, sum(dead) AS dead
    FROM batch_outcome
    GROUP BY topic, epoch, partition
), charges AS (
    SELECT $1 AS topic, epoch, partition, count(*) AS charged FROM charge GROUP BY epoch, partition
), letters AS (
    SELECT topic, epoch, partition, count(*) AS dead FROM dead_letter GROUP BY topic, epoch, partition
)
SELECT topic || '/' || partition || ' epoch ' || epoch AS subject,
       'batches: ' || coalesce(booked.charged, 0) || ' charged, ' || coalesce(booked.dead, 0) || ' dead'
           AS expected,
       'rows: ' || coalesce(charges.charged, 0) || ' charged, ' || coalesce(letters.dead, 0) || ' dead'
           AS found
FROM booked
FULL JOIN charges USING (topic, epoch, partition)
FULL JOIN letters USING (topic, epoch, partition)
WHERE coalesce(booked.charged, 0) <> coalesce(charges.charged, 0)
   OR coalesce(booked.dead, 0) <> coalesce(letters.dead, 0)
ORDER BY 1

-- name: shipped_charges
-- How far the charges are in ClickHouse. $1 generation.
SELECT epoch, partition, next_offset FROM ship_position
WHERE stream = 'charge' AND generation = $1
ORDER BY epoch, partition

-- name: shipped_credits
-- How far the credit transactions are in ClickHouse; no row: nothing is. $1 generation.
SELECT tx_after::text AS tx_to, id_after AS id_to FROM ship_position
WHERE stream = 'credit' AND generation = $1

-- name: charge_days
-- What is shipped, per account and day (UTC): rows, sum, XOR of a hash over the columns. In bytewise
-- order of the account. The same text is hashed in sql/clickhouse/queries/verify.sql. $1 generation.
SELECT account_id, (occurred_at AT TIME ZONE 'UTC')::date AS day, count(*) AS row_count,
       sum(amount_micro)::text AS sum_micro,
       bit_xor(('x' || left(md5(concat_ws('|',
           event_id, charge.partition, charge.epoch, charge."offset",
           (extract(epoch FROM occurred_at) * 1000000)::bigint,
           (extract(epoch FROM posted_at) * 1000000)::bigint,
           payload_hash, price_version, rule, rated_micro, amount_micro, balance_after_micro, tier,
           demo::integer, source, action, provider, model, power_level, input_tokens,
           cache_read_tokens, cache_write_tokens, output_tokens, reasoning_tokens, other_meters,
           quantity, own_key::integer, coalesce(hold_id, ''), resource_id, attributes
       )), 16))::bit(64)::bigint) AS content
FROM charge
JOIN ship_position AS shipped
  ON shipped.stream = 'charge' AND shipped.generation = $1
 AND shipped.epoch = charge.epoch AND shipped.partition = charge.partition
WHERE charge."offset" < shipped.next_offset
GROUP BY account_id, day
ORDER BY account_id, day

-- name: credit_days
-- As charge_days, of credit transactions. $1 tx_to, $2 id_to (inclusive).
SELECT account_id, (created_at AT TIME ZONE 'UTC')::date AS day, count(*) AS row_count,
       sum(amount_micro)::text AS sum_micro,
       bit_xor(('x' || left(md5(concat_ws('|',
           transaction_id, type, status, amount_micro, balance_after_micro, coalesce(event_id, ''),
           coalesce(hold_id, ''), coalesce(grant_id, 0), actor, reason, coalesce(idempotency_key, ''),
           tx::text, (extract(epoch FROM created_at) * 1000000)::bigint
       )), 16))::bit(64)::bigint) AS content
FROM credit_transaction
WHERE (tx, transaction_id) <= ($1::text::xid8, $2::bigint)
GROUP BY account_id, day
ORDER BY account_id, day

-- name: waiting
-- What the snapshot holds that is not in ClickHouse yet. $1 the usage topic, $2 generation.
SELECT (SELECT coalesce(sum(stands.next_offset - coalesce(shipped.next_offset, stands.first_offset)), 0)
        FROM stream_position AS stands
        LEFT JOIN ship_position AS shipped
               ON shipped.stream = 'charge' AND shipped.generation = $2
              AND shipped.epoch = stands.epoch AND shipped.partition = stands.partition
        WHERE stands.topic = $1)::bigint AS offsets,
       (SELECT count(*) FROM credit_transaction
        WHERE (tx, transaction_id) > (
            coalesce((SELECT tx_after FROM ship_position WHERE stream = 'credit' AND generation = $2), '0'::xid8),
            coalesce((SELECT id_after FROM ship_position WHERE stream = 'credit' AND generation = $2), 0)
        )) AS transactions

-- name: ends
-- Where the ledger ends now, outside of the snapshot: nothing beyond may be in ClickHouse.
-- $1 the usage topic.
SELECT epoch, partition, next_offset FROM stream_position WHERE topic = $1
UNION ALL
SELECT b.epoch, b.partition, max(to_offset) FROM batch_outcome AS b
JOIN stream_position AS stands USING (topic, partition)
WHERE b.topic = $1 AND b.epoch < stands.epoch
GROUP BY b.epoch, b.partition

-- name: newest_transaction
-- The highest number among the credit transactions; NULL when there are none.
SELECT max(transaction_id) FROM credit_transaction
