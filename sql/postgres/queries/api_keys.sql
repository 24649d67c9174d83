-- Keys of services, people and admins. The table holds digests: a key can be checked, never shown.

-- name: add_key
-- No row is returned when the account does not exist. $1 id, $2 digest, $3 name, $4 role, $5 scopes,
-- $6 account or NULL, $7 by whom, $8 expiry or NULL, $9 the first key of those that it succeeds, or itself.
INSERT INTO api_key (key_id, digest, name, role, scopes, account_id, created_by, expires_at, principal)
SELECT $1, $2, $3, $4, $5::text[], $6, $7, $8, $9
WHERE $6::text IS NULL OR EXISTS (SELECT FROM account WHERE account_id = $6)
RETURNING created_at

-- name: find_key
-- With whether it can be used now, by this server's clock. $1 id.
SELECT digest, role, scopes, account_id, principal,
       revoked_at IS NULL AND coalesce(expires_at > now(), true) AS live
FROM api_key
WHERE key_id = $1

-- name: lock_key
-- $1 id.
SELECT key_id, name, role, scopes, account_id, expires_at, revoked_at, principal,
       revoked_at IS NULL AND coalesce(expires_at > now(), true) AS live
FROM api_key
WHERE key_id = $1
FOR NO KEY UPDATE

-- name: revoke_key
-- Idempotent: the first revocation counts. $1 id.
UPDATE api_key SET revoked_at = coalesce(revoked_at, now()) WHERE key_id = $1
RETURNING revoked_at

-- name: end_key_in
-- Never later than it would have ended anyhow. $1 id, $2 seconds from now.
UPDATE api_key SET expires_at = least(expires_at, now() + make_interval(secs => $2)) WHERE key_id = $1
RETURNING expires_at

-- name: list_keys
-- Newest first, without their digests. $1 only those that can be used now, $2 at most so many.
SELECT key_id, name, role, scopes, account_id, created_by, created_at, expires_at, revoked_at, principal
FROM api_key
WHERE NOT $1::boolean OR (revoked_at IS NULL AND coalesce(expires_at > now(), true))
ORDER BY created_at DESC, key_id
LIMIT $2
