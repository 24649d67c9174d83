-- What is no longer needed to keep a promise. Claims, charges and batch outcomes are never among it.

-- name: purge_keys
-- Idempotency keys that are older than their promise. $1 days, $2 at most so many. Returns how many.
WITH gone AS (
    DELETE FROM idempotency_key
    WHERE ctid = ANY(ARRAY(
        SELECT ctid FROM idempotency_key
        WHERE created_at < now() - make_interval(days => $1)
        ORDER BY created_at LIMIT $2
        FOR UPDATE SKIP LOCKED))
    RETURNING 1
)
SELECT count(*) FROM gone

-- name: purge_runs
-- Runs that ended long ago: longer than Kafka keeps the messages that asked for them.
-- $1 days, $2 at most so many. Returns how many.
WITH gone AS (
    DELETE FROM job_run
    WHERE run_id = ANY(ARRAY(
        SELECT run_id FROM job_run
        WHERE finished_at < now() - make_interval(days => $1)
        ORDER BY run_id LIMIT $2
        FOR UPDATE SKIP LOCKED))
    RETURNING 1
)
SELECT count(*) FROM gone

-- name: preview
-- What a purge would remove. $1 days of keys, $2 days of runs.
SELECT (SELECT count(*) FROM idempotency_key WHERE created_at < now() - make_interval(days => $1)) AS keys,
       (SELECT count(*) FROM job_run WHERE finished_at < now() - make_interval(days => $2)) AS runs
