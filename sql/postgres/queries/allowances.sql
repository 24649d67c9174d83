-- Allowances one at a time: looked at, set, taken back; and what refreshes did.
-- Lock order: allowance, account, grants.

-- name: read_allowance
-- $1 account. No row: no such account; due_at NULL: not enrolled yet.
SELECT account.account_id, tier, due_at, refreshed_at, coalesce(paused, false) AS paused, preferred_day,
       custom_micro, coalesce(latest.amount_micro, 0) AS granted_micro,
       coalesce(latest.remaining_micro, 0) AS remaining_micro
FROM account
LEFT JOIN allowance USING (account_id)
LEFT JOIN credit_grant AS latest ON latest.grant_id = allowance.grant_id
WHERE account.account_id = $1

-- name: enrol
-- An account that is not enrolled yet, as the refresh job would. $1 account.
INSERT INTO allowance (account_id, due_at)
SELECT account_id, greatest(now(), created_at + interval '30 days') FROM account WHERE account_id = $1
ON CONFLICT DO NOTHING

-- name: lock_allowance
-- The first statement of every change. $1 account.
SELECT paused, preferred_day, custom_micro, grant_id, due_at
FROM allowance WHERE account_id = $1
FOR NO KEY UPDATE

-- name: set_allowance
-- $1 account (locked), $2 paused, $3 preferred day or NULL, $4 own amount or NULL.
UPDATE allowance SET paused = $2, preferred_day = $3, custom_micro = $4 WHERE account_id = $1

-- name: history
-- Newest first. $1 account or NULL, $2 run or NULL, $3 below this number or NULL, $4 at most so many.
SELECT refresh_id, account_id, period, tier, amount_micro, replaced_micro, balance_before_micro,
       balance_after_micro, run_id, actor, reason, refreshed_at, undone_at, undone_by
FROM refresh
WHERE ($1::text IS NULL OR account_id = $1) AND ($2::bigint IS NULL OR run_id = $2)
  AND ($3::bigint IS NULL OR refresh_id < $3)
ORDER BY refresh_id DESC
LIMIT $4

-- name: statistics
-- Of all allowances, of the refreshes of the last 30 days, and of the refresh job's runs in that time
-- (dry runs, and runs by hand for a few accounts, are none of the job's; nor is one that a later run made
-- needless, unless it had begun before it was killed).
WITH allowances AS (
    SELECT count(*) AS enrolled, count(*) FILTER (WHERE paused) AS paused,
           count(*) FILTER (WHERE NOT paused AND due_at <= now()) AS due,
           min(due_at) FILTER (WHERE NOT paused AND due_at > now()) AS next_due_at
    FROM allowance
), given AS (
    SELECT count(*) AS refreshes, count(undone_at) AS undone,
           coalesce(sum(amount_micro), 0)::bigint AS amount_micro,
           coalesce(sum(replaced_micro), 0)::bigint AS replaced_micro,
           max(refreshed_at) AS latest_at
    FROM refresh WHERE refreshed_at > now() - interval '30 days'
), runs AS (
    SELECT count(*) AS runs, count(*) FILTER (WHERE state = 'failed') AS runs_failed,
           coalesce(sum((figures ->> 'refreshed')::bigint), 0)::bigint AS refreshed,
           coalesce(sum((figures ->> 'failed')::bigint), 0)::bigint AS failed,
           avg(extract(epoch FROM finished_at - started_at))::double precision AS run_seconds_mean,
           max(extract(epoch FROM finished_at - started_at))::double precision AS run_seconds_max
    FROM job_run
    WHERE job = 'refresh' AND NOT dry_run AND state <> 'running' AND (NOT figures ? 'superseded' OR figures ? 'accounts')
      AND job_key NOT LIKE 'refresh:now:%' AND started_at > now() - interval '30 days'
)
SELECT * FROM allowances, given, runs

-- name: account_of
-- Whose refresh it is; never changes. $1 refresh.
SELECT account_id FROM refresh WHERE refresh_id = $1

-- name: lock_refresh
-- What is to be taken back; its allowance and account are locked. $1 refresh.
SELECT refresh.account_id, refresh.amount_micro, replaced_micro, refresh.grant_id, undone_at,
       credit_grant.amount_micro AS granted_micro, remaining_micro
FROM refresh
JOIN credit_grant USING (grant_id)
WHERE refresh_id = $1
FOR NO KEY UPDATE OF refresh

-- name: empty_grant
-- Takes what is left of a grant out of the balance of its account (locked). $1 grant, $2 cause.
WITH was AS (
    SELECT grant_id, account_id, remaining_micro FROM credit_grant WHERE grant_id = $1 AND NOT spent
), emptied AS (
    UPDATE credit_grant SET remaining_micro = 0, spent = true
    FROM was WHERE credit_grant.grant_id = was.grant_id
), noted AS (
    INSERT INTO grant_draw (grant_id, cause, amount_micro) SELECT grant_id, $2, remaining_micro FROM was
)
UPDATE account SET balance_micro = balance_micro - remaining_micro
FROM was WHERE account.account_id = was.account_id

-- name: book_reversal
-- After the balance has moved. $1 account, $2 signed amount, $3 grant, $4 actor, $5 reason, $6 metadata.
INSERT INTO credit_transaction (account_id, type, amount_micro, balance_after_micro, grant_id, actor,
                                reason, metadata)
SELECT account_id, 'REVERSAL', $2, balance_micro, $3, $4, $5, $6 FROM account WHERE account_id = $1

-- name: give_back
-- The remainder that a refresh had replaced, as a grant of an allowance's priority; overdraft is repaid
-- first. $1 account (locked), $2 amount in micro-credits (> 0), $3 actor, $4 notes. Returns the grant.
WITH due AS (
    SELECT account_id, least(overdraft_micro, $2::bigint) AS repaid_micro FROM account WHERE account_id = $1
), granted AS (
    INSERT INTO credit_grant (account_id, source, granted_by, notes, priority, amount_micro,
                              remaining_micro, spent)
    SELECT account_id, 'reversal', $3, $4, 50, $2, $2 - repaid_micro, $2 = repaid_micro FROM due
    RETURNING grant_id, account_id
), noted AS (
    INSERT INTO grant_draw (grant_id, cause, amount_micro)
    SELECT grant_id, 'repay:' || grant_id, repaid_micro
    FROM granted JOIN due USING (account_id) WHERE repaid_micro > 0
), raised AS (
    UPDATE account SET balance_micro = balance_micro + $2, overdraft_micro = overdraft_micro - repaid_micro
    FROM due WHERE account.account_id = due.account_id
)
SELECT grant_id FROM granted

-- name: mark_undone
-- $1 refresh, $2 by whom, $3 the grant that holds the last allowance's remainder again, or NULL.
WITH undone AS (
    UPDATE refresh SET undone_at = now(), undone_by = $2 WHERE refresh_id = $1 RETURNING account_id
)
UPDATE allowance SET grant_id = $3 FROM undone WHERE allowance.account_id = undone.account_id
