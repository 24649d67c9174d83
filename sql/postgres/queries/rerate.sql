-- Runs of re-rating: what they read, in which order, and how far they are.
-- A run reads charges in the order of their batches, which is the order in which each account was
-- charged. Lock order: rerate_run, then as everywhere: account (sorted), counters, grants.

-- name: wait_for_batch
-- Waits until a batch that is moving this partition ends, if there is one; a later one reads the newest
-- price version after this. Holds nothing once the statement is over. $1 topic, $2 partition.
SELECT 1 FROM stream_position WHERE topic = $1 AND partition = $2 FOR SHARE

-- name: event_age_days_max
-- The largest age that any rater charged events up to, in days; 0 when none has noted it.
SELECT coalesce(max(value::integer), 0) FROM deployment WHERE starts_with(name, 'event_age_days:')

-- name: first_batch
-- A batch that began at $1 or later, at most a moment after the first one. No row: there is none.
SELECT batch_id FROM batch_outcome WHERE posted_at >= $1 ORDER BY posted_at LIMIT 1

-- name: last_batch
-- The newest batch that began at $1 or earlier. No row: there is none.
SELECT batch_id FROM batch_outcome WHERE posted_at <= $1 ORDER BY posted_at DESC LIMIT 1

-- name: late_batches
-- Batches after $4 that charged a requeued dead letter of the stretch: a letter may wait for its price
-- longer than any event may be late. $1 topic, $2 from, $3 to (exclusive): event times; $4 a batch.
SELECT DISTINCT booked.batch_id
FROM dead_letter AS letter
JOIN charge USING (account_id, event_id)
CROSS JOIN LATERAL (
    SELECT batch_id
    FROM batch_outcome AS b
    WHERE b.topic = $1 AND b.partition = charge.partition AND b.epoch = charge.epoch
      AND b.from_offset <= charge."offset"
    ORDER BY b.from_offset DESC
    LIMIT 1
) AS booked
WHERE letter.requeued_at IS NOT NULL
  AND charge.occurred_at >= $2 AND charge.occurred_at < $3
  AND booked.batch_id > $4
ORDER BY booked.batch_id

-- name: pieces
-- What is read next: offsets of one partition charged by one batch, in the order of the batches.
-- After ($1 batch, $2 epoch, $3 partition, $4 offset), up to batch $5; at most $6.
SELECT batch_id, epoch, partition, from_offset, to_offset
FROM batch_outcome
WHERE (batch_id, epoch, partition, to_offset) > ($1::bigint, $2::integer, $3::integer, $4::bigint)
  AND batch_id <= $5::bigint
  AND charged > 0
ORDER BY batch_id, epoch, partition, to_offset
LIMIT $6

-- name: late_pieces
-- As pieces, of the batches $5 only.
SELECT batch_id, epoch, partition, from_offset, to_offset
FROM batch_outcome
WHERE (batch_id, epoch, partition, to_offset) > ($1::bigint, $2::integer, $3::integer, $4::bigint)
  AND batch_id = ANY($5::bigint[])
  AND charged > 0
ORDER BY batch_id, epoch, partition, to_offset
LIMIT $6

-- name: charges_at
-- The charges at these places that occurred in the stretch, in the order of the places, as they
-- stand: each overlaid by its latest correction, as corrections.sql charges_in_force has it. What no
-- price depends on is left empty: hold, resource and attributes.
-- Pairwise: $1 epochs, $2 partitions, $3 from, $4 to (exclusive) offsets; $5 from, $6 to (exclusive):
-- event times; $7 account ids, NULL: all.
SELECT part.n, charge.partition, charge."offset", charge.account_id, charge.event_id,
       charge.occurred_at, charge.source, NULL::text AS hold_id, ''::text AS resource_id,
       ''::text AS attributes, charge.tier, charge.demo,
       coalesce(latest.sequence, 0) AS sequence,
       coalesce(latest.voided, false) AS voided,
       coalesce(latest.price_version, charge.price_version) AS price_version,
       coalesce(latest.rule, charge.rule) AS rule,
       coalesce(latest.rated_micro, charge.rated_micro) AS rated_micro,
       coalesce(latest.amount_micro, charge.amount_micro) AS amount_micro,
       coalesce(latest.action, charge.action) AS action,
       coalesce(latest.provider, charge.provider) AS provider,
       coalesce(latest.model, charge.model) AS model,
       coalesce(latest.power_level, charge.power_level) AS power_level,
       coalesce(latest.service_tier, charge.service_tier) AS service_tier,
       coalesce(latest.input_tokens, charge.input_tokens) AS input_tokens,
       coalesce(latest.cache_read_tokens, charge.cache_read_tokens) AS cache_read_tokens,
       coalesce(latest.cache_write_tokens, charge.cache_write_tokens) AS cache_write_tokens,
       coalesce(latest.output_tokens, charge.output_tokens) AS output_tokens,
       coalesce(latest.reasoning_tokens, charge.reasoning_tokens) AS reasoning_tokens,
       coalesce(latest.other_meters, charge.other_meters) AS other_meters,
       coalesce(latest.quantity, charge.quantity) AS quantity,
       coalesce(latest.own_key, charge.own_key) AS own_key,
       coalesce(latest.billed_currency, charge.billed_currency) AS billed_currency,
       coalesce(latest.billed_pico, charge.billed_pico) AS billed_pico,
       coalesce(latest.counter, charge.counter) AS counter,
       coalesce(latest.counter_units, charge.counter_units) AS counter_units,
       coalesce(latest.counter_before, charge.counter_before) AS counter_before
