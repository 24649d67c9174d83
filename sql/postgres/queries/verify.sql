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
       (SELECT count(*) FROM charge_correction) AS corrections,
       (SELECT count(*) FROM usage_counter) AS counters,
       (SELECT count(*) FROM coupon) AS coupons,
       (SELECT count(*) FROM refresh) AS refreshes,
       (SELECT count(*) FROM credit_hold WHERE report <> '') AS reports,
       (SELECT count(*) FROM audit_log) AS acts,
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

-- name: correction_findings
-- Per correction: they are numbered from 1 without a gap, at the charge's own time, and each leaves what
-- stood before it plus its change. Nothing is left of a voided charge. So the last state is the charge
-- plus the sum of all changes.
WITH chain AS (
    SELECT account_id, event_id, sequence, occurred_at, voided, rated_micro, amount_micro,
           rated_change_micro, amount_change_micro, counter_units,
           lag(sequence) OVER of_charge AS last_sequence,
           lag(rated_micro) OVER of_charge AS last_rated, lag(amount_micro) OVER of_charge AS last_amount
    FROM charge_correction
    WINDOW of_charge AS (PARTITION BY account_id, event_id ORDER BY sequence)
), compared AS (
    SELECT chain.*, charge.event_id IS NULL AS orphan, charge.occurred_at AS charged_at,
           coalesce(last_sequence, 0) + 1 AS next_sequence,
           coalesce(last_rated, charge.rated_micro)::numeric + rated_change_micro AS next_rated,
           coalesce(last_amount, charge.amount_micro)::numeric + amount_change_micro AS next_amount
    FROM chain LEFT JOIN charge USING (account_id, event_id)
)
SELECT account_id || ' ' || event_id AS subject,
       CASE WHEN orphan THEN 'a charge'
            ELSE 'correction ' || next_sequence || ': rated ' || next_rated || ', amount ' || next_amount
                 || ', at ' || charged_at || CASE WHEN voided THEN ', nothing left' ELSE '' END
       END AS expected,
       'correction ' || sequence || ': rated ' || rated_micro || ', amount ' || amount_micro
           || ', at ' || occurred_at || CASE WHEN voided THEN ', ' || counter_units || ' units' ELSE '' END
           AS found
FROM compared
WHERE orphan OR sequence <> next_sequence OR rated_micro <> next_rated OR amount_micro <> next_amount
   OR occurred_at <> charged_at
   OR (voided AND (rated_micro <> 0 OR amount_micro <> 0 OR counter_units <> 0))
ORDER BY account_id, event_id, sequence

-- name: correction_credit_findings
-- Per correction that changes an amount: one credit transaction of its own with the opposite amount; and
-- no transaction of that type without a correction.
WITH changed AS (
    SELECT correction_id, transaction_id, account_id, event_id, amount_change_micro,
           count(*) OVER (PARTITION BY transaction_id) AS sharing
    FROM charge_correction
    WHERE amount_change_micro <> 0
), moved AS (
    SELECT transaction_id, account_id, event_id, amount_micro, status
    FROM credit_transaction
    WHERE type = 'CORRECTION'
)
SELECT coalesce(changed.account_id, moved.account_id)
           || ' ' || coalesce(changed.event_id, moved.event_id, '') AS subject,
       coalesce('correction ' || correction_id || ': ' || -amount_change_micro::numeric
                    || CASE WHEN sharing > 1 THEN ' by a transaction of its own' ELSE '' END,
                'a correction') AS expected,
       coalesce('transaction ' || moved.transaction_id || ': ' || amount_micro || ' ' || status || ' of '
                    || moved.account_id || ' ' || coalesce(moved.event_id, ''), 'no transaction') AS found
FROM changed FULL JOIN moved ON moved.transaction_id = changed.transaction_id
WHERE changed.correction_id IS NULL OR moved.transaction_id IS NULL OR sharing > 1
   OR amount_micro <> -amount_change_micro::numeric OR status <> 'COMPLETED'
   OR moved.account_id <> changed.account_id OR moved.event_id IS DISTINCT FROM changed.event_id
ORDER BY 1, correction_id, moved.transaction_id

