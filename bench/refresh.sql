-- What the refresh measurement makes and looks at; see refresh.py.

-- name: make_accounts
-- $1 from, $2 to (inclusive). One of twenty is pro.
INSERT INTO account (account_id, tier)
SELECT 'acct-' || md5(n::text), CASE WHEN n % 20 = 0 THEN 'pro' ELSE 'free' END
FROM generate_series($1::integer, $2::integer) AS n

-- name: make_due
-- Enrols what is not enrolled; from then on every account is due.
INSERT INTO allowance (account_id, due_at)
SELECT account_id, now() - interval '1 minute' FROM account
ON CONFLICT (account_id) DO UPDATE SET due_at = excluded.due_at

-- name: spend
-- Every tenth account has used a quarter of its allowance: booked as one draw and one entry each.
WITH used AS (
    SELECT grant_id, account_id, amount_micro / 4 AS used_micro
    FROM credit_grant WHERE NOT spent AND grant_id % 10 = 0
), burned AS (
    UPDATE credit_grant SET remaining_micro = remaining_micro - used_micro
    FROM used WHERE credit_grant.grant_id = used.grant_id
), drawn AS (
    INSERT INTO grant_draw (grant_id, cause, amount_micro) SELECT grant_id, 'bench', used_micro FROM used
), booked AS (
    INSERT INTO credit_transaction (account_id, type, amount_micro, balance_after_micro, actor)
    SELECT account_id, 'DEDUCT', -used_micro, balance_micro - used_micro, 'bench'
    FROM used JOIN account USING (account_id)
)
UPDATE account SET balance_micro = balance_micro - used_micro
FROM used WHERE account.account_id = used.account_id

-- name: vacuum
-- As autovacuum would have done long before the next allowance is due.
VACUUM ANALYZE

-- name: checkpoint
-- So that no round writes the pages of what was planted for it.
CHECKPOINT

-- name: state
-- $1 key of a run.
SELECT state FROM job_run WHERE job_key = $1

-- name: refreshed
-- So far, in all rounds.
SELECT coalesce(sum((figures ->> 'refreshed')::bigint), 0)::bigint FROM job_run

-- name: verdict
-- Accounts in all, those with another number of refreshes than $1, those whose balance is not exactly
-- their tier's amount, and those whose balance is not the sum of their ledger.
SELECT count(*) AS accounts, count(*) FILTER (WHERE times IS DISTINCT FROM $1) AS refreshed_wrong,
       count(*) FILTER (WHERE balance_micro <> CASE tier WHEN 'pro' THEN 20000000000 ELSE 1000000000 END)
           AS balance_wrong,
       count(*) FILTER (WHERE balance_micro <> booked_micro) AS ledger_wrong
FROM account
LEFT JOIN (SELECT account_id, count(*) AS times FROM refresh GROUP BY account_id) AS r USING (account_id)
LEFT JOIN (SELECT account_id, sum(amount_micro) AS booked_micro
           FROM credit_transaction GROUP BY account_id) AS t USING (account_id)
