-- Who changed what: one row for every action of an admin, in the transaction of the action.

-- name: note
-- $1 actor, $2 action, $3 subject, $4 before and $5 after as JSON text or NULL, $6 reason, $7 request.
INSERT INTO audit_log (actor, action, subject, before, after, reason, request_id)
VALUES ($1, $2, $3, $4::jsonb, $5::jsonb, $6, $7)
RETURNING audit_id

-- name: list_audit
-- Newest first. $1 subject, $2 actor, $3 action: NULL is no limit; $4 below this id or NULL, $5 at most so many.
SELECT audit_id, at, actor, action, subject, before::text AS before, after::text AS after, reason, request_id
FROM audit_log
WHERE ($1::text IS NULL OR subject = $1)
  AND ($2::text IS NULL OR actor = $2)
  AND ($3::text IS NULL OR action = $3)
  AND ($4::bigint IS NULL OR audit_id < $4)
ORDER BY audit_id DESC
LIMIT $5

-- name: chain_findings
-- Where the chain is broken: subject, expected, found. Computed here and not by the database's own
-- function, which whoever changes rows could change too.
WITH chained AS (
    SELECT audit_id, action, subject, hash, previous_hash,
           lag(audit_id) OVER place AS id_before, lag(hash) OVER place AS hash_before,
           sha256(convert_to(jsonb_build_array(
               encode(previous_hash, 'hex'), audit_id, (extract(epoch FROM at) * 1000000)::bigint,
               actor, action, subject, before::text, after::text, reason, request_id)::text, 'UTF8')) AS computed
    FROM audit_log
    WINDOW place AS (ORDER BY audit_id)
), broken AS (
    SELECT audit_id, action, subject, 'hash ' || encode(computed, 'hex') AS expected,
           'hash ' || encode(hash, 'hex') || ': the row was changed or put in' AS found
    FROM chained
    WHERE hash <> computed
    UNION ALL
    SELECT audit_id, action, subject,
           coalesce('to follow act ' || nullif(audit_id, 1) - 1, 'to be the first act'),
           CASE WHEN audit_id - coalesce(id_before, 0) = 1
                THEN coalesce('act ' || id_before || ' is not the one that it followed', 'it followed another act')
                ELSE 'act ' || coalesce(id_before, 0) + 1 || ' to act ' || audit_id - 1 || ' are gone'
           END
    FROM chained
    WHERE previous_hash <> coalesce(hash_before, '')
)
SELECT 'act ' || audit_id || ', ' || action || ' ' || subject AS subject, expected, found
FROM broken
ORDER BY audit_id, expected

-- name: chain_end
-- The acts, and the number and hash of the last one: 0 and '' for an empty log.
SELECT (SELECT count(*) FROM audit_log) AS acts, coalesce(last.audit_id, 0) AS audit_id,
       coalesce(encode(last.hash, 'hex'), '') AS hash
FROM (SELECT) AS one
LEFT JOIN (SELECT audit_id, hash FROM audit_log ORDER BY audit_id DESC LIMIT 1) AS last ON true

-- name: chain_at
-- The hash of an act, or NULL. $1 its number.
SELECT encode(hash, 'hex') FROM audit_log WHERE audit_id = $1
