-- What the measurement of the gate prepares and counts.

-- name: make_accounts
-- $1 so many, with a million credits each.
WITH made AS (
    INSERT INTO account (account_id, tier, balance_micro)
    SELECT 'bench-' || n, 'free', 1000000000000 FROM generate_series(1, $1::integer) AS n
    RETURNING account_id
), granted AS (
    INSERT INTO credit_grant (account_id, source, granted_by, notes, priority, amount_micro,
                              remaining_micro, spent)
    SELECT account_id, 'grant', 'bench', '', 100, 1000000000000, 1000000000000, false FROM made
    RETURNING account_id, grant_id
)
INSERT INTO credit_transaction (account_id, type, amount_micro, balance_after_micro, grant_id, actor, reason)
SELECT account_id, 'GRANT', 1000000000000, 1000000000000, grant_id, 'bench', '' FROM granted

-- name: holds
-- Holds that stand, and what the accounts say is held.
SELECT (SELECT count(*) FROM credit_hold WHERE state = 'open') AS holds,
       (SELECT coalesce(sum(amount_micro), 0) FROM credit_hold WHERE state = 'open')::bigint AS promised_micro,
       (SELECT sum(held_micro) FROM account)::bigint AS held_micro
