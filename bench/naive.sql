-- The naive design's statements: one transaction for each event, into the same tables.

-- name: open_account
-- With credits that no run uses up. $1 account, $2 tier.
WITH fresh AS (
    INSERT INTO account (account_id, tier, balance_micro) VALUES ($1, $2, 1000000000000)
    RETURNING account_id
)
INSERT INTO credit_grant (account_id, source, granted_by, amount_micro, remaining_micro)
SELECT account_id, 'welcome', 'bench', 1000000000000, 1000000000000 FROM fresh

-- name: charge
-- One event; no row when it was charged before. Values in the order of core.batch.PLAIN_COLUMNS.
INSERT INTO charge (account_id, event_id, partition, epoch, "offset", occurred_at, payload_hash,
                    price_version, rule, rated_micro, amount_micro, balance_after_micro, tier, demo,
                    source, action, provider, model, power_level, input_tokens, cache_read_tokens,
                    cache_write_tokens, output_tokens, reasoning_tokens, other_meters, quantity,
                    own_key, hold_id, resource_id, attributes)
VALUES ($1, $2, $3, $4, $5, $6, $7, $8, $9, $10, $11, $12, $13, $14, $15, $16, $17, $18, $19, $20,
        $21, $22, $23, $24, $25, $26, $27, $28, $29, $30)
ON CONFLICT DO NOTHING
RETURNING event_id

-- name: draw
-- $1 account, $2 micro-credits.
UPDATE credit_grant SET remaining_micro = remaining_micro - $2 WHERE account_id = $1

-- name: move_balance
-- $1 account, $2 micro-credits.
UPDATE account SET balance_micro = balance_micro - $2 WHERE account_id = $1

-- name: charged
-- How far it is.
SELECT count(*) FROM charge
