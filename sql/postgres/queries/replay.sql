-- What a replay asks the ledger: which dead letters a record has, and what became of what it sent.

-- name: newest_letters
-- The newest dead letter of the same bytes, at the record's own position or under its identity.
-- $1 topic, $2 its epochs; pairwise: $3 partitions, $4 offsets, $5 account ids, $6 event ids,
-- $7 sha256 of the values. Answers by their index from 0; no row where there is no letter.
-- first_at is when these bytes were appended for the first time as far as letters under the identity
-- tell: what the rater judges a late copy by (ledger.sql first_seen).
SELECT incoming.n - 1 AS n, letter.dead_letter_id, letter.reason,
       letter.requeued_at IS NOT NULL AS requeued, letter.first_at
FROM unnest($3::integer[], $4::bigint[], $5::text[], $6::text[], $7::bytea[]) WITH ORDINALITY
     AS incoming (partition, "offset", account_id, event_id, digest, n)
CROSS JOIN LATERAL (
    SELECT dead_letter_id, reason, requeued_at, min(vouched_at) OVER () AS first_at
    FROM (
        SELECT dead_letter_id, reason, requeued_at, NULL::timestamptz AS vouched_at
        FROM dead_letter AS there
        WHERE there.topic = $1 AND there.epoch = ANY($2::integer[])
          AND there.partition = incoming.partition AND there."offset" = incoming."offset"
          AND there.payload_sha256 = incoming.digest
        UNION ALL
        SELECT dead_letter_id, reason, requeued_at, appended_at FROM dead_letter AS same
        WHERE same.event_id = incoming.event_id AND same.account_id = incoming.account_id
          AND same.payload_sha256 = incoming.digest
    ) AS found
    ORDER BY dead_letter_id DESC
    LIMIT 1
) AS letter

-- name: became
-- How many of these offsets became charges, and how many dead letters; the others are duplicates.
-- $1 topic, $2 epoch; pairwise: $3 partitions, $4 from, $5 to (exclusive).
SELECT coalesce(sum(charges.n), 0)::bigint AS charged, coalesce(sum(letters.n), 0)::bigint AS dead
FROM unnest($3::integer[], $4::bigint[], $5::bigint[]) AS sent (partition, from_offset, to_offset)
CROSS JOIN LATERAL (
    SELECT count(*) AS n FROM charge
    WHERE charge.epoch = $2 AND charge.partition = sent.partition
      AND charge."offset" >= sent.from_offset AND charge."offset" < sent.to_offset
) AS charges
CROSS JOIN LATERAL (
    SELECT count(*) AS n FROM dead_letter
    WHERE dead_letter.topic = $1 AND dead_letter.epoch = $2
      AND dead_letter.partition = sent.partition
      AND dead_letter."offset" >= sent.from_offset AND dead_letter."offset" < sent.to_offset
) AS letters

-- name: outcomes_between
-- What the batches between two positions came to, over all partitions. Batches end where a position
-- stood, so none is cut. $1 topic; pairwise: $2 partitions, $3 epochs, $4 from, $5 to (exclusive).
SELECT coalesce(sum(b.charged), 0)::bigint AS charged,
       coalesce(sum(b.duplicate), 0)::bigint AS duplicate,
       coalesce(sum(b.dead), 0)::bigint AS dead
FROM unnest($2::integer[], $3::integer[], $4::bigint[], $5::bigint[])
     AS span (partition, epoch, from_offset, to_offset)
JOIN batch_outcome AS b
  ON b.topic = $1 AND b.partition = span.partition AND b.epoch = span.epoch
 AND b.from_offset >= span.from_offset AND b.to_offset <= span.to_offset

-- name: account_balances
-- Every account's balance, overdraft and reserve, in one order: what two digests compare.
SELECT account_id, balance_micro, overdraft_micro, held_micro FROM account ORDER BY account_id

-- name: grant_balances
-- Every grant and what is left of it, in one order.
SELECT grant_id, account_id, amount_micro, remaining_micro FROM credit_grant ORDER BY grant_id
