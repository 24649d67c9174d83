-- Unpriced dead letters that wait for a price version which prices them.

-- name: begin
-- True for the one transaction that may look after them now; its end gives the right back.
-- $1 a number of this database that nothing else uses as an advisory lock.
SELECT pg_try_advisory_xact_lock($1)

-- name: newest_price_version
-- 0 when no price book was ever published.
SELECT coalesce(max(price_version), 0) FROM price_version

-- name: claim_untried
-- The next letters that this price version was not tried on, locked until the transaction ends: a
-- requeue by hand at the same time takes others. $1 price version, $2 at most so many.
SELECT dead_letter_id, partition, "offset", key, payload, appended_at
FROM dead_letter
WHERE reason = 'unpriced' AND requeued_at IS NULL AND tried_version < $1
ORDER BY tried_version, dead_letter_id
LIMIT $2
FOR UPDATE SKIP LOCKED

-- name: read_facts
-- What prices depend on, of the accounts that exist. $1 account ids.
SELECT account_id, tier, demo FROM account WHERE account_id = ANY($1::text[])

-- name: mark_requeued
-- $1 ids that the broker acknowledged, $2 the price version that prices them.
UPDATE dead_letter SET requeued_at = now(), tried_version = $2
WHERE dead_letter_id = ANY($1::bigint[])

-- name: mark_tried
-- $1 ids that still have no price, $2 the newest price version.
UPDATE dead_letter SET tried_version = $2 WHERE dead_letter_id = ANY($1::bigint[])

-- name: count_waiting
-- How many wait for a price.
SELECT count(*) FROM dead_letter WHERE reason = 'unpriced' AND requeued_at IS NULL
