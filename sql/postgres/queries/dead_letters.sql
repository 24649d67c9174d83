-- Dead letters: published to usage.dead, looked at, and sent to usage.events once more.

-- name: try_publishing
-- True for the one session that may publish now; the lock ends with `end_publishing`.
-- $1 a number of this database that nothing else uses as an advisory lock.
SELECT pg_try_advisory_lock($1)

-- name: end_publishing
-- Gives back the lock of try_publishing. $1 the same number.
SELECT pg_advisory_unlock($1)

-- name: read_unpublished
-- The oldest dead letters that usage.dead has not acknowledged. $1 at most so many.
SELECT dead_letter_id, topic, partition, epoch, "offset", reason, detail, account_id, event_id,
       key, payload, payload_bytes, payload_sha256, appended_at, dead_at
FROM dead_letter
WHERE published_at IS NULL
ORDER BY dead_letter_id
LIMIT $1

-- name: mark_published
-- $1 ids that the broker acknowledged. Idempotent: the first time stays.
UPDATE dead_letter SET published_at = now()
WHERE dead_letter_id = ANY($1::bigint[]) AND published_at IS NULL

-- name: count_dead_letters
-- By reason, over the whole table: how many, how many were sent again, how many are unpublished.
SELECT reason,
       count(*) AS letters,
       count(requeued_at) AS requeued,
       count(*) FILTER (WHERE published_at IS NULL) AS unpublished,
       max(dead_at) AS newest_at,
       max(dead_letter_id) AS newest_id
FROM dead_letter
GROUP BY reason
ORDER BY letters DESC, reason

-- name: list_dead_letters
-- Newest first. $1 ids, $2 reasons, $3 account, $4 since (inclusive), $5 until (exclusive), $6 models
-- (provider/model, or the action): NULL is no limit. $7 true: only those that were never sent again.
-- $8 below this id (for paging), NULL: all. $9 at most so many.
SELECT dead_letter_id, topic, partition, epoch, "offset", reason, detail, account_id, event_id, model,
       payload_bytes, octet_length(payload) < payload_bytes AS truncated,
       appended_at, dead_at, published_at, requeued_at
FROM dead_letter
WHERE ($1::bigint[] IS NULL OR dead_letter_id = ANY($1))
  AND ($2::text[] IS NULL OR reason = ANY($2))
  AND ($3::text IS NULL OR account_id = $3)
  AND ($4::timestamptz IS NULL OR dead_at >= $4)
  AND ($5::timestamptz IS NULL OR dead_at < $5)
  AND ($6::text[] IS NULL OR model = ANY($6))
  AND (NOT $7::boolean OR requeued_at IS NULL)
  AND ($8::bigint IS NULL OR dead_letter_id < $8)
ORDER BY dead_letter_id DESC
LIMIT $9

-- name: read_dead_letter
-- $1 id.
SELECT dead_letter_id, topic, partition, epoch, "offset", reason, detail, account_id, event_id, model,
       key, payload, payload_bytes, payload_sha256,
       octet_length(payload) < payload_bytes AS truncated,
       appended_at, dead_at, published_at, requeued_at, tried_version
FROM dead_letter
WHERE dead_letter_id = $1

-- name: count_selected
-- What a requeue would send, by reason. $1 to $6 as in list_dead_letters.
-- A letter whose bytes were cut, or whose key was, can not be sent as it was.
SELECT reason,
       count(*) FILTER (WHERE requeued_at IS NULL) AS waiting,
       count(*) FILTER (WHERE requeued_at IS NOT NULL) AS requeued,
       count(*) FILTER (WHERE requeued_at IS NULL
                          AND (octet_length(payload) < payload_bytes
                               OR octet_length(key) >= 1024)) AS truncated
FROM dead_letter
WHERE ($1::bigint[] IS NULL OR dead_letter_id = ANY($1))
  AND ($2::text[] IS NULL OR reason = ANY($2))
  AND ($3::text IS NULL OR account_id = $3)
  AND ($4::timestamptz IS NULL OR dead_at >= $4)
  AND ($5::timestamptz IS NULL OR dead_at < $5)
  AND ($6::text[] IS NULL OR model = ANY($6))
GROUP BY reason
ORDER BY reason

-- name: read_selected
-- The selected letters with their bytes, for what only the bytes can tell. $1 to $6 as in
-- list_dead_letters. Read it with a cursor: it may be the whole table.
SELECT reason, payload, requeued_at IS NOT NULL AS requeued,
       octet_length(payload) < payload_bytes OR coalesce(octet_length(key), 0) >= 1024 AS truncated
FROM dead_letter
WHERE ($1::bigint[] IS NULL OR dead_letter_id = ANY($1))
  AND ($2::text[] IS NULL OR reason = ANY($2))
  AND ($3::text IS NULL OR account_id = $3)
  AND ($4::timestamptz IS NULL OR dead_at >= $4)
  AND ($5::timestamptz IS NULL OR dead_at < $5)
  AND ($6::text[] IS NULL OR model = ANY($6))

-- name: newest_dead_letter
-- The highest id now: what a requeue goes up to, so that it never meets its own failures again.
SELECT coalesce(max(dead_letter_id), 0) FROM dead_letter

-- name: claim_for_requeue
-- The next letters to send, oldest first, locked until the transaction ends: two requeues at once
-- share the work and send nothing twice. $1 to $6 as in list_dead_letters, $7 above this id,
-- $8 up to this id, $9 at most so many.
SELECT dead_letter_id, key, payload
FROM dead_letter
WHERE ($1::bigint[] IS NULL OR dead_letter_id = ANY($1))
  AND ($2::text[] IS NULL OR reason = ANY($2))
  AND ($3::text IS NULL OR account_id = $3)
  AND ($4::timestamptz IS NULL OR dead_at >= $4)
  AND ($5::timestamptz IS NULL OR dead_at < $5)
  AND ($6::text[] IS NULL OR model = ANY($6))
  AND dead_letter_id > $7
  AND dead_letter_id <= $8
  AND requeued_at IS NULL
  AND octet_length(payload) >= payload_bytes
  AND (key IS NULL OR octet_length(key) < 1024)
ORDER BY dead_letter_id
LIMIT $9
FOR UPDATE SKIP LOCKED

-- name: mark_requeued
-- $1 ids that the broker acknowledged.
UPDATE dead_letter SET requeued_at = now() WHERE dead_letter_id = ANY($1::bigint[])
