-- The gate: checks, holds, settlements and deductions of one account, each in one short transaction.
-- Lock order everywhere: account, then holds, then grants. The account's lock is what makes two
-- holds wait for each other; everything that the decision reads is read after it.

-- name: read_funds
-- For a check: a fresh read without a lock, and whether the server takes changes: a standby's copy
-- may be old, and work that a hold could not follow must not start. No row: no such account.
-- $1 account.
SELECT NOT pg_is_in_recovery() AND current_setting('transaction_read_only') = 'off' AS writable,
       balance_micro, held_micro, monthly_cap_micro, tier, demo,
       CASE WHEN spend_month >= date_trunc('month', now() AT TIME ZONE 'UTC')::date
            THEN spend_micro ELSE 0 END AS spent_micro,
       coalesce((SELECT sum(remaining_micro) FROM credit_grant
                 WHERE credit_grant.account_id = $1 AND NOT spent AND expires_at <= now()), 0)::bigint
           AS over_micro
FROM account
WHERE account_id = $1

-- name: lock_funds
-- The first statement of every change. $1 account.
SELECT balance_micro, held_micro, monthly_cap_micro, tier, demo,
       CASE WHEN spend_month >= date_trunc('month', now() AT TIME ZONE 'UTC')::date
            THEN spend_micro ELSE 0 END AS spent_micro
FROM account
WHERE account_id = $1
FOR NO KEY UPDATE

-- name: read_reserves
-- After the lock, in a statement of its own: sees everything that was committed before the lock
-- was given. $1 account, $2 a hold's id or NULL.
SELECT coalesce((SELECT sum(remaining_micro) FROM credit_grant
                 WHERE credit_grant.account_id = $1 AND NOT spent AND expires_at <= now()), 0)::bigint
           AS over_micro,
       (SELECT count(*) FROM credit_hold WHERE credit_hold.account_id = $1 AND state = 'open')
           AS open_holds,
       hold.hold_id, hold.kind, hold.amount_micro, hold.state, hold.charged_micro, hold.usage,
       hold.created_at, hold.expires_at, hold.actor
FROM (SELECT 1) AS one
LEFT JOIN credit_hold AS hold ON hold.hold_id = $2 AND hold.account_id = $1

-- name: hold_at_once
-- All of a hold in one statement, a transaction of its own: see the function of that name. A NULL:
-- nothing was done, and somebody has to say why. $1 hold, $2 account, $3 amount in micro-credits,
-- $4 kind, $5 actor, $6 metadata, $7 lives so many seconds, $8 minimum balance in micro-credits,
-- $9 open holds at most, $10 cap of an account without one of its own, or NULL; then the key or NULLs:
-- $11 caller, $12 key, $13 operation, $14 body hash.
SELECT hold_at_once($1, $2, $3, $4, $5, $6, $7, $8, $9, $10, $11, $12, $13, $14) AS reply

-- name: add_hold
-- Reserves. No row is returned when the id is taken, whoever has it; nothing is reserved then.
-- $1 hold, $2 account, $3 amount in micro-credits, $4 kind, $5 actor, $6 metadata, $7 lives so many
-- seconds.
WITH made AS (
    INSERT INTO credit_hold (hold_id, account_id, amount_micro, kind, actor, metadata, expires_at)
    VALUES ($1, $2, $3, $4, $5, $6, now() + make_interval(secs => $7::double precision))
    ON CONFLICT DO NOTHING
    RETURNING expires_at, created_at
), reserved AS (
    UPDATE account SET held_micro = held_micro + $3 WHERE account_id = $2 AND EXISTS (SELECT FROM made)
)
SELECT expires_at, created_at FROM made

-- name: extend_hold
-- $1 hold, $2 account (locked, the hold is open), $3 more micro-credits (may be 0), $4 usage so far or
-- NULL to leave it, $5 lives so many seconds from now on.
WITH extended AS (
    UPDATE credit_hold
    SET amount_micro = amount_micro + $3, usage = coalesce($4, usage), touched_at = now(),
        expires_at = greatest(expires_at, now() + make_interval(secs => $5::double precision))
    WHERE hold_id = $1 AND account_id = $2 AND state = 'open'
    RETURNING amount_micro, expires_at
), reserved AS (
    UPDATE account SET held_micro = held_micro + $3 WHERE account_id = $2 AND EXISTS (SELECT FROM extended)
)
SELECT amount_micro, expires_at FROM extended

-- name: close_hold
-- Gives the reserve back, once: no row when the hold is not open any more. What was charged is
-- booked by post_charge. $1 hold, $2 account (locked), $3 state, $4 charged or NULL, $5 by whom.
WITH closed AS (
    UPDATE credit_hold
    SET state = $3, charged_micro = $4, closed_at = now(), touched_at = now(), closed_by = $5
    WHERE hold_id = $1 AND account_id = $2 AND state = 'open'
    RETURNING amount_micro
), freed AS (
    UPDATE account SET held_micro = held_micro - closed.amount_micro
    FROM closed WHERE account_id = $2
)
SELECT amount_micro FROM closed

-- name: post_charge
-- The ledger entry of a deduction or a settlement by call, after burn_down moved the balance.
-- $1 account, $2 type, $3 signed amount, $4 hold or NULL, $5 event or NULL, $6 actor, $7 reason,
-- $8 metadata.
INSERT INTO credit_transaction (account_id, type, amount_micro, balance_after_micro, hold_id, event_id,
                                actor, reason, metadata)
SELECT $1, $2, $3, balance_micro, $4, $5, $6, $7, $8 FROM account WHERE account_id = $1
RETURNING transaction_id, balance_after_micro

-- name: not_spent
-- What burn_down took just now was no spending: a cap does not count it. $1 account, $2 micro-credits.
UPDATE account SET spend_micro = spend_micro - $2
WHERE account_id = $1 AND spend_month = date_trunc('month', now() AT TIME ZONE 'UTC')::date

-- name: read_hold
-- $1 hold, $2 account: another account's hold is no hold.
SELECT hold_id, kind, amount_micro, state, charged_micro, usage, created_at, expires_at, closed_at, closed_by
FROM credit_hold
WHERE hold_id = $1 AND account_id = $2