-- name: counter_findings
-- Per account, counter and month (UTC): the units that its charges count, each charge in its state after
-- its latest correction; never less than none.
WITH counted AS (
    SELECT account_id, counter, date_trunc('month', occurred_at AT TIME ZONE 'UTC')::date AS month,
           counter_units
    FROM charge
    WHERE counter <> '' AND NOT EXISTS (
        SELECT FROM charge_correction AS c
        WHERE c.account_id = charge.account_id AND c.event_id = charge.event_id
    )
    UNION ALL
    SELECT account_id, counter, date_trunc('month', occurred_at AT TIME ZONE 'UTC')::date, counter_units
    FROM (
        SELECT DISTINCT ON (account_id, event_id) account_id, voided, occurred_at, counter, counter_units
        FROM charge_correction
        ORDER BY account_id, event_id, sequence DESC
    ) AS latest
    WHERE counter <> '' AND NOT voided
), summed AS (
    SELECT account_id, counter, month, sum(counter_units) AS units
    FROM counted
    GROUP BY account_id, counter, month
)
SELECT account_id || ' ' || counter || ' in ' || to_char(month, 'YYYY-MM') AS subject,
       'charges of ' || coalesce(summed.units, 0) || ' units' AS expected,
       'counter ' || coalesce(stands.units, 0) AS found
FROM usage_counter AS stands FULL JOIN summed USING (account_id, counter, month)
WHERE coalesce(stands.units, 0) <> coalesce(summed.units, 0) OR stands.units < 0
ORDER BY 1

-- name: spend_findings
-- Per account: what a monthly cap counts is what the ledger has of that month (UTC, by posting) and of
-- none after it: charges, settlements, deductions and corrections; a settlement that was taken back is
-- none, also when that was later. Adjustments, expiries and grants are no spending.
WITH moved AS (
    SELECT account_id, amount_micro AS micro, posted_at AS at FROM charge
    UNION ALL
    SELECT account_id, -amount_micro, created_at
    FROM credit_transaction
    WHERE type IN ('SETTLE', 'DEDUCT', 'CORRECTION') AND status = 'COMPLETED'
    UNION ALL
    SELECT entry.account_id, -entry.amount_micro, closed_at
    FROM credit_transaction AS entry
    JOIN credit_hold USING (hold_id)
    WHERE type = 'REVERSAL' AND status = 'COMPLETED'
), spent AS (
    SELECT account_id, sum(micro) AS micro
    FROM moved JOIN account USING (account_id)
    WHERE at >= spend_month::timestamp AT TIME ZONE 'UTC'
    GROUP BY account_id
)
SELECT account_id AS subject,
       'ledger ' || coalesce(micro, 0) || ' since ' || to_char(spend_month, 'YYYY-MM') AS expected,
       'spent ' || spend_micro AS found
FROM account LEFT JOIN spent USING (account_id)
WHERE spend_micro <> coalesce(micro, 0)
ORDER BY 1

-- name: coupon_findings
-- Per coupon: as many uses as redemptions, no account above its limit; and each redemption is one credit
-- transaction of its account and amount, each of those a redemption.
WITH redeemed AS (
    SELECT code, sum(uses)::bigint AS uses, max(uses) AS account_uses
    FROM (SELECT code, account_id, count(*) AS uses FROM coupon_redemption GROUP BY code, account_id) AS by_account
    GROUP BY code
)
SELECT 'coupon ' || code AS subject,
       coalesce(redeemed.uses, 0) || ' redemptions, at most ' || account_uses_max || ' an account' AS expected,
       'uses ' || coupon.uses || ', ' || coalesce(account_uses, 0) || ' by one account' AS found
FROM coupon LEFT JOIN redeemed USING (code)
WHERE coupon.uses <> coalesce(redeemed.uses, 0) OR account_uses > account_uses_max
UNION ALL
SELECT coalesce('coupon ' || code || ' of ' || r.account_id, 'transaction ' || t.transaction_id),
       coalesce('a credit of ' || r.amount_micro, 'a redemption'),
       coalesce('transaction ' || t.transaction_id || ': ' || t.amount_micro || ' of ' || t.account_id, 'none')
