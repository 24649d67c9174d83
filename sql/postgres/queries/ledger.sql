-- The statements of one batch of usage events, in the order in which a transaction runs them.
-- Lock order everywhere: stream_position, account (sorted), credit_hold, credit_grant.

-- name: lock_positions
-- Fence: whoever holds these rows is the only one who can move the streams.
-- $1 topic, $2 partitions. One row per known partition.
SELECT partition, epoch, next_offset
FROM stream_position
WHERE topic = $1 AND partition = ANY($2::integer[])
ORDER BY partition
FOR NO KEY UPDATE

-- name: newest_price_version
-- 0 when no price book was ever published.
SELECT coalesce(max(price_version), 0) FROM price_version

-- name: lock_accounts
-- Locks in account_id order, so that two workers never wait for each other in a circle.
-- $1 account ids. One row per account that exists.
SELECT account_id, tier, demo, balance_micro
FROM account
WHERE account_id = ANY($1::text[])
ORDER BY account_id
FOR NO KEY UPDATE

-- name: create_accounts
-- Accounts met for the first time, with their welcome credits as a grant and a transaction.
-- $1 account ids (sorted), $2 tier, $3 demo, $4 welcome credits in micro-credits (0: no grant).
-- Idempotent: an account that exists keeps everything it has. Returns how many are new.
WITH fresh AS (
    INSERT INTO account (account_id, tier, demo, balance_micro)
    SELECT account_id, $2, $3, $4
    FROM unnest($1::text[]) WITH ORDINALITY AS met (account_id, n)
    ORDER BY n
    ON CONFLICT DO NOTHING
    RETURNING account_id
), welcome AS (
    INSERT INTO credit_grant (account_id, source, granted_by, amount_micro, remaining_micro)
    SELECT account_id, 'welcome', 'rater', $4, $4
    FROM fresh
    WHERE $4 > 0
    RETURNING grant_id, account_id
), noted AS (
    INSERT INTO credit_transaction (account_id, type, amount_micro, balance_after_micro, grant_id, actor)
    SELECT account_id, 'WELCOME', $4, $4, grant_id, 'rater'
    FROM welcome
)
SELECT count(*) FROM fresh

-- name: find_claims
-- Which of these events were charged before, and with which payload.
-- Sees every committed charge of an account whose lock is held, so under the lock its answer stays true.
-- $1 account ids, $2 event ids, pairwise; answers by their index from 0.
SELECT incoming.n - 1 AS n, charge.payload_hash
FROM unnest($1::text[], $2::text[]) WITH ORDINALITY AS incoming (account_id, event_id, n)
JOIN charge USING (account_id, event_id)

-- name: read_counters
-- What was counted so far. Under the accounts' locks its answer stays true.
-- $1 account ids, $2 counters, $3 months (their first days), pairwise and distinct. One row per
-- counter that exists: nothing was counted by the others.
SELECT account_id, counter, month, units
FROM unnest($1::text[], $2::text[], $3::date[]) AS wanted (account_id, counter, month)
JOIN usage_counter USING (account_id, counter, month)

-- name: add_to_counters
-- $1 account ids (locked), $2 counters, $3 months, $4 units to add, pairwise, counters distinct.
INSERT INTO usage_counter (account_id, counter, month, units)
SELECT * FROM unnest($1::text[], $2::text[], $3::date[], $4::bigint[])
ON CONFLICT (account_id, counter, month) DO UPDATE SET units = usage_counter.units + excluded.units

-- name: settle_holds
-- Events that name an open hold of their own account release its reserve. One that reconciliation has
-- charged for its report is marked: the next run takes that charge back. Any other name changes nothing.
-- $1 hold ids, $2 account ids, $3 what was charged on them in micro-credits, pairwise, holds distinct.
WITH met AS (
    UPDATE credit_hold AS hold
    SET state = 'settled',
        charged_micro = CASE WHEN hold.state = 'open' THEN used.amount_micro ELSE hold.charged_micro END,
        closed_at = CASE WHEN hold.state = 'open' THEN now() ELSE hold.closed_at END,
        report = CASE WHEN hold.state = 'open' THEN '' ELSE 'overtaken' END
    FROM unnest($1::text[], $2::text[], $3::bigint[]) AS used (hold_id, account_id, amount_micro)
    WHERE hold.hold_id = used.hold_id AND hold.account_id = used.account_id
      AND (hold.state = 'open' OR hold.report = 'charged')
    RETURNING hold.account_id, hold.amount_micro, hold.report
), freed AS (
    SELECT account_id, sum(amount_micro)::bigint AS freed_micro FROM met WHERE report = '' GROUP BY account_id
)
UPDATE account SET held_micro = held_micro - freed_micro
FROM freed
WHERE account.account_id = freed.account_id

