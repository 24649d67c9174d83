-- ClickHouse's side of the audit. keys and ends: epoch * 1000000 + partition of each shipped partition
-- and the offset it is shipped to. Only rows below that are compared: they do not change any more.

-- name: charge_days
-- As charge_days of sql/postgres/queries/verify.sql, over the same text.
SELECT account_id, toDate(occurred_at) AS day, toInt64(count()) AS row_count,
       toString(sum(toInt128(amount_micro))) AS sum_micro,
       groupBitXor(reinterpretAsInt64(reverse(substring(MD5(concatWithSeparator('|',
           event_id, toString(partition), toString(epoch), toString(offset),
           toString(toUnixTimestamp64Micro(occurred_at)), toString(toUnixTimestamp64Micro(posted_at)),
           toString(payload_hash), toString(price_version), rule, toString(rated_micro),
           toString(amount_micro), toString(balance_after_micro), tier, toString(toUInt8(demo)), source,
           action, provider, model, power_level, toString(input_tokens), toString(cache_read_tokens),
           toString(cache_write_tokens), toString(output_tokens), toString(reasoning_tokens),
           other_meters, toString(quantity), toString(toUInt8(own_key)), ifNull(hold_id, ''),
           resource_id, attributes, service_tier, billed_currency, toString(billed_pico), counter,
           toString(counter_units), toString(counter_before)
       )), 1, 8)))) AS content
FROM charge FINAL
WHERE offset < transform(epoch * 1000000 + partition, {keys:Array(Int64)}, {ends:Array(Int64)}, toInt64(0))
GROUP BY account_id, day
ORDER BY account_id, day
SETTINGS do_not_merge_across_partitions_select_final = 1

-- name: credit_days
-- As credit_days of sql/postgres/queries/verify.sql, over the same text.
SELECT account_id, toDate(created_at) AS day, toInt64(count()) AS row_count,
       toString(sum(toInt128(amount_micro))) AS sum_micro,
       groupBitXor(reinterpretAsInt64(reverse(substring(MD5(concatWithSeparator('|',
           toString(transaction_id), type, status, toString(amount_micro), toString(balance_after_micro),
           ifNull(event_id, ''), ifNull(hold_id, ''), toString(ifNull(grant_id, 0)), actor, reason,
           ifNull(idempotency_key, ''), toString(tx), toString(toUnixTimestamp64Micro(created_at)),
           metadata
       )), 1, 8)))) AS content
FROM credit_transaction FINAL
WHERE (tx, transaction_id) <= ({tx_to:UInt64}, {id_to:Int64})
GROUP BY account_id, day
ORDER BY account_id, day
SETTINGS do_not_merge_across_partitions_select_final = 1

-- name: correction_days
-- As correction_days of sql/postgres/queries/verify.sql, over the same text.
SELECT account_id, toDate(occurred_at) AS day, toInt64(count()) AS row_count,
       toString(sum(toInt128(amount_change_micro))) AS sum_micro,
       groupBitXor(reinterpretAsInt64(reverse(substring(MD5(concatWithSeparator('|',
           toString(correction_id), event_id, toString(sequence), kind, toString(ifNull(run_id, 0)),
           toString(toUInt8(voided)), toString(toUnixTimestamp64Micro(occurred_at)),
           toString(price_version), rule, toString(rated_micro), toString(amount_micro),
           toString(rated_change_micro), toString(amount_change_micro), tier, toString(toUInt8(demo)),
           action, provider, model, power_level, service_tier, toString(input_tokens),
           toString(cache_read_tokens), toString(cache_write_tokens), toString(output_tokens),
           toString(reasoning_tokens), other_meters, toString(quantity), toString(toUInt8(own_key)),
           billed_currency, toString(billed_pico), counter, toString(counter_units),
           toString(counter_before), toString(ifNull(transaction_id, 0)), actor, reason,
           ifNull(idempotency_key, ''), toString(tx), toString(toUnixTimestamp64Micro(created_at)),
           source, ifNull(hold_id, ''), resource_id, attributes,
           toString(toUnixTimestamp64Micro(posted_at)),
           toString(toUInt8(was_voided)), toString(toUInt8(was_demo)), was_action, was_provider,
           was_model, toString(was_quantity), toString(was_input_tokens),
           toString(was_cache_read_tokens), toString(was_cache_write_tokens),
           toString(was_output_tokens), toString(was_reasoning_tokens)
       )), 1, 8)))) AS content
FROM charge_correction FINAL
WHERE (tx, correction_id) <= ({tx_to:UInt64}, {id_to:Int64})
GROUP BY account_id, day
ORDER BY account_id, day
SETTINGS do_not_merge_across_partitions_select_final = 1

-- name: charge_duplicates
-- Rows that are there more than once before merging, per account and day.
SELECT account_id, toDate(occurred_at) AS day, toInt64(count()) AS raw_rows,
       toInt64(uniqExact(event_id)) AS distinct_rows
FROM charge
GROUP BY account_id, day
HAVING raw_rows != distinct_rows
ORDER BY account_id, day

-- name: credit_duplicates
-- As charge_duplicates.
SELECT account_id, toDate(created_at) AS day, toInt64(count()) AS raw_rows,
       toInt64(uniqExact(transaction_id)) AS distinct_rows
FROM credit_transaction
GROUP BY account_id, day
HAVING raw_rows != distinct_rows
ORDER BY account_id, day

-- name: correction_duplicates
-- As charge_duplicates.
SELECT account_id, toDate(occurred_at) AS day, toInt64(count()) AS raw_rows,
       toInt64(uniqExact(correction_id)) AS distinct_rows
