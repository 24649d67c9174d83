-- How the warehouse cuts the ledger into fixed ranges and reads them.
-- Everything that changes a range or a shipped position first locks the generation's row: ranges of
-- two warehouses, and a rebuild, follow one another. Nothing is locked while ClickHouse works.

-- name: ensure_generation
-- Idempotent: a new deployment begins with generation 1.
INSERT INTO deployment (name, value) VALUES ('clickhouse_generation', '1') ON CONFLICT DO NOTHING

-- name: read_generation
-- Which making of ClickHouse's copy is wanted; no row before ensure_generation.
SELECT value::integer FROM deployment WHERE name = 'clickhouse_generation'

-- name: lock_generation
-- The one lock of everything in this file.
SELECT value::integer FROM deployment WHERE name = 'clickhouse_generation' FOR UPDATE

-- name: durable_commit
-- The intent waits for its own flush, and with it for everything committed before: what is shipped
-- can no longer be lost by a crash, nor by a failover to a synchronous standby.
SET LOCAL synchronous_commit = on

-- name: sort_in_memory
-- For one transaction: a whole range fits, it is bounded by ship_rows_max.
SET LOCAL work_mem = '96MB'

-- name: open_range
-- The range of the stream that is under way, if there is one. $1 stream.
SELECT range_id, generation, epoch, partitions, from_offsets, to_offsets,
       tx_after::text, id_after, tx_to::text, id_to, row_count, sum_micro
FROM ship_range
WHERE stream = $1 AND done_at IS NULL

-- name: charge_extents
-- Per epoch and partition what is committed and not shipped yet: from next_offset to end_offset.
-- A committed position covers its charges, because both are moved by one transaction. An epoch
-- before the present one is closed: it ends with its last batch.
-- $1 topic, $2 generation.
SELECT epoch, partition, next_offset, end_offset
FROM (
    SELECT e.epoch, stands.partition,
           coalesce(shipped.next_offset, past.first_offset, stands.first_offset) AS next_offset,
           CASE WHEN e.epoch = stands.epoch THEN stands.next_offset ELSE past.end_offset END AS end_offset
    FROM stream_position AS stands
    CROSS JOIN LATERAL generate_series(1, stands.epoch) AS e (epoch)
    LEFT JOIN ship_position AS shipped
           ON shipped.stream = 'charge' AND shipped.generation = $2
          AND shipped.epoch = e.epoch AND shipped.partition = stands.partition
    LEFT JOIN LATERAL (
        SELECT (SELECT from_offset FROM batch_outcome AS b
                WHERE b.topic = stands.topic AND b.partition = stands.partition AND b.epoch = e.epoch
                ORDER BY from_offset LIMIT 1) AS first_offset,
               (SELECT to_offset FROM batch_outcome AS b
                WHERE b.topic = stands.topic AND b.partition = stands.partition AND b.epoch = e.epoch
                ORDER BY from_offset DESC LIMIT 1) AS end_offset
    ) AS past ON e.epoch < stands.epoch
    WHERE stands.topic = $1
) AS extent
WHERE next_offset < end_offset
ORDER BY epoch, partition

-- name: keyset_position
-- How far a stream without offsets is shipped; no row: nothing is. $1 stream, $2 generation.
SELECT tx_after::text, id_after
FROM ship_position
WHERE stream = $1 AND generation = $2

-- name: credit_page
-- The last of the next credit transactions in the order (tx, transaction_id). Only those count that
-- no running transaction can precede any more, so that a slow writer is never skipped.
-- No row: nothing waits. $1 tx_after, $2 id_after, $3 rows at most.
SELECT tx::text AS tx_to, transaction_id AS id_to
FROM (
    SELECT tx, transaction_id
    FROM credit_transaction
    WHERE (tx, transaction_id) > ($1::text::xid8, $2::bigint)
      AND tx < pg_snapshot_xmin(pg_current_snapshot())
    ORDER BY tx, transaction_id
    LIMIT $3
) AS page
ORDER BY tx DESC, transaction_id DESC
LIMIT 1