FROM unnest($1::integer[], $2::integer[], $3::bigint[], $4::bigint[])
     WITH ORDINALITY AS part (epoch, partition, from_offset, to_offset, n)
CROSS JOIN LATERAL (
    SELECT * FROM charge AS c
    WHERE c.epoch = part.epoch AND c.partition = part.partition
      AND c."offset" >= part.from_offset AND c."offset" < part.to_offset
    ORDER BY c."offset"
    OFFSET 0
) AS charge
LEFT JOIN LATERAL (
    SELECT *
    FROM charge_correction AS correction
    WHERE correction.account_id = charge.account_id AND correction.event_id = charge.event_id
    ORDER BY correction.sequence DESC
    LIMIT 1
) AS latest ON true
WHERE charge.occurred_at >= $5 AND charge.occurred_at < $6
  AND ($7::text[] IS NULL OR charge.account_id = ANY($7))
ORDER BY part.n, charge."offset"

-- name: waiting_letters
-- Records at these places that wait for a price: each event once, none that was charged elsewhere.
-- $1 topic, $2 epoch; pairwise $3 partitions, $4 from, $5 to (exclusive); $6 account ids, NULL: all.
SELECT letter.partition, letter."offset"
FROM unnest($3::integer[], $4::bigint[], $5::bigint[]) AS part (partition, from_offset, to_offset)
CROSS JOIN LATERAL (
    SELECT * FROM dead_letter AS d
    WHERE d.topic = $1 AND d.epoch = $2 AND d.partition = part.partition
      AND d."offset" >= part.from_offset AND d."offset" < part.to_offset
    OFFSET 0
) AS letter
WHERE letter.reason = 'unpriced' AND letter.requeued_at IS NULL
  AND ($6::text[] IS NULL OR letter.account_id = ANY($6))
  AND NOT EXISTS (
      SELECT FROM dead_letter AS earlier
      WHERE earlier.event_id = letter.event_id AND earlier.account_id = letter.account_id
        AND earlier.reason = 'unpriced' AND earlier.requeued_at IS NULL
        AND earlier.dead_letter_id < letter.dead_letter_id
  )
  AND NOT EXISTS (
      SELECT FROM charge
      WHERE charge.account_id = letter.account_id AND charge.event_id = letter.event_id
  )

-- name: facts_of_accounts
-- What prices depend on besides the event, as it is now. $1 account ids. One row for each that exists.
SELECT account_id, tier, demo FROM account WHERE account_id = ANY($1::text[])

-- name: stream_positions
-- How far the topic was applied, and in which epoch. $1 topic.
SELECT partition, epoch, next_offset, first_offset
FROM stream_position
WHERE topic = $1
ORDER BY partition

-- name: add_run
-- Fails with a unique violation while another run that moves credits is not finished, or when the run
-- $3 was taken back before. $1 kind, $2 source, $3 the run that it reverts, $4 from, $5 to, $6 account
-- ids, $7 book, $8 version, $9 newest version, $10 document, $11 extent, $12 position, $13 actor, $14 reason.
INSERT INTO rerate_run (kind, source, reverts, occurred_from, occurred_to, account_ids, book,
                        price_version, newest_version, document, extent, position, actor, reason)
VALUES ($1, $2, $3, $4, $5, $6, $7, $8, $9, $10, $11::jsonb, $12::jsonb, $13, $14)
RETURNING run_id

-- name: read_run
-- One run, the book's document included. $1 run.
SELECT run.*, later.run_id AS reverted_by
FROM rerate_run AS run
LEFT JOIN rerate_run AS later ON later.reverts = run.run_id
WHERE run.run_id = $1

-- name: list_runs
-- The newest runs without their documents. $1 at most so many.
SELECT run.run_id, run.kind, run.source, run.reverts, later.run_id AS reverted_by, run.occurred_from,
       run.occurred_to, run.account_ids, run.book, run.events, run.changed, run.unpriced, run.voided,
       run.uncharged, run.superseded, run.old_micro, run.new_micro, run.actor, run.reason,
       run.started_at, run.finished_at
