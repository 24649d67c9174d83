-- Corrections of charges: what stands, what is appended, what moves with it.
-- Lock order everywhere: account (sorted, ledger.sql lock_accounts), then counters, then grants.

-- name: charges_in_force
-- Charges as they stand: each overlaid by its latest correction, `sequence` 0 when there is none.
-- True for as long as the account's lock is held; without the lock, of this moment.
-- $1 account ids, $2 event ids, pairwise; answers by their index from 0, charges that exist only.
SELECT incoming.n - 1 AS n, charge.account_id, charge.event_id, charge.occurred_at, charge.source,
       charge.hold_id, charge.resource_id, charge.attributes, charge.tier, charge.demo,
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
FROM unnest($1::text[], $2::text[]) WITH ORDINALITY AS incoming (account_id, event_id, n)
JOIN charge USING (account_id, event_id)
LEFT JOIN LATERAL (
    SELECT *
    FROM charge_correction AS correction
    WHERE correction.account_id = charge.account_id AND correction.event_id = charge.event_id
    ORDER BY correction.sequence DESC
    LIMIT 1
) AS latest ON true
ORDER BY incoming.n

-- name: last_counted
-- The charge that counts in a month and was counted last, before one that counts no units; no row:
-- none is left. Reads all charges of the account: no index serves a counter.
-- $1 account (locked), $2 counter, $3 the month's start, $4 its end, $5 the event to leave out.
SELECT charge.event_id
FROM charge
LEFT JOIN LATERAL (
    SELECT voided, counter, counter_units, counter_before
    FROM charge_correction AS correction
    WHERE correction.account_id = charge.account_id AND correction.event_id = charge.event_id
    ORDER BY correction.sequence DESC
    LIMIT 1
) AS latest ON true
WHERE charge.account_id = $1 AND charge.occurred_at >= $3 AND charge.occurred_at < $4
  AND charge.event_id <> $5
  AND NOT coalesce(latest.voided, false) AND coalesce(latest.counter, charge.counter) = $2
ORDER BY coalesce(latest.counter_units, charge.counter_units) > 0 DESC,
         coalesce(latest.counter_before, charge.counter_before) DESC, charge.event_id
LIMIT 1

-- name: reserve_transactions
-- Numbers for rows of credit_transaction that are appended in the same transaction, ascending.
-- $1 how many. Gaps mean nothing.
SELECT nextval(pg_get_serial_sequence('credit_transaction', 'transaction_id'))
FROM generate_series(1, $1)

-- name: read_charge
-- The charge as it was posted, without its corrections. $1 account, $2 event id.
SELECT * FROM charge WHERE account_id = $1 AND event_id = $2

-- name: read_corrections
-- All corrections of a charge, oldest first, with the balance after each that moved credits, and what
-- a void or an amendment moved to another charge of the month. $1 account, $2 event id.
SELECT correction.*, entry.balance_after_micro,
       CASE WHEN correction.run_id IS NULL THEN (
           SELECT coalesce(sum(beside.amount_change_micro), 0)::bigint
           FROM charge_correction AS beside
           WHERE beside.tx = correction.tx AND beside.account_id = correction.account_id
             AND beside.event_id <> correction.event_id
       ) ELSE 0 END AS moved_micro
FROM charge_correction AS correction
LEFT JOIN credit_transaction AS entry USING (transaction_id)
WHERE correction.account_id = $1 AND correction.event_id = $2
ORDER BY correction.sequence

-- name: find_by_key
-- The correction that an idempotency key stands for, with the same as read_corrections. $1 key.
SELECT correction.*, entry.balance_after_micro,
       CASE WHEN correction.run_id IS NULL THEN (
           SELECT coalesce(sum(beside.amount_change_micro), 0)::bigint
           FROM charge_correction AS beside
           WHERE beside.tx = correction.tx AND beside.account_id = correction.account_id
             AND beside.event_id <> correction.event_id
       ) ELSE 0 END AS moved_micro
FROM charge_correction AS correction
LEFT JOIN credit_transaction AS entry USING (transaction_id)
WHERE correction.idempotency_key = $1