-- name: correction_page
-- As credit_page, of corrections: up to the first one whose charge is not shipped, so that the copy
-- never takes away from a day what it has yet to add. $1 tx_after, $2 id_after, $3 rows at most.
SELECT tx::text AS tx_to, correction_id AS id_to
FROM (
    SELECT page.tx, page.correction_id,
           bool_and(charged."offset" IS NULL OR charged."offset" < coalesce(shipped.next_offset, 0))
               OVER (ORDER BY page.tx, page.correction_id) AS charges_are_there
    FROM (
        SELECT tx, correction_id, account_id, event_id
        FROM charge_correction
        WHERE (tx, correction_id) > ($1::text::xid8, $2::bigint)
          AND tx < pg_snapshot_xmin(pg_current_snapshot())
        ORDER BY tx, correction_id
        LIMIT $3
    ) AS page
    LEFT JOIN LATERAL (
        SELECT epoch, partition, "offset" FROM charge
        WHERE charge.account_id = page.account_id AND charge.event_id = page.event_id
        LIMIT 1
    ) AS charged ON true
    LEFT JOIN ship_position AS shipped
           ON shipped.stream = 'charge'
          AND shipped.generation
              = (SELECT value::integer FROM deployment WHERE name = 'clickhouse_generation')
          AND shipped.epoch = charged.epoch AND shipped.partition = charged.partition
) AS checked
WHERE charges_are_there
ORDER BY tx DESC, correction_id DESC
LIMIT 1

-- name: transactions_went_back
-- True when a row is of a transaction that the server has yet to begin: the ledger was restored from a
-- dump into a new cluster, and new rows would sort before old ones.
SELECT coalesce(
    greatest((SELECT tx FROM credit_transaction ORDER BY tx DESC LIMIT 1),
             (SELECT tx FROM charge_correction ORDER BY tx DESC LIMIT 1))
    >= pg_snapshot_xmax(pg_current_snapshot()),
    false
)

-- name: charge_months
-- What a range of charges holds, by month (UTC). The same range gives the same answer for ever:
-- charges are never changed and a committed range gets no new ones.
-- $1 epoch; pairwise: $2 partitions, $3 from, $4 to (exclusive).
SELECT date_trunc('month', occurred_at) AS month, count(*) AS row_count,
       mod(sum(amount_micro), 9223372036854775807)::bigint AS sum_micro,
       bit_xor(hashtextextended(account_id || ' ' || event_id, amount_micro)) AS content
FROM unnest($2::integer[], $3::bigint[], $4::bigint[]) AS part (partition, from_offset, to_offset)
CROSS JOIN LATERAL (
    SELECT * FROM charge AS c
    WHERE c.epoch = $1 AND c.partition = part.partition
      AND c."offset" >= part.from_offset AND c."offset" < part.to_offset
    ORDER BY c."offset"
    OFFSET 0
) AS charge
GROUP BY month
ORDER BY month

-- name: charge_rows
-- The rows of one month of a range of charges, in their order, with ClickHouse's column names.
-- $1 epoch; pairwise: $2 partitions, $3 from, $4 to (exclusive); $5 generation, $6 month.
SELECT account_id, event_id, charge.partition, epoch, charge."offset", occurred_at, posted_at,
       payload_hash, price_version, rule, rated_micro, amount_micro, balance_after_micro, tier, demo,
       source, action, provider, model, power_level, input_tokens, cache_read_tokens,
       cache_write_tokens, output_tokens, reasoning_tokens, other_meters, quantity, own_key, hold_id,
       resource_id, attributes, service_tier, billed_currency, billed_pico, counter, counter_units,
       counter_before, $5::integer AS generation
FROM unnest($2::integer[], $3::bigint[], $4::bigint[]) AS part (partition, from_offset, to_offset)
CROSS JOIN LATERAL (
    SELECT * FROM charge AS c
    WHERE c.epoch = $1 AND c.partition = part.partition
      AND c."offset" >= part.from_offset AND c."offset" < part.to_offset
    ORDER BY c."offset"
    OFFSET 0
) AS charge
WHERE occurred_at >= $6::timestamptz AND occurred_at < $6::timestamptz + interval '1 month'
ORDER BY charge.partition, charge."offset"

-- name: charge_text
-- How many bytes of callers' text a range of charges holds; octet_length does not read a text that is
-- kept outside its row. Parameters as charge_months.
SELECT coalesce(sum(octet_length(attributes) + octet_length(resource_id) + octet_length(source)), 0)::bigint
FROM unnest($2::integer[], $3::bigint[], $4::bigint[]) AS part (partition, from_offset, to_offset)
CROSS JOIN LATERAL (
    SELECT * FROM charge AS c
    WHERE c.epoch = $1 AND c.partition = part.partition
      AND c."offset" >= part.from_offset AND c."offset" < part.to_offset
    ORDER BY c."offset"
    OFFSET 0
) AS charge

-- name: credit_months
-- As charge_months. $1 tx_after, $2 id_after, $3 tx_to, $4 id_to (inclusive).
SELECT date_trunc('month', created_at) AS month, count(*) AS row_count,
       mod(sum(amount_micro), 9223372036854775807)::bigint AS sum_micro,
       bit_xor(hashtextextended(account_id || ' ' || transaction_id, amount_micro)) AS content
