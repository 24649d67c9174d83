-- Holds that nobody closed: settled by the usage that is linked to them, else given back. And settlements
-- by a session's report that a usage event came after: taken back.
-- Lock order everywhere: account (sorted), then holds, then grants.
-- A hold's id is of another collation in charge than in credit_hold: said where they meet, or the index of
-- charges by hold is entered by account alone, and every hold reads all of its account's charges.

-- name: pending
-- The next open holds that were not touched for a while, oldest first: a run walks through them once.
-- $1 untouched since so many seconds; $2, $3 after this touch and hold; $4 at most so many.
SELECT hold_id, account_id, touched_at
FROM credit_hold
WHERE state = 'open' AND touched_at <= now() - make_interval(secs => $1::double precision)
  AND (touched_at, hold_id) > ($2::timestamptz, $3::text)
ORDER BY touched_at, hold_id
LIMIT $4

-- name: examine
-- What is still open and untouched of these holds, with what a judgement needs: the charges of usage
-- events that name the hold (as they cost now, corrections included), whether its time is over, the
-- usage that a session reported last. Their accounts are locked by a statement before this one.
-- $1 hold ids, $2 untouched since so many seconds, $3 a usage without a price is waited for so many
-- seconds after the hold's time.
SELECT hold.hold_id, hold.account_id, hold.kind, hold.amount_micro, hold.usage, hold.touched_at,
       account.tier, account.demo, linked.events, coalesce(linked.charged_micro, 0)::bigint AS charged_micro,
       coalesce(hold.expires_at, hold.touched_at) <= now() AS over,
       coalesce(hold.expires_at, hold.touched_at) <= now() - make_interval(secs => $3::double precision)
           AS long_over
FROM credit_hold AS hold
JOIN account USING (account_id)
CROSS JOIN LATERAL (
    SELECT count(*) AS events, sum(charge.amount_micro + coalesce(changed.amount_micro, 0)) AS charged_micro
    FROM charge
    CROSS JOIN LATERAL (
        SELECT sum(amount_change_micro) AS amount_micro
        FROM charge_correction AS c
        WHERE c.account_id = charge.account_id AND c.event_id = charge.event_id
    ) AS changed
    WHERE charge.account_id = hold.account_id AND charge.hold_id = hold.hold_id COLLATE "default"
) AS linked
WHERE hold.hold_id = ANY($1::text[]) AND hold.state = 'open'
  AND hold.touched_at <= now() - make_interval(secs => $2::double precision)
ORDER BY hold.hold_id
FOR NO KEY UPDATE OF hold

-- name: close_holds
-- Closes open holds and gives their reserves back. $1 hold ids, $2 states, $3 charged or NULL, $4 what of
-- it is charged now, for a report; pairwise; $5 by whom. Their accounts are locked.
WITH closed AS (
    UPDATE credit_hold AS hold
    SET state = ended.state, charged_micro = ended.charged_micro, closed_at = now(), closed_by = $5,
        report = CASE WHEN to_charge_micro > 0 THEN 'charged' ELSE '' END
    FROM unnest($1::text[], $2::text[], $3::bigint[], $4::bigint[])
         AS ended (hold_id, state, charged_micro, to_charge_micro)
    WHERE hold.hold_id = ended.hold_id AND hold.state = 'open'
    RETURNING hold.account_id, hold.amount_micro
), freed AS (
    SELECT account_id, sum(amount_micro)::bigint AS freed_micro FROM closed GROUP BY account_id
)
UPDATE account SET held_micro = held_micro - freed_micro
FROM freed
WHERE account.account_id = freed.account_id

-- name: book_settlements
-- The ledger entries of sessions that are charged what they reported, after burn_down moved the
-- balances. $1 hold ids, $2 account ids, $3 amounts in micro-credits (> 0), $4 reported usages, pairwise;
-- $5 actor.
INSERT INTO credit_transaction (account_id, type, amount_micro, balance_after_micro, hold_id, actor,
                                reason, metadata)
SELECT account_id, 'SETTLE', -amount_micro,
       balance_micro + sum(amount_micro) OVER later - amount_micro,
       hold_id, $5, 'the usage that the session reported last', usage
FROM unnest($1::text[], $2::text[], $3::bigint[], $4::text[]) AS settled (hold_id, account_id, amount_micro, usage)
JOIN account USING (account_id)
WINDOW later AS (PARTITION BY account_id ORDER BY hold_id DESC)
ORDER BY account_id, hold_id

