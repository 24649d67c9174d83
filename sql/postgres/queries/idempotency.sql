-- One effect for each idempotency key: the reply is stored in the transaction that has the effect.

-- name: find_reply
-- $1 caller, $2 key.
SELECT operation, body_hash, response FROM idempotency_key WHERE caller = $1 AND key = $2

-- name: keep_reply
-- A key that another transaction committed meanwhile raises unique_violation: everything is undone
-- and done again, and then the reply is found. $1 caller, $2 key, $3 operation, $4 body hash,
-- $5 response.
INSERT INTO idempotency_key (caller, key, operation, body_hash, response)
VALUES ($1, $2, $3, $4, $5)
