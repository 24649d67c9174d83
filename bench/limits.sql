-- What the raw limits read from a drained place; see limits.py.

-- name: charges_between
-- The charges of some offsets of a partition, whole. $1 partition, $2 from, $3 to (exclusive).
SELECT * FROM charge
WHERE epoch = 1 AND partition = $1 AND "offset" >= $2 AND "offset" < $3
ORDER BY "offset"

-- name: ends
-- How far each partition was applied. $1 topic.
SELECT partition, next_offset FROM stream_position WHERE topic = $1 ORDER BY partition
