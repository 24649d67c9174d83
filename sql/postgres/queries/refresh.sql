-- The monthly allowance, for thousands of accounts in one statement.
-- The set-based form of core/refresh.py; a property test holds the two equal.
-- Lock order: every allowance of the transaction (sorted; a run that is not by name leaves those that
-- another one holds to it), account (sorted), grants.

-- name: enrol
-- Of the next accounts, by id, those without an allowance yet get one. A young account is due 30 days after
-- it was created; older ones are spread over the next 30 days by their id, so that a first deployment does
-- not refresh all at once. Idempotent. $1 after this account, $2 at most so many are looked at.
-- Returns the last account looked at (NULL: there was none) and how many were enrolled.
WITH looked_at AS (
    SELECT account_id, created_at FROM account WHERE account_id > $1 ORDER BY account_id LIMIT $2
), enrolled AS (
    INSERT INTO allowance (account_id, due_at)
    SELECT account_id,
           CASE WHEN created_at + interval '30 days' > now() THEN created_at + interval '30 days'
                ELSE now() + interval '30 days' * ((hashtextextended(account_id, 7) & 1048575) / 1048576.0)
           END
    FROM looked_at
    WHERE NOT EXISTS (SELECT FROM allowance WHERE allowance.account_id = looked_at.account_id)
    ON CONFLICT DO NOTHING
    RETURNING account_id
)
SELECT max(account_id) AS last, (SELECT count(*) FROM enrolled) AS enrolled FROM looked_at

-- name: present
-- The moment until which a run takes what is due.
SELECT now()

-- name: lock_due
-- The next accounts whose refresh is due, in (due_at, account_id) order: a run walks through them once.
-- Accounts that another run has locked are left to it. $1 due until; $2, $3 after this due time and
-- account; $4 at most so many.
SELECT account_id, due_at
FROM allowance
WHERE NOT paused AND due_at <= $1::timestamptz AND (due_at, account_id) > ($2::timestamptz, $3::text)
ORDER BY due_at, account_id
LIMIT $4
FOR NO KEY UPDATE SKIP LOCKED

-- name: lock_these
-- Of these accounts those whose refresh is due and that nobody else has locked. $1 account ids,
-- $2 due until; NULL: due or not, paused or not.
SELECT account_id
FROM allowance
WHERE account_id = ANY($1::text[])
  AND ($2::timestamptz IS NULL OR (NOT paused AND due_at <= $2))
ORDER BY account_id
FOR NO KEY UPDATE SKIP LOCKED

-- name: lock_named
-- These accounts, due or not and paused or not: what somebody else has locked is waited for, in the
-- order of the ids. $1 account ids.
SELECT account_id
FROM allowance
WHERE account_id = ANY($1::text[])
ORDER BY account_id
FOR NO KEY UPDATE

-- name: enrol_these
-- As enrol, for accounts that are asked for by name: due now. Idempotent. $1 account ids.
-- In the order of the ids: two that make the same allowances wait for each other.
INSERT INTO allowance (account_id, due_at)
SELECT account_id, now() FROM account WHERE account_id = ANY($1::text[]) ORDER BY account_id
ON CONFLICT DO NOTHING

-- name: count_due
-- $1 due until (NULL: now). For a dry run: accounts and, by tier, what they would get.
-- $2 tiers, $3 their amounts in micro-credits, pairwise; $4 only these accounts, due or not and paused
-- or not (NULL: all that are due).
SELECT tier, count(*) AS accounts,
       sum(coalesce(custom_micro, amount_micro, 0))::bigint AS amount_micro
FROM account
LEFT JOIN allowance USING (account_id)
LEFT JOIN unnest($2::text[], $3::bigint[]) AS terms (tier, amount_micro) USING (tier)
WHERE CASE WHEN $4::text[] IS NULL THEN NOT paused AND due_at <= coalesce($1::timestamptz, now())
           ELSE account_id = ANY($4) END
GROUP BY tier
ORDER BY tier