FROM coupon_redemption AS r
FULL JOIN (SELECT * FROM credit_transaction WHERE type = 'COUPON') AS t USING (transaction_id)
WHERE r.code IS NULL OR t.type IS NULL OR t.account_id <> r.account_id OR t.amount_micro <> r.amount_micro
ORDER BY 1, 2

-- name: refresh_findings
-- Per account and period: one refresh at most; and each is one credit transaction of its account, amount
-- and grant, each of those a refresh.
SELECT account_id || ' for ' || period AS subject, 'one refresh' AS expected, count(*) || ' refreshes' AS found
FROM refresh
GROUP BY account_id, period
HAVING count(*) > 1
UNION ALL
SELECT coalesce(r.account_id || ' for ' || r.period, 'transaction ' || t.transaction_id),
       coalesce('a credit of ' || r.amount_micro, 'a refresh'),
       coalesce('transaction ' || t.transaction_id || ': ' || t.amount_micro || ' of ' || t.account_id, 'none')
FROM refresh AS r
FULL JOIN (SELECT * FROM credit_transaction WHERE type = 'REFRESH') AS t USING (grant_id)
WHERE r.refresh_id IS NULL OR t.type IS NULL OR t.account_id <> r.account_id OR t.amount_micro <> r.amount_micro
ORDER BY 1, 2

-- name: report_findings
-- Per hold that was charged for a session's report: one settlement by reconciliation, of what the hold
-- says it was charged; once the report is replaced, one reversal of it. No reversal of another hold; and
-- no usage event that names a hold and left no mark on it, or its account pays twice.
WITH booked AS (
    SELECT hold_id, account_id, -sum(amount_micro) FILTER (WHERE type = 'SETTLE') AS settled_micro,
           count(*) FILTER (WHERE type = 'SETTLE') AS settlements,
           coalesce(sum(amount_micro) FILTER (WHERE type = 'REVERSAL'), 0) AS reversed_micro,
           count(*) FILTER (WHERE type = 'REVERSAL') AS reversals
    FROM credit_transaction
    WHERE hold_id IS NOT NULL AND type IN ('SETTLE', 'REVERSAL') AND status = 'COMPLETED'
    GROUP BY hold_id, account_id
), reported AS (
    SELECT hold_id, account_id, charged_micro, report FROM credit_hold WHERE report <> ''
)
SELECT 'hold ' || hold_id || ' of ' || account_id AS subject,
       CASE report WHEN 'replaced' THEN 'one settlement, one reversal of it'
                   ELSE coalesce('one settlement of ' || charged_micro || ', no reversal', 'no reversal') END
           AS expected,
       coalesce(settlements, 0) || ' settlements of ' || coalesce(settled_micro, 0) || ', '
           || coalesce(reversals, 0) || ' reversals of ' || coalesce(reversed_micro, 0) AS found
FROM reported FULL JOIN booked USING (hold_id, account_id)
WHERE CASE WHEN report IS NULL THEN reversals > 0
           WHEN report = 'replaced' THEN settlements IS DISTINCT FROM 1 OR reversals <> 1
                                         OR reversed_micro <> settled_micro
           ELSE settlements IS DISTINCT FROM 1 OR reversals <> 0 OR settled_micro <> charged_micro END
UNION ALL
SELECT 'hold ' || hold_id || ' of ' || account_id, 'a mark that an event is charged as well', 'no mark'
FROM reported
WHERE report = 'charged' AND EXISTS (
    SELECT FROM charge
    WHERE charge.account_id = reported.account_id AND charge.hold_id = reported.hold_id COLLATE "default"
)
ORDER BY 1, 2

-- name: shipped_charges
-- How far the charges are in ClickHouse. $1 generation.
SELECT epoch, partition, next_offset FROM ship_position
WHERE stream = 'charge' AND generation = $1
ORDER BY epoch, partition

-- name: shipped_keyset
-- How far a stream without offsets is in ClickHouse; no row: nothing is. $1 stream, $2 generation.
SELECT tx_after::text AS tx_to, id_after AS id_to FROM ship_position
WHERE stream = $1 AND generation = $2

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
           quantity, own_key::integer, coalesce(hold_id, ''), resource_id, attributes, service_tier,
           billed_currency, billed_pico, counter, counter_units, counter_before
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
           tx::text, (extract(epoch FROM created_at) * 1000000)::bigint, metadata
       )), 16))::bit(64)::bigint) AS content