FROM credit_transaction
WHERE (tx, transaction_id) > ($1::text::xid8, $2::bigint)
  AND (tx, transaction_id) <= ($3::text::xid8, $4::bigint)
GROUP BY month
ORDER BY month

-- name: credit_text
-- As charge_text. $1 tx_after, $2 id_after, $3 tx_to, $4 id_to (inclusive).
SELECT coalesce(sum(octet_length(metadata) + octet_length(reason)), 0)::bigint
FROM credit_transaction
WHERE (tx, transaction_id) > ($1::text::xid8, $2::bigint)
  AND (tx, transaction_id) <= ($3::text::xid8, $4::bigint)

-- name: credit_rows
-- As charge_rows. $1 tx_after, $2 id_after, $3 tx_to, $4 id_to (inclusive), $5 generation, $6 month.
SELECT transaction_id, account_id, type, status, amount_micro, balance_after_micro, event_id, hold_id,
       grant_id, actor, reason, idempotency_key, tx::text AS tx, created_at, metadata,
       $5::integer AS generation
FROM credit_transaction
WHERE (tx, transaction_id) > ($1::text::xid8, $2::bigint)
  AND (tx, transaction_id) <= ($3::text::xid8, $4::bigint)
  AND created_at >= $6::timestamptz AND created_at < $6::timestamptz + interval '1 month'
ORDER BY credit_transaction.tx, transaction_id

-- name: correction_months
-- As charge_months, by the months of the charges: ClickHouse keeps a correction beside its charge.
-- $1 tx_after, $2 id_after, $3 tx_to, $4 id_to (inclusive).
SELECT date_trunc('month', occurred_at) AS month, count(*) AS row_count,
       mod(sum(amount_change_micro), 9223372036854775807)::bigint AS sum_micro,
       bit_xor(hashtextextended(account_id || ' ' || correction_id, amount_micro)) AS content
FROM charge_correction
WHERE (tx, correction_id) > ($1::text::xid8, $2::bigint)
  AND (tx, correction_id) <= ($3::text::xid8, $4::bigint)
GROUP BY month
ORDER BY month

-- name: correction_text
-- As charge_text: a correction brings along its charge's. $1 tx_after, $2 id_after, $3 tx_to, $4 id_to
-- (inclusive).
SELECT coalesce(sum(octet_length(charged.attributes) + octet_length(charged.resource_id)
                    + octet_length(charged.source) + octet_length(c.reason)), 0)::bigint
FROM charge_correction AS c
CROSS JOIN LATERAL (
    SELECT * FROM charge
    WHERE charge.account_id = c.account_id AND charge.event_id = c.event_id
    LIMIT 1
) AS charged
WHERE (c.tx, c.correction_id) > ($1::text::xid8, $2::bigint)
  AND (c.tx, c.correction_id) <= ($3::text::xid8, $4::bigint)

-- name: correction_rows
-- As charge_rows. A row brings along what never changes of its charge, and what of the state before it
-- the roll-up by day takes away; NULL, which ClickHouse refuses, where the ledger lacks that state.
-- $1 tx_after, $2 id_after, $3 tx_to, $4 id_to (inclusive), $5 generation, $6 month.
SELECT c.correction_id, c.account_id, c.event_id, c.sequence, c.kind, c.run_id, c.voided, c.occurred_at,
       c.price_version, c.rule, c.rated_micro, c.amount_micro, c.rated_change_micro,
       c.amount_change_micro, c.tier, c.demo, c.action, c.provider, c.model, c.power_level,
       c.service_tier, c.input_tokens, c.cache_read_tokens, c.cache_write_tokens, c.output_tokens,
       c.reasoning_tokens, c.other_meters, c.quantity, c.own_key, c.billed_currency, c.billed_pico,
       c.counter, c.counter_units, c.counter_before, c.transaction_id, c.actor, c.reason,
       c.idempotency_key, c.tx::text AS tx, c.created_at,
       charged.source, charged.hold_id, charged.resource_id, charged.attributes, charged.posted_at,
       was.voided AS was_voided, was.demo AS was_demo, was.action AS was_action,
       was.provider AS was_provider, was.model AS was_model, was.quantity AS was_quantity,
       was.input_tokens AS was_input_tokens, was.cache_read_tokens AS was_cache_read_tokens,
       was.cache_write_tokens AS was_cache_write_tokens, was.output_tokens AS was_output_tokens,
       was.reasoning_tokens AS was_reasoning_tokens, $5::integer AS generation