FROM charge_correction
GROUP BY account_id, day
HAVING raw_rows != distinct_rows
ORDER BY account_id, day

-- name: raw_against_final
-- How many rows of the copied tables a merge would take away.
SELECT (SELECT count() FROM charge) - (SELECT count() FROM charge FINAL)
     + (SELECT count() FROM credit_transaction) - (SELECT count() FROM credit_transaction FINAL)
     + (SELECT count() FROM charge_correction) - (SELECT count() FROM charge_correction FINAL)

-- name: charge_roll_up
-- Where charge_by_day differs from the rows it sums: the base's figures less the roll-up's.
SELECT day, account_id, provider, model, action, demo,
       sum(n) AS events_off, sum(amount) AS amount_off, sum(rated) AS rated_off, sum(meters) AS meters_off
FROM (
    SELECT toDate(occurred_at) AS day, account_id, provider, model, action, demo,
           toInt64(count()) AS n, sum(toInt128(amount_micro)) AS amount,
           sum(toInt128(rated_micro)) AS rated,
           sum(toInt128(quantity)) + 3 * sum(toInt128(input_tokens)) + 5 * sum(toInt128(cache_read_tokens))
               + 7 * sum(toInt128(cache_write_tokens)) + 11 * sum(toInt128(output_tokens))
               + 13 * sum(toInt128(reasoning_tokens)) AS meters
    FROM charge FINAL
    GROUP BY day, account_id, provider, model, action, demo
    UNION ALL
    SELECT day, account_id, provider, model, action, demo, -toInt64(sum(r.events)), -sum(r.amount_micro),
           -sum(r.rated_micro),
           -(sum(r.quantity) + 3 * sum(r.input_tokens) + 5 * sum(r.cache_read_tokens)
             + 7 * sum(r.cache_write_tokens) + 11 * sum(r.output_tokens) + 13 * sum(r.reasoning_tokens))
    FROM charge_by_day AS r
    GROUP BY day, account_id, provider, model, action, demo
)
GROUP BY day, account_id, provider, model, action, demo
HAVING events_off != 0 OR amount_off != 0 OR rated_off != 0 OR meters_off != 0
ORDER BY account_id, day, provider, model, action
LIMIT 10001

-- name: credit_roll_up
-- As charge_roll_up, of credit_by_day.
SELECT day, account_id, type, status, sum(n) AS events_off, sum(amount) AS amount_off
FROM (
    SELECT toDate(created_at) AS day, account_id, type, status, toInt64(count()) AS n,
           sum(toInt128(amount_micro)) AS amount
    FROM credit_transaction FINAL
    GROUP BY day, account_id, type, status
    UNION ALL
    SELECT day, account_id, type, status, -toInt64(sum(r.transactions)), -sum(r.amount_micro)
    FROM credit_by_day AS r
    GROUP BY day, account_id, type, status
)
GROUP BY day, account_id, type, status
HAVING events_off != 0 OR amount_off != 0
ORDER BY account_id, day, type, status
LIMIT 10001

-- name: correction_roll_up
-- As charge_roll_up, of charge_correction_by_day: what each correction leaves, less what it found.
SELECT day, account_id, provider, model, action, demo,
       sum(n) AS events_off, sum(amount) AS amount_off, sum(rated) AS rated_off, sum(meters) AS meters_off
FROM (
    SELECT toDate(occurred_at) AS day, account_id, provider, model, action, demo,
           toInt64(1) AS n, toInt128(amount_micro) AS amount, toInt128(rated_micro) AS rated,
           toInt128(quantity) + 3 * toInt128(input_tokens) + 5 * toInt128(cache_read_tokens)
               + 7 * toInt128(cache_write_tokens) + 11 * toInt128(output_tokens)
               + 13 * toInt128(reasoning_tokens) AS meters
    FROM charge_correction FINAL
    WHERE NOT voided
    UNION ALL
    SELECT toDate(occurred_at) AS day, account_id, was_provider, was_model, was_action, was_demo,
           toInt64(-1), toInt128(amount_change_micro) - toInt128(amount_micro),
           toInt128(rated_change_micro) - toInt128(rated_micro),
           -(toInt128(was_quantity) + 3 * toInt128(was_input_tokens) + 5 * toInt128(was_cache_read_tokens)
             + 7 * toInt128(was_cache_write_tokens) + 11 * toInt128(was_output_tokens)
             + 13 * toInt128(was_reasoning_tokens))
    FROM charge_correction FINAL
    WHERE NOT was_voided
    UNION ALL
    SELECT day, account_id, provider, model, action, demo, -r.events, -r.amount_micro, -r.rated_micro,
           -(r.quantity + 3 * r.input_tokens + 5 * r.cache_read_tokens + 7 * r.cache_write_tokens
             + 11 * r.output_tokens + 13 * r.reasoning_tokens)
    FROM charge_correction_by_day AS r
)
GROUP BY day, account_id, provider, model, action, demo
HAVING events_off != 0 OR amount_off != 0 OR rated_off != 0 OR meters_off != 0
ORDER BY account_id, day, provider, model, action
LIMIT 10001

-- name: charge_ends
-- The highest offset per epoch and partition.
SELECT epoch, partition, max(offset) AS newest FROM charge GROUP BY epoch, partition ORDER BY epoch, partition

-- name: newest
-- The highest numbers among the credit transactions and among the corrections; 0 when there are none.
SELECT (SELECT max(transaction_id) FROM credit_transaction) AS transaction_id,
       (SELECT max(correction_id) FROM charge_correction) AS correction_id
