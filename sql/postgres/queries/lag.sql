-- How far each stage is, for people: nothing here is read by a stage.

-- name: read_stands
-- Where PostgreSQL stands in each partition of the topic. $1 topic.
SELECT partition, epoch, next_offset, first_offset, updated_at
FROM stream_position
WHERE topic = $1
ORDER BY partition

-- name: count_unshipped
-- Charges that are in PostgreSQL and not marked as shipped, and the age of the oldest in seconds.
-- An epoch before the present one counts too. $1 topic.
WITH generation AS (
    SELECT value::integer AS wanted FROM deployment WHERE name = 'clickhouse_generation'
), place AS (
    SELECT past.epoch, stands.partition, coalesce(shipped.next_offset, 0) AS next_offset
    FROM stream_position AS stands
    CROSS JOIN LATERAL generate_series(1, stands.epoch) AS past (epoch)
    LEFT JOIN ship_position AS shipped
           ON shipped.stream = 'charge' AND shipped.generation = (SELECT wanted FROM generation)
          AND shipped.epoch = past.epoch AND shipped.partition = stands.partition
    WHERE stands.topic = $1
)
SELECT coalesce(sum(waiting), 0)::bigint AS waiting,
       coalesce(extract(epoch FROM now() - min(oldest_at)), 0)::float8 AS behind_seconds
FROM place
CROSS JOIN LATERAL (
    SELECT count(*) AS waiting FROM charge
    WHERE charge.epoch = place.epoch AND charge.partition = place.partition
      AND charge."offset" >= place.next_offset
) AS counted
LEFT JOIN LATERAL (
    SELECT posted_at AS oldest_at FROM charge
    WHERE charge.epoch = place.epoch AND charge.partition = place.partition
      AND charge."offset" >= place.next_offset
    ORDER BY charge."offset"
    LIMIT 1
) AS oldest ON true

-- name: count_unshipped_credits
-- The same for credit transactions; those of running transactions are not visible yet.
WITH shipped AS (
    SELECT tx_after, id_after FROM ship_position
    WHERE stream = 'credit'
      AND generation = (SELECT value::integer FROM deployment WHERE name = 'clickhouse_generation')
)
SELECT count(*) AS waiting,
       coalesce(extract(epoch FROM now() - min(created_at)), 0)::float8 AS behind_seconds
FROM credit_transaction
WHERE (tx, transaction_id) > (coalesce((SELECT tx_after FROM shipped), '0'::xid8),
                              coalesce((SELECT id_after FROM shipped), 0))

-- name: count_unshipped_corrections
-- The same for corrections.
WITH shipped AS (
    SELECT tx_after, id_after FROM ship_position
    WHERE stream = 'correction'
      AND generation = (SELECT value::integer FROM deployment WHERE name = 'clickhouse_generation')
)
SELECT count(*) AS waiting,
       coalesce(extract(epoch FROM now() - min(created_at)), 0)::float8 AS behind_seconds
FROM charge_correction
WHERE (tx, correction_id) > (coalesce((SELECT tx_after FROM shipped), '0'::xid8),
                             coalesce((SELECT id_after FROM shipped), 0))

-- name: count_parked
-- Unpriced dead letters that wait for a price.
SELECT count(*) FROM dead_letter WHERE reason = 'unpriced' AND requeued_at IS NULL

-- name: count_unpublished
-- Dead letters that usage.dead has not acknowledged.
SELECT count(*) FROM dead_letter WHERE published_at IS NULL
