-- An analyst's usual questions. {since:Date} and {until:Date} are the first and the last day (UTC).
-- Run one with `tollgate query --saved NAME`; docs/querying.md shows what each answers.

-- name: top_accounts
-- Who uses most, and on how many days.
SELECT account_id, sum(credits) AS credits, sum(events) AS events, sum(tokens) AS tokens,
       uniqExact(day) AS active_days
FROM usage_by_day
WHERE day BETWEEN {since:Date} AND {until:Date} AND NOT demo
GROUP BY account_id
ORDER BY credits DESC, account_id
LIMIT 10

-- name: models
-- What each model costs, and what a million of its tokens costs on average.
SELECT provider, model, sum(credits) AS credits, sum(events) AS events, sum(tokens) AS tokens,
       round(toFloat64(credits) * 1000000 / toFloat64(tokens), 2) AS credits_per_million_tokens
FROM usage_by_day
WHERE day BETWEEN {since:Date} AND {until:Date} AND NOT demo AND model != ''
GROUP BY provider, model
ORDER BY credits DESC, provider, model

-- name: actions
-- Average, smallest and largest charge of each type of action.
SELECT action, count() AS events, round(avg(credits), 6) AS average, min(credits) AS smallest,
       max(credits) AS largest, round(quantile(0.95)(toFloat64(credits)), 6) AS p95
FROM usage
WHERE day BETWEEN {since:Date} AND {until:Date} AND NOT demo
GROUP BY action
ORDER BY events DESC, action

-- name: outliers
-- Charges far above what their action usually costs: over the third quartile by three times the span
-- between the quartiles.
WITH usual AS (
    SELECT action, quantileExact(0.25)(credits) AS low, quantileExact(0.75)(credits) AS high
    FROM usage
    WHERE day BETWEEN {since:Date} AND {until:Date} AND NOT demo
    GROUP BY action
)
SELECT occurred_at, account_id, event_id, action, model, credits, high AS third_quartile
FROM usage INNER JOIN usual USING (action)
WHERE day BETWEEN {since:Date} AND {until:Date} AND NOT demo AND credits > high + 3 * (high - low)
ORDER BY credits DESC, event_id
LIMIT 20

-- name: days
-- Usage of each day over all accounts.
SELECT day, sum(credits) AS credits, sum(events) AS events, sum(tokens) AS tokens,
       uniqExact(account_id) AS accounts
FROM usage_by_day
WHERE day BETWEEN {since:Date} AND {until:Date} AND NOT demo
GROUP BY day
ORDER BY day

-- name: account_days
-- Each account's days by provider, model and action.
SELECT account_id, day, provider, model, action, sum(credits) AS credits, sum(events) AS events
FROM usage_by_day
WHERE day BETWEEN {since:Date} AND {until:Date} AND NOT demo
GROUP BY account_id, day, provider, model, action
ORDER BY account_id, day, credits DESC, model, action
LIMIT 1000

-- name: weeks
-- A report by week (from Monday), with the change against the week before.
SELECT toMonday(day) AS week, sum(credits) AS credits, sum(events) AS events,
       uniqExact(account_id) AS accounts,
       credits - lagInFrame(credits, 1, credits) OVER (ORDER BY week) AS change
FROM usage_by_day
WHERE day BETWEEN {since:Date} AND {until:Date} AND NOT demo
GROUP BY week
ORDER BY week

-- name: months
-- A report by month and action.
SELECT toStartOfMonth(day) AS month, action, sum(credits) AS credits, sum(events) AS events
FROM usage_by_day
WHERE day BETWEEN {since:Date} AND {until:Date} AND NOT demo
GROUP BY month, action
ORDER BY month, credits DESC, action

-- name: forecast
-- The days seen so far as a straight line, and what it says for the next 7 and 30 days after `until`.
WITH line AS (
    SELECT simpleLinearRegression(n, micro) AS fitted, max(n) AS last
    FROM (
        SELECT toFloat64(dateDiff('day', {since:Date}, day)) AS n, toFloat64(sum(credits)) AS micro
        FROM usage_by_day
        WHERE day BETWEEN {since:Date} AND {until:Date} AND NOT demo
        GROUP BY day
    )
)
SELECT days, round(arraySum(arrayMap(d -> greatest(0, fitted.1 * (last + d) + fitted.2),
                                     range(1, days + 1))), 2) AS credits
FROM line ARRAY JOIN [7, 30] AS days
ORDER BY days

-- name: demo
-- What demo accounts would have paid.
SELECT account_id, sum(events) AS events, sum(credits) AS credits, sum(list_credits) AS list_credits
FROM usage_by_day
WHERE day BETWEEN {since:Date} AND {until:Date} AND demo
GROUP BY account_id
ORDER BY list_credits DESC, account_id

-- name: balances
-- Everything that moved an account's credits: grants and the like, less usage.
SELECT account_id, sum(given) AS given, sum(used) AS used, given - used AS moved
FROM (
    SELECT account_id, sum(credits) AS given, toDecimal128(0, 6) AS used
    FROM credits_by_day
    WHERE day BETWEEN {since:Date} AND {until:Date} AND status = 'COMPLETED'
    GROUP BY account_id
    UNION ALL
    SELECT account_id, toDecimal128(0, 6), sum(credits)
    FROM usage_by_day
    WHERE day BETWEEN {since:Date} AND {until:Date}
    GROUP BY account_id
)
GROUP BY account_id
ORDER BY account_id
LIMIT 1000

-- name: net
-- What each account was charged, what corrections changed, and what is left.
SELECT account_id, sum(charged) AS charged, net - charged AS corrected, sum(left) AS net,
       sum(events_left) AS events
FROM (
    SELECT account_id, credits AS charged, toDecimal128(0, 6) AS left, 0 AS events_left
    FROM usage_by_day
    WHERE day BETWEEN {since:Date} AND {until:Date} AND NOT demo
    UNION ALL
    SELECT account_id, toDecimal128(0, 6), credits, events
    FROM net_usage_by_day
    WHERE day BETWEEN {since:Date} AND {until:Date} AND NOT demo
)
GROUP BY account_id
ORDER BY corrected, account_id
LIMIT 1000

-- name: corrections
-- What was corrected and why, by the days of the usage.
SELECT kind, reason, actor, count() AS corrections, uniqExact(account_id) AS accounts,
       sum(credits_change) AS credits_change
FROM corrections
WHERE day BETWEEN {since:Date} AND {until:Date} AND NOT demo
GROUP BY kind, reason, actor
ORDER BY credits_change, kind, reason, actor
LIMIT 1000
