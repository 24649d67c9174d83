-- Accounts one at a time: looked at, created, changed, and given credits.
-- Lock order everywhere: account, then holds, then grants.

-- name: read_account
-- $1 account. With the number of its open holds, this month's spend (UTC), and what is left of grants
-- that are over and not booked.
SELECT account_id, tier, demo, balance_micro, overdraft_micro, held_micro, monthly_cap_micro, created_at,
       CASE WHEN spend_month >= date_trunc('month', now() AT TIME ZONE 'UTC')::date
            THEN spend_micro ELSE 0 END AS spent_micro,
       coalesce((SELECT sum(remaining_micro) FROM credit_grant
                 WHERE credit_grant.account_id = $1 AND NOT spent AND expires_at <= now()), 0)::bigint
           AS over_micro,
       (SELECT count(*) FROM credit_hold WHERE credit_hold.account_id = $1 AND state = 'open') AS open_holds
FROM account
WHERE account_id = $1

-- name: read_allowance
-- No row: the account is not enrolled. $1 account.
SELECT due_at, refreshed_at, paused, preferred_day, custom_micro
FROM allowance
WHERE account_id = $1

-- name: read_last_entries
-- The newest ledger entries of an account, charges and transactions together, newest first.
-- $1 account, $2 at most so many.
SELECT at, kind, amount_micro, balance_after_micro, reference, detail
FROM (
    (SELECT posted_at AS at, 'CHARGE' AS kind, -amount_micro AS amount_micro, balance_after_micro,
            event_id AS reference, rule AS detail, epoch AS place, "offset" AS within
     FROM charge
     WHERE account_id = $1
     ORDER BY posted_at DESC, epoch DESC, "offset" DESC
     LIMIT $2)
    UNION ALL
    (SELECT created_at, type, amount_micro, balance_after_micro,
            coalesce(idempotency_key, transaction_id::text), reason, 0, transaction_id
     FROM credit_transaction
     WHERE account_id = $1
     ORDER BY created_at DESC, transaction_id DESC
     LIMIT $2)
) AS entry
ORDER BY at DESC, place DESC, within DESC
LIMIT $2

-- name: read_tiers
-- The tiers that the price book in force knows; none when no book was published.
SELECT jsonb_object_keys(document -> 'tiers') AS tier
FROM (
    SELECT document FROM price_version
    WHERE effective_from <= now()
    ORDER BY effective_from DESC, price_version DESC
    LIMIT 1
) AS in_force
ORDER BY tier

-- name: create_account
-- An account without credits. Idempotent: no row is returned when it exists.
-- $1 account, $2 tier, $3 demo.
INSERT INTO account (account_id, tier, demo) VALUES ($1, $2, $3)
ON CONFLICT DO NOTHING
RETURNING account_id

-- name: change_account
-- $1 account, $2 tier, $3 demo: NULL leaves as is. Holds from the next batch on; what was charged
-- stays charged.
UPDATE account SET tier = coalesce($2, tier), demo = coalesce($3, demo)
WHERE account_id = $1
RETURNING account_id, tier, demo

-- name: lock_account
-- The first statement of everything that moves credits. $1 account.
SELECT balance_micro, overdraft_micro FROM account WHERE account_id = $1 FOR NO KEY UPDATE

-- name: find_by_key
-- The transaction that an idempotency key stands for. $1 key.
SELECT entry.transaction_id, entry.account_id, entry.type, entry.amount_micro, entry.balance_after_micro, entry.grant_id,
       credit_grant.priority, credit_grant.expires_at,
       credit_grant.amount_micro - coalesce(repaid.amount_micro, 0) AS remaining_micro,
       coalesce(repaid.amount_micro, 0) AS repaid_micro
FROM credit_transaction AS entry
LEFT JOIN credit_grant USING (grant_id)
LEFT JOIN grant_draw AS repaid
    ON repaid.grant_id = entry.grant_id AND repaid.cause = 'repay:' || entry.grant_id
       AND repaid.cause LIKE 'repay:%' -- what the index grant_draw_repaid holds
WHERE idempotency_key = $1

-- name: post_grant
-- $1 account, $2 source, $3 by whom, $4 notes, $5 priority, $6 amount, $7 what is left after the
-- overdraft was repaid, $8 expiry or NULL. Amounts in micro-credits.
INSERT INTO credit_grant (account_id, source, granted_by, notes, priority, amount_micro,
                          remaining_micro, spent, expires_at)
VALUES ($1, $2, $3, $4, $5, $6, $7::bigint, $7::bigint = 0, $8)
RETURNING grant_id

-- name: post_repayment
-- The part of a new grant that paid overdraft. $1 grant, $2 cause, $3 amount in micro-credits (> 0).
INSERT INTO grant_draw (grant_id, cause, amount_micro) VALUES ($1, $2, $3)

-- name: raise_balance
-- $1 account (locked), $2 amount in micro-credits, $3 the overdraft that is left. Returns the balance.
UPDATE account SET balance_micro = balance_micro + $2, overdraft_micro = $3
WHERE account_id = $1
RETURNING balance_micro

-- name: post_transaction
-- $1 account, $2 type, $3 amount, $4 balance after, $5 grant, $6 actor, $7 reason, $8 idempotency
-- key or NULL, $9 metadata. A key that was used raises unique_violation. Returns the entry's number.
INSERT INTO credit_transaction (account_id, type, amount_micro, balance_after_micro, grant_id,
                                actor, reason, idempotency_key, metadata)
VALUES ($1, $2, $3, $4, $5, $6, $7, $8, $9)
RETURNING transaction_id
