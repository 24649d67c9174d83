-- The history of one account: charges, corrections' entries, grants, expiries, deductions and holds,
-- newest first, in one query, a page at a time.

-- name: history_page
-- Keyset paging: a page starts below the last row of the one before, so that new entries shift
-- nothing. Each branch reads a page by its own index (of charges, whole batches of the account); so the
-- cost of a page does not grow with the account.
-- An open hold is PENDING, one that ended without a charge FAILED; a settled one is in the list as the
-- charge that settled it.
-- $1 account; $2 types (NULL: all), $3 statuses (NULL: all), $4 since (inclusive), $5 until (exclusive):
-- NULL is no limit; $6 below this time and $7 below this place (NULL: from the newest), $8 rows at most.
SELECT at, place, type, status, amount_micro, balance_after_micro, event_id, hold_id, grant_id, actor,
       reason, detail
FROM (
    (SELECT posted_at AS at, 'c:' || lpad(partition::text, 6, '0') || lpad("offset"::text, 19, '0') AS place,
            'USAGE' AS type, 'COMPLETED' AS status, -amount_micro AS amount_micro, balance_after_micro,
            event_id, hold_id, NULL::bigint AS grant_id, source AS actor, '' AS reason,
            CASE WHEN model = '' THEN action ELSE provider || '/' || model END AS detail
     FROM charge
     WHERE account_id = $1
       AND ($2::text[] IS NULL OR 'USAGE' = ANY($2)) AND ($3::text[] IS NULL OR 'COMPLETED' = ANY($3))
       AND posted_at >= coalesce($4::timestamptz, '-infinity')
       AND posted_at < coalesce($5::timestamptz, 'infinity')
       AND posted_at <= coalesce($6::timestamptz, 'infinity')
       AND ($6::timestamptz IS NULL OR posted_at < $6
            OR 'c:' || lpad(partition::text, 6, '0') || lpad("offset"::text, 19, '0') < $7::text COLLATE "C")
     ORDER BY posted_at DESC, partition DESC, "offset" DESC
     LIMIT $8)
    UNION ALL
    (SELECT created_at, 't:' || lpad(transaction_id::text, 19, '0'), type, status, amount_micro,
            balance_after_micro, event_id, hold_id, grant_id, actor, reason, metadata
     FROM credit_transaction
     WHERE account_id = $1
       AND ($2::text[] IS NULL OR type = ANY($2)) AND ($3::text[] IS NULL OR status = ANY($3))
       AND created_at >= coalesce($4::timestamptz, '-infinity')
       AND created_at < coalesce($5::timestamptz, 'infinity')
       AND created_at <= coalesce($6::timestamptz, 'infinity')
       AND ($6::timestamptz IS NULL OR created_at < $6
            OR 't:' || lpad(transaction_id::text, 19, '0') < $7::text COLLATE "C")
     ORDER BY created_at DESC, transaction_id DESC
     LIMIT $8)
    UNION ALL
    (SELECT created_at, 'h:' || hold_id, 'HOLD', CASE state WHEN 'open' THEN 'PENDING' ELSE 'FAILED' END,
            -amount_micro, NULL, NULL, hold_id, NULL, actor, closed_by, metadata
     FROM credit_hold
     WHERE account_id = $1 AND state <> 'settled'
       AND ($2::text[] IS NULL OR 'HOLD' = ANY($2))
       AND ($3::text[] IS NULL OR CASE state WHEN 'open' THEN 'PENDING' ELSE 'FAILED' END = ANY($3))
       AND created_at >= coalesce($4::timestamptz, '-infinity')
       AND created_at < coalesce($5::timestamptz, 'infinity')
       AND created_at <= coalesce($6::timestamptz, 'infinity')
       AND ($6::timestamptz IS NULL OR created_at < $6 OR 'h:' || hold_id < $7::text COLLATE "C")
     ORDER BY created_at DESC, hold_id COLLATE "C" DESC
     LIMIT $8)
) AS entry
ORDER BY at DESC, place COLLATE "C" DESC
LIMIT $8