FROM rerate_run AS run
LEFT JOIN rerate_run AS later ON later.reverts = run.run_id
ORDER BY run.run_id DESC
LIMIT $1

-- name: unfinished_booking
-- The run that moves credits and is not finished; no row: there is none.
SELECT run_id, kind FROM rerate_run WHERE kind <> 'what-if' AND finished_at IS NULL

-- name: lock_run
-- Whoever holds the row is the only one who can move the run. $1 run. How many chunks are done.
SELECT chunks FROM rerate_run WHERE run_id = $1 AND finished_at IS NULL FOR NO KEY UPDATE

-- name: move_run
-- One chunk is done. $1 run, $2 position, then what it found: $3 events, $4 changed, $5 unpriced,
-- $6 voided, $7 uncharged, $8 superseded, $9 old and $10 new amounts in micro-credits.
UPDATE rerate_run
SET position = $2::jsonb, chunks = chunks + 1, moved_at = now(), events = events + $3,
    changed = changed + $4, unpriced = unpriced + $5, voided = voided + $6,
    uncharged = uncharged + $7, superseded = superseded + $8, old_micro = old_micro + $9,
    new_micro = new_micro + $10
WHERE run_id = $1

-- name: finish_run
-- Idempotent. $1 run.
UPDATE rerate_run SET finished_at = now() WHERE run_id = $1 AND finished_at IS NULL

-- name: read_counters
-- What the run has counted. $1 run; pairwise $2 account ids, $3 counters, $4 months; answers by their
-- index from 0, where something was counted.
SELECT wanted.n - 1 AS n, units
FROM unnest($2::text[], $3::text[], $4::date[]) WITH ORDINALITY AS wanted (account_id, counter, month, n)
JOIN rerate_counter AS counted USING (account_id, counter, month)
WHERE counted.run_id = $1

-- name: write_counters
-- $1 run; pairwise, distinct: $2 account ids, $3 counters, $4 months, $5 units in all.
INSERT INTO rerate_counter (run_id, account_id, counter, month, units)
SELECT $1, * FROM unnest($2::text[], $3::text[], $4::date[], $5::bigint[])
ON CONFLICT (run_id, account_id, counter, month) DO UPDATE SET units = excluded.units

-- name: missing_accounts
-- Which of the accounts $1 do not exist.
SELECT wanted FROM unnest($1::text[]) AS wanted
WHERE NOT EXISTS (SELECT FROM account WHERE account_id = wanted)
ORDER BY wanted

-- name: newest_version
-- 0 when no price book was ever published.
SELECT coalesce(max(price_version), 0) FROM price_version

-- name: corrections_of_run
-- Charges that a run corrected, each as it stood before that. `stands` is the sequence in which the
-- charge is what the run made of it: the newest one when that says the same (a later run was taken
-- back), else the run's own. $1 run, after ($2 account, $3 event id), at most $4.
SELECT CASE WHEN
           (newest.voided, newest.rated_micro, newest.action, newest.provider, newest.model,
            newest.power_level, newest.service_tier, newest.input_tokens, newest.cache_read_tokens,
            newest.cache_write_tokens, newest.output_tokens, newest.reasoning_tokens,
            newest.other_meters, newest.quantity, newest.own_key, newest.billed_currency,
            newest.billed_pico, newest.counter, newest.counter_units)
           =
           (own.voided, own.rated_micro, own.action, own.provider, own.model, own.power_level,
            own.service_tier, own.input_tokens, own.cache_read_tokens, own.cache_write_tokens,
            own.output_tokens, own.reasoning_tokens, own.other_meters, own.quantity, own.own_key,
            own.billed_currency, own.billed_pico, own.counter, own.counter_units)
       THEN newest.sequence ELSE own.sequence END AS stands,
       own.amount_micro AS corrected_micro,
       charge.account_id, charge.event_id, charge.occurred_at, charge.source,
       charge.hold_id, charge.resource_id, charge.attributes, charge.tier, charge.demo,
       coalesce(before.voided, false) AS voided,
       coalesce(before.price_version, charge.price_version) AS price_version,
       coalesce(before.rule, charge.rule) AS rule,
       coalesce(before.rated_micro, charge.rated_micro) AS rated_micro,
       coalesce(before.amount_micro, charge.amount_micro) AS amount_micro,
       coalesce(before.action, charge.action) AS action,
       coalesce(before.provider, charge.provider) AS provider,
       coalesce(before.model, charge.model) AS model,
       coalesce(before.power_level, charge.power_level) AS power_level,
       coalesce(before.service_tier, charge.service_tier) AS service_tier,
       coalesce(before.input_tokens, charge.input_tokens) AS input_tokens,
       coalesce(before.cache_read_tokens, charge.cache_read_tokens) AS cache_read_tokens,
       coalesce(before.cache_write_tokens, charge.cache_write_tokens) AS cache_write_tokens,
       coalesce(before.output_tokens, charge.output_tokens) AS output_tokens,
       coalesce(before.reasoning_tokens, charge.reasoning_tokens) AS reasoning_tokens,
       coalesce(before.other_meters, charge.other_meters) AS other_meters,
       coalesce(before.quantity, charge.quantity) AS quantity,
       coalesce(before.own_key, charge.own_key) AS own_key,
       coalesce(before.billed_currency, charge.billed_currency) AS billed_currency,
       coalesce(before.billed_pico, charge.billed_pico) AS billed_pico,
       coalesce(before.counter, charge.counter) AS counter,
       coalesce(before.counter_units, charge.counter_units) AS counter_units,
       coalesce(before.counter_before, charge.counter_before) AS counter_before