-- name: count_pending
-- What a run would look at, and how many settlements it would take back. $1 untouched since so many
-- seconds.
SELECT count(*) AS examined, count(*) FILTER (WHERE coalesce(expires_at, touched_at) <= now()) AS over,
       coalesce(sum(amount_micro), 0)::bigint AS reserved_micro,
       (SELECT count(*) FROM credit_hold WHERE report = 'overtaken') AS replaced
FROM credit_hold
WHERE state = 'open' AND touched_at <= now() - make_interval(secs => $1::double precision)

-- name: overtaken
-- The next sessions that were charged for their report and then by a usage event. Usually none.
-- $1, $2 after this account and hold; $3 at most so many.
SELECT account_id, hold_id
FROM credit_hold
WHERE report = 'overtaken' AND (account_id, hold_id) > ($1::text, $2::text)
ORDER BY account_id, hold_id
LIMIT $3

-- name: examine_overtaken
-- What is still to be taken back of these holds: the charge for the report, what the events cost by now
-- (corrections included), which event when it is one, and whether the charge is of a month (UTC) that is
-- over. Their accounts are locked by a statement before this one. $1 hold ids.
SELECT hold.hold_id, hold.account_id, hold.charged_micro AS reported_micro, linked.charged_micro,
       linked.event_id,
       date_trunc('month', hold.closed_at AT TIME ZONE 'UTC') < date_trunc('month', now() AT TIME ZONE 'UTC')
           AS of_earlier_month
FROM credit_hold AS hold
CROSS JOIN LATERAL (
    SELECT coalesce(sum(charge.amount_micro + coalesce(changed.amount_micro, 0)), 0)::bigint AS charged_micro,
           CASE WHEN count(*) = 1 THEN min(charge.event_id) END AS event_id
    FROM charge
    CROSS JOIN LATERAL (
        SELECT sum(amount_change_micro) AS amount_micro
        FROM charge_correction AS c
        WHERE c.account_id = charge.account_id AND c.event_id = charge.event_id
    ) AS changed
    WHERE charge.account_id = hold.account_id AND charge.hold_id = hold.hold_id COLLATE "default"
) AS linked
WHERE hold.hold_id = ANY($1::text[]) AND hold.report = 'overtaken'
ORDER BY hold.account_id, hold.hold_id
FOR NO KEY UPDATE OF hold

-- name: replace_reports
-- These holds cost what their events cost. $1 hold ids, $2 amounts in micro-credits, pairwise.
UPDATE credit_hold AS hold
SET report = 'replaced', charged_micro = events.charged_micro
FROM unnest($1::text[], $2::bigint[]) AS events (hold_id, charged_micro)
WHERE hold.hold_id = events.hold_id

-- name: keep_spend
-- What give_back took from this month's spend just now was spent in an earlier one. $1 account ids
-- (distinct, locked), $2 amounts in micro-credits, pairwise.
UPDATE account SET spend_micro = spend_micro + amount_micro
FROM unnest($1::text[], $2::bigint[]) AS earlier (account_id, amount_micro)
WHERE account.account_id = earlier.account_id
  AND spend_month = date_trunc('month', now() AT TIME ZONE 'UTC')::date

-- name: book_reversals
-- The ledger entries of what was taken back, after give_back moved the balances. $1 hold ids, $2 account
-- ids, $3 amounts in micro-credits (> 0), $4 grants that hold the accounts' sums, or NULL, $5 events or
-- NULL, pairwise; $6 actor.
INSERT INTO credit_transaction (account_id, type, amount_micro, balance_after_micro, hold_id, grant_id,
                                event_id, actor, reason)
SELECT account_id, 'REVERSAL', amount_micro,
       balance_micro - sum(amount_micro) OVER later + amount_micro,
       hold_id, grant_id, event_id, $6,
       'a usage event came after all: what the session reported last is not charged as well'
FROM unnest($1::text[], $2::text[], $3::bigint[], $4::bigint[], $5::text[])
     AS taken (hold_id, account_id, amount_micro, grant_id, event_id)
JOIN account USING (account_id)
WINDOW later AS (PARTITION BY account_id ORDER BY hold_id DESC)
ORDER BY account_id, hold_id
