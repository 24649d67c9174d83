-- What the API shows of accounts; it decides nothing by it.

-- name: read_profile
-- The account as of now. `over_micro` is what is left of grants whose expiry has passed and is not
-- booked yet; `spent_micro` is this month's (UTC). No row: no such account. $1 account.
SELECT account_id, tier, demo, balance_micro, overdraft_micro, held_micro, monthly_cap_micro, created_at,
       CASE WHEN spend_month >= date_trunc('month', now() AT TIME ZONE 'UTC')::date
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
       sum(CASE WHEN spend_month >= date_trunc('month', now() AT TIME ZONE 'UTC')::date
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

-- name: status_figures
-- The entries of all histories since 30 days ago, by status. Open holds are pending however old they are;
-- a hold failed when it ended without a charge. Charges are counted by the batches that posted them.
-- Reads what was written in that time.
SELECT since,
       (SELECT coalesce(sum(charged), 0) FROM batch_outcome WHERE posted_at >= now() - interval '30 days')::bigint
           + entry.completed AS completed,
       (SELECT count(*) FROM credit_hold WHERE state = 'open') + entry.pending AS pending,
       (SELECT count(*) FROM credit_hold
        WHERE closed_at >= now() - interval '30 days' AND state IN ('released', 'expired'))
           + entry.failed AS failed
FROM (
    SELECT now() - interval '30 days' AS since,
           count(*) FILTER (WHERE status = 'COMPLETED') AS completed,
           count(*) FILTER (WHERE status = 'PENDING') AS pending,
           count(*) FILTER (WHERE status = 'FAILED') AS failed
    FROM credit_transaction
    WHERE created_at >= now() - interval '30 days'
) AS entry

-- name: coupon_figures
-- Coupons that can be used now, and redemptions in all.
SELECT count(*) FILTER (WHERE disabled_at IS NULL AND (expires_at IS NULL OR expires_at > now())
                          AND (uses_max IS NULL OR uses < uses_max)) AS usable_coupons,
       coalesce(sum(uses), 0)::bigint AS redemptions
FROM coupon

-- name: grants_page
-- What can still be drawn, in the order in which it is, after one grant or from the first on. A page
-- goes on behind its last grant also when that was spent meanwhile. $1 account, $2 the last grant of the
-- page before or NULL, $3 at most so many.
SELECT grant_id, source, granted_by, notes, priority, amount_micro, remaining_micro, expires_at,
       created_at, coalesce(expires_at <= now(), false) AS expired
FROM credit_grant
WHERE account_id = $1 AND NOT spent
  AND ($2::bigint IS NULL
       OR (priority, coalesce(expires_at, 'infinity'), created_at, grant_id) >
          (SELECT last.priority, coalesce(last.expires_at, 'infinity'), last.created_at, last.grant_id
           FROM credit_grant AS last WHERE last.grant_id = $2 AND last.account_id = $1))
ORDER BY priority, expires_at, created_at, grant_id
LIMIT $3

-- name: holds_page
-- Newest first. $1 account, $2 only open ones, $3 and $4 time and id of the last hold of the page before
-- or NULL, $5 at most so many.
SELECT hold_id, kind, amount_micro, state, charged_micro, created_at, expires_at, closed_at, closed_by
FROM credit_hold
WHERE account_id = $1 AND (NOT $2::boolean OR state = 'open')
  AND created_at <= coalesce($3::timestamptz, 'infinity')
  AND ($3::timestamptz IS NULL OR (created_at, hold_id) < ($3, $4::text COLLATE "C"))
ORDER BY created_at DESC, hold_id DESC
LIMIT $5

-- name: open_holds_page
-- Of all accounts, those first that nobody touched for longest. A hold that is touched between two pages
-- is on both. $1 and $2 time and id of the last hold of the page before or NULL, $3 at most so many.
SELECT hold_id, account_id, kind, amount_micro, actor, created_at, touched_at, expires_at
FROM credit_hold
WHERE state = 'open'
  AND touched_at >= coalesce($1::timestamptz, '-infinity')
  AND ($1::timestamptz IS NULL OR (touched_at, hold_id) > ($1, $2::text COLLATE "C"))
ORDER BY touched_at, hold_id
LIMIT $3
