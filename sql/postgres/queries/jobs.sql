-- Runs of the scheduler's jobs. A run's key is that of the message that asked for it.

-- name: lock_key
-- Whoever has it is the only one at work on that key, until its session ends: by itself, or because it
-- said nothing for $2, a time with its unit. $1 key.
SELECT CASE WHEN pg_try_advisory_lock(hashtextextended('tollgate.job:' || $1, 0))
            THEN set_config('idle_session_timeout', $2, false) IS NOT NULL
            ELSE false END

-- name: lock_key_here
-- As lock_key, until the transaction ends. $1 key.
SELECT pg_try_advisory_xact_lock(hashtextextended('tollgate.job:' || $1, 0))

-- name: unlock_key
-- The session may be idle again. $1 key.
SELECT pg_advisory_unlock(hashtextextended('tollgate.job:' || $1, 0)),
       set_config('idle_session_timeout', NULL, false)

-- name: still_here
-- A sign of life, while the work is done elsewhere.
SELECT true

-- name: open_run
-- The run of this key: made now, or the one that there is, whatever became of it.
-- $1 job, $2 key, $3 dry run, $4 who asks.
INSERT INTO job_run (job, job_key, dry_run, requested_by)
VALUES ($1, $2, $3, $4)
ON CONFLICT (job_key) DO UPDATE SET job_key = excluded.job_key
RETURNING run_id, job, dry_run, state, figures

-- name: add_figures
-- In the transaction of the work that they count, so that they are true after any crash.
-- $1 run, $2 figures as a JSON object of integers.
UPDATE job_run
SET figures = figures || (
    SELECT coalesce(jsonb_object_agg(name, to_jsonb(amount::bigint + coalesce((figures ->> name)::bigint, 0))), '{}')
    FROM jsonb_each_text($2::jsonb) AS added (name, amount)
)
WHERE run_id = $1

-- name: end_run
-- Once: a run that has ended stays as it is. $1 run, $2 state, $3 error or ''. Returns the run.
UPDATE job_run SET state = $2, error = $3, finished_at = clock_timestamp()
WHERE run_id = $1 AND state = 'running'
RETURNING figures, extract(epoch FROM finished_at - started_at)::double precision AS duration_seconds

-- name: list_runs
-- Newest first. $1 job or NULL, $2 at most so many.
SELECT run_id, job, job_key, dry_run, requested_by, state, figures, error, started_at, finished_at,
       extract(epoch FROM coalesce(finished_at, now()) - started_at)::double precision AS duration_seconds
FROM job_run
WHERE $1::text IS NULL OR job = $1
ORDER BY run_id DESC
LIMIT $2
