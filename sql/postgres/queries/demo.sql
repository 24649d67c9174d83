-- What `tollgate demo` reads while it runs and for its summary.

-- name: progress
-- Offsets of the topic that are applied, and that are in ClickHouse, over all partitions.
-- $1 topic. Generations and epochs before the present one do not count.
SELECT
    (SELECT coalesce(sum(next_offset - first_offset), 0)::bigint
     FROM stream_position WHERE topic = $1) AS applied,
    (SELECT coalesce(sum(ship_position.next_offset - stands.first_offset), 0)::bigint
     FROM ship_position
     JOIN stream_position AS stands USING (partition, epoch)
     WHERE ship_position.stream = 'charge'
       AND ship_position.generation = (SELECT max(generation) FROM ship_position)
       AND stands.topic = $1) AS copied

-- name: totals
-- Everything so far, to be subtracted from everything after the run. $1 topic.
SELECT coalesce(sum(charged), 0)::bigint AS charged,
       coalesce(sum(duplicate), 0)::bigint AS duplicate,
       coalesce(sum(dead), 0)::bigint AS dead,
       (SELECT coalesce(max(dead_letter_id), 0) FROM dead_letter) AS last_letter,
       (SELECT coalesce(sum(amount_micro), 0)::bigint FROM charge) AS charged_micro,
       (SELECT count(*) FROM account) AS accounts
FROM batch_outcome
WHERE topic = $1

-- name: dead_letters_since
-- Reasons of the dead letters after $1, with one example of each.
SELECT reason, count(*) AS letters,
       (array_agg(detail ORDER BY dead_letter_id))[1] AS example,
       min(dead_letter_id) AS first_letter
FROM dead_letter
WHERE dead_letter_id > $1
GROUP BY reason
ORDER BY letters DESC, reason

-- name: seen
-- Which of these events of one account are charged. $1 account, $2 event ids.
SELECT event_id FROM charge WHERE account_id = $1 AND event_id = ANY($2::text[])
