-- Accounts' own keys at providers, encrypted. Only the hint, the last four characters, is ever shown.

-- name: store_key
-- A key that is there is replaced, and what its provider said of it is forgotten. No row: there is no
-- such account. $1 account, $2 provider, $3 ciphertext, $4 hint.
INSERT INTO provider_key (account_id, provider, ciphertext, hint)
SELECT $1, $2, $3, $4 WHERE EXISTS (SELECT FROM account WHERE account_id = $1)
ON CONFLICT (account_id, provider) DO UPDATE
SET ciphertext = excluded.ciphertext, hint = excluded.hint, rotated_at = now(),
    remote_limit = NULL, remote_usage = NULL, synced_at = NULL
RETURNING provider, hint, remote_limit, remote_usage, synced_at, created_at, rotated_at

-- name: list_provider_keys
-- Without the ciphertext. $1 account.
SELECT provider, hint, remote_limit, remote_usage, synced_at, created_at, rotated_at
FROM provider_key
WHERE account_id = $1
ORDER BY provider

-- name: read_ciphertext
-- $1 account, $2 provider.
SELECT ciphertext FROM provider_key WHERE account_id = $1 AND provider = $2

-- name: delete_key
-- No row: there was none. $1 account, $2 provider.
DELETE FROM provider_key WHERE account_id = $1 AND provider = $2
RETURNING hint

-- name: note_balance
-- Only while the key is still the one that was asked about. $1 account, $2 provider, $3 its ciphertext,
-- $4 limit, $5 usage.
UPDATE provider_key SET remote_limit = $4, remote_usage = $5, synced_at = now()
WHERE account_id = $1 AND provider = $2 AND ciphertext = $3
RETURNING provider, hint, remote_limit, remote_usage, synced_at, created_at, rotated_at

-- name: next_to_reencrypt
-- In the order of the key, locked. $1 after this account, $2 after this provider, $3 at most so many.
SELECT account_id, provider, ciphertext
FROM provider_key
WHERE (account_id, provider) > ($1, $2)
ORDER BY account_id, provider
LIMIT $3
FOR NO KEY UPDATE

-- name: reencrypt
-- $1 accounts, $2 providers, $3 ciphertexts, pairwise.
UPDATE provider_key SET ciphertext = new.ciphertext
FROM unnest($1::text[], $2::text[], $3::bytea[]) AS new (account_id, provider, ciphertext)
WHERE provider_key.account_id = new.account_id AND provider_key.provider = new.provider