-- name: burn_down
-- Takes each account's total out of its grants (priority, expiry, age, id; expired ones are not
-- touched), notes each draw, books what no grant covers as overdraft, and moves the balance and this
-- month's spend. A transaction that began before midnight and got the lock after another of the new month
-- leaves the new month's spend alone: its own entries are of the old one.
-- The set-based form of core/grants.py burn_down; a property test holds the two equal.
-- $1 account ids (distinct, locked), $2 totals in micro-credits (> 0), $3 cause of the draws.
WITH spend AS (
    SELECT account_id, total_micro
    FROM unnest($1::text[], $2::bigint[]) AS spend (account_id, total_micro)
), burnable AS (
    SELECT grant_id, account_id, remaining_micro, total_micro,
           sum(remaining_micro) OVER (
               PARTITION BY account_id
               ORDER BY priority, expires_at, created_at, grant_id
           ) - remaining_micro AS before_micro
    FROM spend
    JOIN credit_grant USING (account_id)
    WHERE NOT spent AND (expires_at IS NULL OR expires_at > now())
), draw AS (
    SELECT grant_id, account_id, least(remaining_micro, total_micro - before_micro)::bigint AS draw_micro
    FROM burnable
    WHERE before_micro < total_micro
), burned AS (
    UPDATE credit_grant AS burned
    SET remaining_micro = burned.remaining_micro - draw_micro,
        spent = burned.remaining_micro = draw_micro
    FROM draw
    WHERE burned.grant_id = draw.grant_id
), noted AS (
    INSERT INTO grant_draw (grant_id, cause, amount_micro)
    SELECT grant_id, $3, draw_micro FROM draw
), covered AS (
    SELECT account_id, sum(draw_micro)::bigint AS covered_micro FROM draw GROUP BY account_id
)
UPDATE account
SET balance_micro = balance_micro - total_micro,
    overdraft_micro = overdraft_micro + total_micro - coalesce(covered_micro, 0),
    spend_micro = CASE WHEN spend_month > this_month.month THEN spend_micro
                       WHEN spend_month = this_month.month THEN spend_micro + total_micro
                       ELSE total_micro END,
    spend_month = greatest(spend_month, this_month.month)
FROM (SELECT date_trunc('month', now() AT TIME ZONE 'UTC')::date AS month) AS this_month, spend
LEFT JOIN covered USING (account_id)
WHERE account.account_id = spend.account_id

-- name: give_back
-- The opposite of burn_down, for an account whose total is less than nothing: repays overdraft, and
-- what is left becomes a new grant without an expiry. The set-based form of core/grants.py give_back.
-- It writes no credit_transaction: whoever calls it has a row in the ledger that says why.
-- $1 account ids (distinct, locked), $2 amounts in micro-credits (> 0), $3 source of the grants,
-- $4 who gives. One row per account: its new grant, NULL when all of it repaid overdraft.
WITH due AS (
    SELECT account_id, amount_micro, least(overdraft_micro, amount_micro) AS repaid_micro
    FROM unnest($1::text[], $2::bigint[]) AS due (account_id, amount_micro)
    JOIN account USING (account_id)
), granted AS (
    INSERT INTO credit_grant (account_id, source, granted_by, amount_micro, remaining_micro)
    SELECT account_id, $3, $4, amount_micro - repaid_micro, amount_micro - repaid_micro
    FROM due
    WHERE amount_micro > repaid_micro
    ORDER BY account_id
    RETURNING account_id, grant_id
), raised AS (
    UPDATE account
    SET balance_micro = balance_micro + amount_micro,
        overdraft_micro = overdraft_micro - repaid_micro,
        spend_micro = CASE WHEN spend_month > this_month.month THEN spend_micro
                           WHEN spend_month = this_month.month THEN spend_micro - amount_micro
                           ELSE -amount_micro END,
        spend_month = greatest(spend_month, this_month.month)
    FROM (SELECT date_trunc('month', now() AT TIME ZONE 'UTC')::date AS month) AS this_month, due
    WHERE account.account_id = due.account_id
)
SELECT account_id, grant_id FROM due LEFT JOIN granted USING (account_id)

-- name: book_dead_letters
-- Records that could not be charged, one row per source position.
-- $1 topic, $2 epoch; pairwise: $3 partitions, $4 offsets, $5 reasons, $6 details, $7 account ids,
-- $8 event ids, $9 keys, $10 payloads (truncated), $11 full sizes in bytes, $12 sha256, $13 append times,
-- $14 models, $15 price versions that were tried (0: none).
INSERT INTO dead_letter (topic, epoch, partition, "offset", reason, detail, account_id, event_id,
                         key, payload, payload_bytes, payload_sha256, appended_at, model, tried_version)
SELECT $1, $2, *
FROM unnest($3::integer[], $4::bigint[], $5::text[], $6::text[], $7::text[], $8::text[],
            $9::bytea[], $10::bytea[], $11::integer[], $12::bytea[], $13::timestamptz[],
            $14::text[], $15::integer[])

-- name: next_batch_id
-- A number that names a batch in draws and outcomes; gaps mean nothing.
SELECT nextval('batch_id_seq')

