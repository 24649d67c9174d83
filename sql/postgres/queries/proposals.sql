-- Gifts that wait for a second admin. Lock order: account, then the proposal.

-- name: given_alone
-- What these names of one person gave the account, or took, within 24 hours without a second one, in
-- micro-credits. Under the account's lock it is exact. $1 account, $2 the names.
SELECT least(coalesce(sum(abs(amount_micro)), 0), 1000000000000000000)::bigint
FROM credit_transaction AS entry
WHERE account_id = $1 AND created_at > now() - interval '24 hours' AND actor = ANY($2)
  AND type IN ('GRANT', 'ADJUSTMENT', 'TOP_UP', 'COUPON')
  AND NOT EXISTS (SELECT FROM credit_proposal WHERE credit_proposal.transaction_id = entry.transaction_id)

-- name: lock_maker
-- Of one person's coupons at the same moment one waits for the other, until the transaction ends. $1 person.
SELECT pg_advisory_xact_lock(hashtext('tollgate coupons of ' || $1::text))

-- name: made_alone
-- What the coupons of these names of one person, made within 24 hours without a second one, can give in
-- all. $1 the names.
SELECT least(coalesce(sum(amount_micro::numeric * coalesce(uses_max, 1)), 0), 1000000000000000000)::bigint
FROM coupon
WHERE created_by = ANY($1) AND kind = 'fixed' AND created_at > now() - interval '24 hours'
  AND NOT EXISTS (SELECT FROM credit_proposal
                  WHERE credit_proposal.kind = 'coupon' AND state = 'approved' AND terms ->> 'code' = coupon.code)

-- name: add_proposal
-- $1 kind, $2 account or NULL, $3 micro-credits, $4 terms as JSON, $5 reason, $6 key or NULL, $7 by whom,
-- $8 request, $9 days until it is over. A key that was used raises unique_violation.
INSERT INTO credit_proposal (kind, account_id, amount_micro, terms, reason, key, proposed_by, request_id,
                             expires_at)
VALUES ($1, $2, $3, $4::jsonb, $5, $6, $7, $8, now() + make_interval(days => $9))
RETURNING proposal_id

-- name: read_proposal
-- $1 its number. One that waits longer than it may is expired, written down or not.
SELECT proposal_id, kind, account_id, amount_micro, terms::text AS terms, reason, key, proposed_by,
       proposed_at, expires_at, decided_by, decided_at, decision, transaction_id,
       CASE WHEN state = 'pending' AND expires_at <= now() THEN 'expired' ELSE state END AS state
FROM credit_proposal
WHERE proposal_id = $1

-- name: find_by_key
-- The proposal that a grant's key stands for. $1 key.
SELECT proposal_id FROM credit_proposal WHERE key = $1

-- name: lock_proposal
-- $1 its number.
SELECT proposal_id FROM credit_proposal WHERE proposal_id = $1 FOR NO KEY UPDATE

-- name: decide
-- $1 the locked, pending proposal, $2 its state from now on, $3 by whom, $4 why, $5 transaction or NULL.
UPDATE credit_proposal
SET state = $2, decided_by = $3, decided_at = now(), decision = $4, transaction_id = $5
WHERE proposal_id = $1 AND state = 'pending'

-- name: list_proposals
-- Newest first. $1 state or NULL, $2 account or NULL, $3 below this number or NULL, $4 at most so many.
SELECT * FROM (
    SELECT proposal_id, kind, account_id, amount_micro, terms::text AS terms, reason, key, proposed_by,
           proposed_at, expires_at, decided_by, decided_at, decision, transaction_id,
           CASE WHEN state = 'pending' AND expires_at <= now() THEN 'expired' ELSE state END AS state
    FROM credit_proposal
) AS proposal
WHERE ($1::text IS NULL OR state = $1)
  AND ($2::text IS NULL OR account_id = $2)
  AND ($3::bigint IS NULL OR proposal_id < $3)
ORDER BY proposal_id DESC
LIMIT $4

-- name: count_pending
-- How many wait for a decision.
SELECT count(*) FROM credit_proposal WHERE state = 'pending' AND expires_at > now()
