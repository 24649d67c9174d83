-- What the API asks to know whether it can answer.

-- name: writable
-- True on a primary that takes writes: a standby or a read-only server can not reserve credits.
SELECT NOT pg_is_in_recovery() AND current_setting('transaction_read_only') = 'off'
