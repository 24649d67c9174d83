-- Grants that are over: what is left of them leaves the balance, as a ledger entry each.
-- Lock order everywhere: account, then holds, then grants.

-- name: accounts_with_expired_grants
-- The next accounts, in lock order, so that a run walks through them once. $1 after this account,
-- $2 at most so many.
SELECT DISTINCT account_id
FROM credit_grant
WHERE NOT spent AND expires_at <= now() AND account_id > $1
ORDER BY account_id
LIMIT $2

-- name: preview
-- What a run would book, by nobody: Grants and micro-credits that are over and not booked.
SELECT count(*) AS grants, count(DISTINCT account_id) AS accounts,
       coalesce(sum(remaining_micro), 0)::bigint AS expired_micro
FROM credit_grant
WHERE NOT spent AND expires_at <= now()

-- name: expire_grants
-- Empties every grant of these accounts that is over. Idempotent: an emptied grant is spent.
-- $1 account ids, locked by a statement before this one; $2 who, as the actor of the entries.
WITH over AS (
    SELECT grant_id, account_id, remaining_micro,
           sum(remaining_micro) OVER (PARTITION BY account_id ORDER BY expires_at, grant_id)::bigint
               AS gone_micro
    FROM credit_grant
    WHERE account_id = ANY($1::text[]) AND NOT spent AND expires_at <= now()
), emptied AS (
    UPDATE credit_grant SET remaining_micro = 0, spent = true
    FROM over
    WHERE credit_grant.grant_id = over.grant_id
), noted AS (
    INSERT INTO grant_draw (grant_id, cause, amount_micro)
    SELECT grant_id, 'expiry:' || grant_id, remaining_micro FROM over
), booked AS (
    INSERT INTO credit_transaction (account_id, type, amount_micro, balance_after_micro, grant_id,
                                    actor, reason)
    SELECT account_id, 'EXPIRY', -remaining_micro, balance_micro - gone_micro, grant_id, $2,
           'the grant has expired'
    FROM over JOIN account USING (account_id)
    ORDER BY account_id, gone_micro
), lowered AS (
    UPDATE account SET balance_micro = balance_micro - total_micro
    FROM (SELECT account_id, sum(remaining_micro)::bigint AS total_micro FROM over GROUP BY account_id) AS sums
    WHERE account.account_id = sums.account_id
)
SELECT count(*) AS grants, count(DISTINCT account_id) AS accounts,
       coalesce(sum(remaining_micro), 0)::bigint AS expired_micro
FROM over
