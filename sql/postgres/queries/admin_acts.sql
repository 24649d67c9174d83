-- What an admin sets on an account. Lock order: account first.

-- name: lock_terms
-- The terms of an account, under its lock. No row: no such account. $1 account.
SELECT tier, demo, monthly_cap_micro FROM account WHERE account_id = $1 FOR NO KEY UPDATE

-- name: set_cap
-- Holds for the next decision of the gate. $1 account (locked), $2 micro-credits, NULL for no cap.
UPDATE account SET monthly_cap_micro = $2 WHERE account_id = $1