FROM credit_transaction
WHERE (tx, transaction_id) <= ($1::text::xid8, $2::bigint)
GROUP BY account_id, day
ORDER BY account_id, day

-- name: correction_days
-- As charge_days, of corrections, on the days of their charges; their sum is that of the changes. What a
-- copied row brings along of its charge and of the state before it is in the hash too.
-- $1 tx_to, $2 id_to (inclusive).
SELECT c.account_id, (c.occurred_at AT TIME ZONE 'UTC')::date AS day, count(*) AS row_count,
       sum(c.amount_change_micro)::text AS sum_micro,
       bit_xor(('x' || left(md5(concat_ws('|',
           c.correction_id, c.event_id, c.sequence, c.kind, coalesce(c.run_id, 0), c.voided::integer,
           (extract(epoch FROM c.occurred_at) * 1000000)::bigint,
           c.price_version, c.rule, c.rated_micro, c.amount_micro, c.rated_change_micro,
           c.amount_change_micro, c.tier, c.demo::integer, c.action, c.provider, c.model, c.power_level,
           c.service_tier, c.input_tokens, c.cache_read_tokens, c.cache_write_tokens, c.output_tokens,
           c.reasoning_tokens, c.other_meters, c.quantity, c.own_key::integer, c.billed_currency,
           c.billed_pico, c.counter, c.counter_units, c.counter_before, coalesce(c.transaction_id, 0),
           c.actor, c.reason, coalesce(c.idempotency_key, ''), c.tx::text,
           (extract(epoch FROM c.created_at) * 1000000)::bigint,
           charge.source, coalesce(charge.hold_id, ''), charge.resource_id, charge.attributes,
           (extract(epoch FROM charge.posted_at) * 1000000)::bigint,
           coalesce(was.voided, false)::integer, coalesce(was.demo, charge.demo)::integer,
           coalesce(was.action, charge.action), coalesce(was.provider, charge.provider),
           coalesce(was.model, charge.model), coalesce(was.quantity, charge.quantity),
           coalesce(was.input_tokens, charge.input_tokens),
           coalesce(was.cache_read_tokens, charge.cache_read_tokens),
           coalesce(was.cache_write_tokens, charge.cache_write_tokens),
           coalesce(was.output_tokens, charge.output_tokens),
           coalesce(was.reasoning_tokens, charge.reasoning_tokens)
       )), 16))::bit(64)::bigint) AS content
FROM charge_correction AS c
LEFT JOIN charge ON charge.account_id = c.account_id AND charge.event_id = c.event_id
LEFT JOIN charge_correction AS was
       ON was.account_id = c.account_id AND was.event_id = c.event_id AND was.sequence = c.sequence - 1
WHERE (c.tx, c.correction_id) <= ($1::text::xid8, $2::bigint)
GROUP BY c.account_id, day
ORDER BY c.account_id, day

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
        )) AS transactions,
       (SELECT count(*) FROM charge_correction
        WHERE (tx, correction_id) > (
            coalesce((SELECT tx_after FROM ship_position WHERE stream = 'correction' AND generation = $2), '0'::xid8),
            coalesce((SELECT id_after FROM ship_position WHERE stream = 'correction' AND generation = $2), 0)
        )) AS corrections

-- name: ends
-- Where the ledger ends now, outside of the snapshot: nothing beyond may be in ClickHouse.
-- $1 the usage topic.
SELECT epoch, partition, next_offset FROM stream_position WHERE topic = $1
UNION ALL
SELECT b.epoch, b.partition, max(to_offset) FROM batch_outcome AS b
JOIN stream_position AS stands USING (topic, partition)
WHERE b.topic = $1 AND b.epoch < stands.epoch
GROUP BY b.epoch, b.partition

-- name: newest
-- The highest numbers among the credit transactions and among the corrections; 0 when there are none.
SELECT coalesce((SELECT max(transaction_id) FROM credit_transaction), 0) AS transaction_id,
       coalesce((SELECT max(correction_id) FROM charge_correction), 0) AS correction_id