FROM charge_correction AS own
JOIN charge USING (account_id, event_id)
LEFT JOIN charge_correction AS before
       ON before.account_id = own.account_id AND before.event_id = own.event_id
      AND before.sequence = own.sequence - 1
CROSS JOIN LATERAL (
    SELECT *
    FROM charge_correction AS later
    WHERE later.account_id = own.account_id AND later.event_id = own.event_id
    ORDER BY later.sequence DESC
    LIMIT 1
) AS newest
WHERE own.run_id = $1 AND (own.account_id, own.event_id) > ($2::text, $3::text)
ORDER BY own.account_id, own.event_id
LIMIT $4

-- name: counted_since
-- Counters that charges joined by a run, and that would keep more when these leave than the run found
-- there: the rest was counted since, behind them. A charge leaves that still is what the run made of it
-- (corrections_of_run); where none leaves there is no row. $1 run. Answers the versions whose prices the
-- run counted by there.
WITH joined AS (
    SELECT own.account_id, own.counter,
           date_trunc('month', own.occurred_at AT TIME ZONE 'UTC')::date AS month,
           array_agg(DISTINCT own.price_version) AS versions,
           sum(own.counter_units) AS brought,
           sum(own.counter_units) FILTER (
               WHERE (newest.voided, newest.rated_micro, newest.counter, newest.counter_units)
                     = (own.voided, own.rated_micro, own.counter, own.counter_units)
           ) AS leaving
    FROM charge_correction AS own
    JOIN charge USING (account_id, event_id)
    LEFT JOIN charge_correction AS before
           ON before.account_id = own.account_id AND before.event_id = own.event_id
          AND before.sequence = own.sequence - 1
    CROSS JOIN LATERAL (
        SELECT *
        FROM charge_correction AS later
        WHERE later.account_id = own.account_id AND later.event_id = own.event_id
        ORDER BY later.sequence DESC
        LIMIT 1
    ) AS newest
    WHERE own.run_id = $1 AND own.counter <> ''
      AND own.counter <> coalesce(before.counter, charge.counter)
    GROUP BY own.account_id, own.counter, month
)
SELECT joined.account_id, joined.counter, joined.month, joined.versions
FROM joined
JOIN usage_counter AS stands
  ON (stands.account_id, stands.counter, stands.month)
     = (joined.account_id, joined.counter COLLATE "C", joined.month)
JOIN rerate_counter AS counted
  ON (counted.account_id, counted.counter, counted.month)
     = (joined.account_id, joined.counter COLLATE "C", joined.month)
WHERE counted.run_id = $1
  AND stands.units - joined.leaving > counted.units - joined.brought
ORDER BY joined.account_id, joined.counter COLLATE "C", joined.month

-- name: booked_groups
-- What a run booked, by account, model (or action) and day (UTC), the largest differences first.
-- $1 run, $2 at most so many, NULL: all.
SELECT account_id, priced_as, day, count(*) AS events, count(*) AS changed, 0 AS unpriced, 0 AS voided,
       0 AS uncharged, sum(amount_micro - amount_change_micro)::bigint AS old_micro,
       sum(amount_micro)::bigint AS new_micro, sum(amount_change_micro)::bigint AS difference_micro,
       0 AS uncharged_micro
FROM (
    SELECT *, (occurred_at AT TIME ZONE 'UTC')::date AS day,
           CASE WHEN model = '' THEN action WHEN provider = '' THEN model
                ELSE provider || '/' || model END AS priced_as
    FROM charge_correction
    WHERE run_id = $1
) AS booked
GROUP BY account_id, priced_as, day
ORDER BY abs(sum(amount_change_micro)) DESC, account_id, priced_as, day
LIMIT $2
