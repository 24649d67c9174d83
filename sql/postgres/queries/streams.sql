-- A stream whose topic was made anew or lost records: where it stands, and its next epoch.

-- name: read_positions
-- $1 topic. Every partition that was ever applied.
SELECT partition, epoch, next_offset, first_offset, last_digest
FROM stream_position
WHERE topic = $1
ORDER BY partition

-- name: lock_positions
-- The same, and no batch can move them until the transaction ends. $1 topic.
SELECT partition, epoch, next_offset, first_offset, last_digest
FROM stream_position
WHERE topic = $1
ORDER BY partition
FOR UPDATE

-- name: begin_epoch
-- All partitions of a topic enter one new epoch together. The digest of the record before is given
-- up: it belongs to the old log. $1 topic, $2 epoch; pairwise: $3 partitions, $4 the offsets to go
-- on at.
UPDATE stream_position AS stands
SET epoch = $2, next_offset = begun.next_offset, first_offset = begun.next_offset,
    last_digest = NULL, updated_at = now()
FROM unnest($3::integer[], $4::bigint[]) AS begun (partition, next_offset)
WHERE stands.topic = $1 AND stands.partition = begun.partition