FROM charge_correction AS c
LEFT JOIN LATERAL (
    SELECT * FROM charge
    WHERE charge.account_id = c.account_id AND charge.event_id = c.event_id
    LIMIT 1
) AS charged ON true
LEFT JOIN LATERAL (
    SELECT voided, demo, action, provider, model, quantity, input_tokens, cache_read_tokens,
           cache_write_tokens, output_tokens, reasoning_tokens
    FROM charge_correction AS before
    WHERE before.account_id = c.account_id AND before.event_id = c.event_id
      AND before.sequence = c.sequence - 1
    UNION ALL
    SELECT false, charged.demo, charged.action, charged.provider, charged.model, charged.quantity,
           charged.input_tokens, charged.cache_read_tokens, charged.cache_write_tokens,
           charged.output_tokens, charged.reasoning_tokens
    WHERE c.sequence = 1
) AS was ON true
WHERE (c.tx, c.correction_id) > ($1::text::xid8, $2::bigint)
  AND (c.tx, c.correction_id) <= ($3::text::xid8, $4::bigint)
  AND c.occurred_at >= $6::timestamptz AND c.occurred_at < $6::timestamptz + interval '1 month'
ORDER BY c.tx, c.correction_id

-- name: insert_range
-- The intent. No row is returned when the stream has an open range already.
-- $1 stream, $2 generation, $3 epoch, $4 partitions, $5 from, $6 to, $7 tx_after, $8 id_after,
-- $9 tx_to, $10 id_to, $11 rows, $12 sum.
INSERT INTO ship_range (stream, generation, epoch, partitions, from_offsets, to_offsets,
                        tx_after, id_after, tx_to, id_to, row_count, sum_micro)
VALUES ($1, $2, $3, $4, $5, $6, $7::text::xid8, $8, $9::text::xid8, $10, $11, $12)
ON CONFLICT DO NOTHING
RETURNING range_id

-- name: close_range
-- Marks the range done and moves the shipped positions, once: a second try changes no row.
-- $1 range.
WITH closed AS (
    UPDATE ship_range SET done_at = now()
    WHERE range_id = $1 AND done_at IS NULL
    RETURNING *
), moved AS (
    SELECT stream, generation, epoch, partition, next_offset, tx_to, id_to
    FROM closed
    CROSS JOIN LATERAL unnest(partitions, to_offsets) AS part (partition, next_offset)
)
INSERT INTO ship_position AS stands (stream, generation, epoch, partition, next_offset, tx_after, id_after)
SELECT * FROM moved
ON CONFLICT (stream, generation, epoch, partition) DO UPDATE
SET next_offset = excluded.next_offset, tx_after = excluded.tx_after, id_after = excluded.id_after
RETURNING partition

-- name: shipped_streams
-- The streams of which a range of the generation is done. $1 generation.
SELECT DISTINCT stream FROM ship_range WHERE generation = $1 AND done_at IS NOT NULL

-- name: raise_generation
-- For a rebuild: ranges under way are given up, their rows belong to a copy that is thrown away.
-- $1 the new generation.
WITH raised AS (
    UPDATE deployment SET value = $1::integer::text WHERE name = 'clickhouse_generation'
), noted AS (
    INSERT INTO deployment (name, value) VALUES ('clickhouse_rebuild', $1::integer::text)
    ON CONFLICT (name) DO UPDATE SET value = excluded.value
)
UPDATE ship_range SET done_at = now() WHERE done_at IS NULL

-- name: unfinished_rebuild
-- The generation of a rebuild that did not reach its end; no row: there is none.
SELECT value::integer FROM deployment WHERE name = 'clickhouse_rebuild'

-- name: finish_rebuild
-- Idempotent.
DELETE FROM deployment WHERE name = 'clickhouse_rebuild'

-- name: lock_rebuild
-- One rebuild at a time; lasts as long as the connection. Waits for lock_timeout, then fails.
SELECT pg_advisory_lock(hashtext('tollgate rebuild'))

-- name: rebuild_runs
-- True while a rebuild is at work.
SELECT NOT pg_try_advisory_xact_lock_shared(hashtext('tollgate rebuild'))

-- name: oldest_waiting
-- When the oldest row was posted that is not in ClickHouse; NULL when all are.
-- $1 epoch, $2 partitions, $3 next offsets.
SELECT min(posted_at)
FROM unnest($2::integer[], $3::bigint[]) AS part (partition, next_offset)
CROSS JOIN LATERAL (
    SELECT posted_at FROM charge AS c
    WHERE c.epoch = $1 AND c.partition = part.partition AND c."offset" >= part.next_offset
    ORDER BY c."offset"
    LIMIT 1
) AS oldest