-- name: refresh_accounts
-- Refreshes accounts whose allowance and account rows this transaction has locked, each for the period
-- that it is due for. A second refresh of an account and period violates refresh's unique key, and the
-- whole batch with it. One that is not due yet is refreshed for the present moment, and is due 30 days
-- after it. Accounts that get nothing are only moved on.
-- $1 account ids; $2 tiers, $3 their amounts in micro-credits, pairwise; $4 rollover at most; $5 run,
-- $6 actor, $7 reason.
WITH due AS (
    SELECT account_id, tier, balance_micro, overdraft_micro, least(due_at, now()) AS period, preferred_day,
           coalesce(custom_micro, amount_micro, 0) AS amount_micro,
           last.grant_id AS last_id, coalesce(last.remaining_micro, 0) AS left_micro,
           least(coalesce(last.remaining_micro, 0), $4::bigint) AS carried_micro
    FROM unnest($1::text[]) AS wanted (account_id)
    JOIN allowance USING (account_id)
    JOIN account USING (account_id)
    LEFT JOIN unnest($2::text[], $3::bigint[]) AS terms (tier, amount_micro) USING (tier)
    LEFT JOIN LATERAL (
        SELECT latest.grant_id, latest.remaining_micro
        FROM credit_grant AS latest
        WHERE latest.grant_id = allowance.grant_id AND NOT latest.spent
    ) AS last ON true
), given AS (
    SELECT *, left_micro - carried_micro AS replaced_micro,
           amount_micro + carried_micro AS granted_micro,
           least(overdraft_micro, amount_micro + carried_micro) AS repaid_micro
    FROM due
    WHERE amount_micro > 0
), granted AS (
    INSERT INTO credit_grant (account_id, source, granted_by, priority, amount_micro, remaining_micro, spent)
    SELECT account_id, 'refresh', $6, 50, granted_micro, granted_micro - repaid_micro,
           granted_micro = repaid_micro
    FROM given
    RETURNING grant_id, account_id
), emptied AS (
    UPDATE credit_grant SET remaining_micro = 0, spent = true
    FROM given
    WHERE credit_grant.grant_id = given.last_id AND left_micro > 0
), drawn AS (
    INSERT INTO grant_draw (grant_id, cause, amount_micro)
    SELECT last_id, 'refresh:' || $5::bigint, left_micro FROM given WHERE left_micro > 0
    UNION ALL
    SELECT grant_id, 'repay:' || grant_id, repaid_micro
    FROM given JOIN granted USING (account_id) WHERE repaid_micro > 0
), booked AS (
    INSERT INTO credit_transaction (account_id, type, amount_micro, balance_after_micro, grant_id, actor, reason)
    SELECT account_id, 'EXPIRY', -replaced_micro, balance_micro - replaced_micro, last_id, $6,
           'replaced by the next allowance'
    FROM given WHERE replaced_micro > 0
    UNION ALL
    SELECT account_id, 'REFRESH', amount_micro, balance_micro - replaced_micro + amount_micro, grant_id, $6, $7
    FROM given JOIN granted USING (account_id)
), noted AS (
    INSERT INTO refresh (account_id, period, tier, amount_micro, replaced_micro, balance_before_micro,
                         balance_after_micro, grant_id, run_id, actor, reason)
    SELECT account_id, period, tier, amount_micro, replaced_micro, balance_micro,
           balance_micro - replaced_micro + amount_micro, grant_id, $5::bigint, $6, $7
    FROM given JOIN granted USING (account_id)
), raised AS (
    UPDATE account
    SET balance_micro = account.balance_micro - replaced_micro + amount_micro,
        overdraft_micro = account.overdraft_micro - repaid_micro
    FROM given
    WHERE account.account_id = given.account_id
), moved AS (
    UPDATE allowance
    SET due_at = coalesce(chosen.due_at, plain.due_at),
        refreshed_at = CASE WHEN due.amount_micro > 0 THEN now() ELSE refreshed_at END,
        grant_id = coalesce(granted.grant_id, allowance.grant_id)
    FROM due
    LEFT JOIN granted USING (account_id)
    CROSS JOIN LATERAL (
        SELECT due.period + interval '30 days'
               * greatest(1, floor(extract(epoch FROM now() - due.period) / 2592000) + 1) AS due_at
    ) AS plain
    LEFT JOIN LATERAL (
        SELECT day.at AS due_at
        FROM generate_series(-1, 1) AS month
        CROSS JOIN LATERAL (
            SELECT date_trunc('month', plain.due_at) + make_interval(months => month) AS start
        ) AS m
        CROSS JOIN LATERAL (
            SELECT start + make_interval(days => least(
                       due.preferred_day,
                       extract(day FROM start + interval '1 month' - interval '1 day')::integer) - 1)
                   + (plain.due_at - date_trunc('day', plain.due_at)) AS at
        ) AS day
        WHERE due.preferred_day IS NOT NULL AND day.at > now() AND day.at > due.period
        ORDER BY greatest(day.at - plain.due_at, plain.due_at - day.at), day.at
        LIMIT 1
    ) AS chosen ON true
    WHERE allowance.account_id = due.account_id
)
SELECT count(*) AS accounts, count(*) FILTER (WHERE amount_micro > 0) AS refreshed,
       coalesce(sum(amount_micro), 0)::bigint AS amount_micro,
       coalesce(sum(left_micro - carried_micro) FILTER (WHERE amount_micro > 0), 0)::bigint AS replaced_micro
FROM due
