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