-- name: book_outcomes
-- What the batch did with each partition's offsets; the table's CHECK proves the sum.
-- $1 batch id, $2 topic, $3 epoch; pairwise: $4 partitions, $5 from, $6 to (exclusive), $7 charged,
-- $8 duplicate, $9 dead.
INSERT INTO batch_outcome (batch_id, topic, epoch, partition, from_offset, to_offset, charged, duplicate, dead)
SELECT $1, $2, $3, *
FROM unnest($4::integer[], $5::bigint[], $6::bigint[], $7::integer[], $8::integer[], $9::integer[])

-- name: move_positions
-- $1 topic; pairwise: $2 partitions, $3 next offsets, $4 digests of the records before them.
UPDATE stream_position AS stands
SET next_offset = moved.next_offset, last_digest = moved.digest, updated_at = now()
FROM unnest($2::integer[], $3::bigint[], $4::bigint[]) AS moved (partition, next_offset, digest)
WHERE stands.topic = $1 AND stands.partition = moved.partition

-- name: end_overdue_copies
-- Ends sessions whose client stopped in the middle of a COPY; answers how many. While COPY waits for
-- its client PostgreSQL looks at no time limit, the statement's or the transaction's: only at being
-- ended, and the locks would stay for ever. $1: seconds that a statement may take. Of this database
-- and role alone: no other's may be seen or ended.
SELECT count(*) FILTER (WHERE ended)
FROM (
    SELECT pg_terminate_backend(pid) AS ended
    FROM pg_stat_activity
    WHERE datname = current_database() AND usename = current_user
      AND application_name LIKE 'tollgate-%'
      AND state = 'active' AND wait_event = 'ClientRead' AND query LIKE 'COPY %'
      AND query_start < clock_timestamp() - make_interval(secs => $1)
) AS overdue

-- name: recent_outcomes
-- The latest batches of the topic, newest first: what a new worker knows of the ones before it, less
-- the dead letters of users, whose ids begin with $2. $1 topic. At most 50 batches of each partition,
-- found by the primary key, and their dead letters by place.
SELECT latest.batch_id,
       sum(to_offset - from_offset - of_users)::bigint AS records,
       sum(dead - of_users)::bigint AS dead
FROM stream_position AS stands
CROSS JOIN LATERAL (
    SELECT batch_id, from_offset, to_offset, dead,
           CASE WHEN dead = 0 THEN 0 ELSE (
               SELECT count(*) FROM dead_letter AS d
               WHERE d.topic = b.topic AND d.partition = b.partition AND d.epoch = b.epoch
                 AND d."offset" >= b.from_offset AND d."offset" < b.to_offset
                 AND starts_with(d.event_id, $2)
           ) END AS of_users
    FROM batch_outcome AS b
    WHERE b.topic = stands.topic AND b.partition = stands.partition AND b.epoch = stands.epoch
    ORDER BY b.from_offset DESC
    LIMIT 50
) AS latest
WHERE stands.topic = $1
GROUP BY latest.batch_id
ORDER BY latest.batch_id DESC

-- name: first_seen
-- Of records that are too old now: whether the event was charged, and when the same bytes were first
-- appended as far as dead letters tell. $1 account ids, $2 event ids, $3 SHA-256 of the values,
-- pairwise; one row for each, by its index from 0.
SELECT met.n - 1 AS n, claimed.event_id IS NOT NULL AS charged,
       (SELECT min(appended_at) FROM dead_letter AS letter
        WHERE letter.event_id = met.event_id AND letter.payload_sha256 = met.sha256) AS appended_at
FROM unnest($1::text[], $2::text[], $3::bytea[]) WITH ORDINALITY AS met (account_id, event_id, sha256, n)
LEFT JOIN charge AS claimed ON claimed.account_id = met.account_id AND claimed.event_id = met.event_id

-- name: open_positions
-- A partition never seen before starts at $3, pairwise with $2, in the topic's present epoch.
-- Idempotent: a position that exists is not touched.
INSERT INTO stream_position (topic, partition, epoch, next_offset, first_offset)
SELECT $1, partition, coalesce((SELECT max(epoch) FROM stream_position WHERE topic = $1), 1),
       first_offset, first_offset
FROM unnest($2::integer[], $3::bigint[]) AS met (partition, first_offset)
ON CONFLICT DO NOTHING

-- name: note_event_age
-- Up to which age events are charged from now on, in days ($1): each limit that ever held is kept, for
-- whoever looks for late charges. Idempotent.
INSERT INTO deployment (name, value)
VALUES ('event_age_days:' || $1::integer, $1::integer::text)
ON CONFLICT DO NOTHING

-- name: read_positions
-- Where the worker seeks to. $1 topic, $2 partitions.
SELECT partition, epoch, next_offset, first_offset, last_digest
FROM stream_position
WHERE topic = $1 AND partition = ANY($2::integer[])
ORDER BY partition
