-- What the API shows of accounts; it decides nothing by it.

-- name: read_profile
-- The account as of now. `over_micro` is what is left of grants whose expiry has passed and is not
-- booked yet; `spent_micro` is this month's (UTC). No row: no such account. $1 account.
SELECT account_id, tier, demo, balance_micro, overdraft_micro, held_micro, monthly_cap_micro, created_at,
       CASE WHEN spend_month = date_trunc('month', now() AT TIME ZONE 'UTC')::date
            THEN spend_micro ELSE 0 END AS spent_micro,
       coalesce((SELECT sum(remaining_micro) FROM credit_grant
                 WHERE credit_grant.account_id = $1 AND NOT spent AND expires_at <= now()), 0)::bigint
           AS over_micro,
       (SELECT count(*) FROM credit_hold WHERE credit_hold.account_id = $1 AND state = 'open') AS open_holds,
       now() AS as_of
FROM account
WHERE account_id = $1

-- name: tier_figures
-- All accounts by tier, with what they spent this month (UTC). Reads the whole table of accounts.
SELECT tier, count(*) AS accounts, count(*) FILTER (WHERE demo) AS demo_accounts,
       count(*) FILTER (WHERE overdraft_micro > 0) AS overdrawn_accounts,
       sum(balance_micro) AS balance_micro, sum(held_micro) AS held_micro,
       sum(overdraft_micro) AS overdraft_micro,
       sum(CASE WHEN spend_month = date_trunc('month', now() AT TIME ZONE 'UTC')::date
                THEN spend_micro ELSE 0 END) AS spent_micro
FROM account
GROUP BY tier
ORDER BY tier

-- name: hold_figures
-- The open holds, and when the one that was touched longest ago was.
SELECT count(*) AS open_holds, count(*) FILTER (WHERE kind = 'session') AS open_sessions,
       min(touched_at) AS oldest_touched_at
FROM credit_hold
WHERE state = 'open'

-- name: coupon_figures
-- Coupons that can be used now, and redemptions in all.
SELECT count(*) FILTER (WHERE disabled_at IS NULL AND (expires_at IS NULL OR expires_at > now())
                          AND (uses_max IS NULL OR uses < uses_max)) AS usable_coupons,
       coalesce(sum(uses), 0)::bigint AS redemptions
FROM coupon
