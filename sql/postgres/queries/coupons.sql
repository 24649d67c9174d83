-- Coupons: made by admins, redeemed by accounts. Lock order: account, then the coupon.

-- name: add_coupon
-- No row is returned when the code is taken. $1 code, $2 kind, $3 amount, $4 percent in millionths,
-- $5 uses in all or NULL, $6 uses per account, $7 days that its grant lives or NULL, $8 expiry or NULL,
-- $9 by whom.
INSERT INTO coupon (code, kind, amount_micro, percent_micro, uses_max, account_uses_max, grant_days,
                    expires_at, created_by)
VALUES ($1, $2, $3, $4, $5, $6, $7, $8, $9)
ON CONFLICT DO NOTHING
RETURNING created_at

-- name: lock_coupon
-- With how often the account has used it. Whoever holds this row is the only one who uses the coupon;
-- the count is of a statement of its own, so that it sees the uses committed before the lock.
-- $1 code.
SELECT kind, amount_micro, percent_micro, uses, uses_max, account_uses_max, grant_days, expires_at,
       disabled_at IS NOT NULL AS disabled, now() AS now,
       now() + make_interval(days => grant_days) AS grant_expires_at
FROM coupon
WHERE code = $1
FOR NO KEY UPDATE

-- name: count_uses
-- $1 code, $2 account.
SELECT count(*) FROM coupon_redemption WHERE code = $1 AND account_id = $2

-- name: use_coupon
-- $1 code, $2 account, $3 the use's number for the account, $4 base, $5 amount, $6 transaction.
WITH used AS (
    UPDATE coupon SET uses = uses + 1 WHERE code = $1
)
INSERT INTO coupon_redemption (code, account_id, use, base_micro, amount_micro, transaction_id)
VALUES ($1, $2, $3, $4, $5, $6)

-- name: disable_coupon
-- Idempotent; what was redeemed stays. No row: there is no such coupon. $1 code.
UPDATE coupon SET disabled_at = coalesce(disabled_at, now()) WHERE code = $1
RETURNING code, disabled_at

-- name: list_coupons
-- Newest first. $1 only those that can be used now, $2 and $3 time and code of the last coupon of the
-- page before or NULL, $4 at most so many.
SELECT code, kind, amount_micro, percent_micro, uses, uses_max, account_uses_max, grant_days,
       expires_at, disabled_at, created_by, created_at
FROM coupon
WHERE (NOT $1::boolean
       OR (disabled_at IS NULL AND (expires_at IS NULL OR expires_at > now())
           AND (uses_max IS NULL OR uses < uses_max)))
  AND ($2::timestamptz IS NULL OR (created_at, code) < ($2, $3::text COLLATE "C"))
ORDER BY created_at DESC, code DESC
LIMIT $4
