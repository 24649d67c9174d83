-- The scheduler: the usage of a hold is found by its name, and a refresh writes no row for nothing.
-- See sql/postgres/schema.sql for the contract of each table.

CREATE INDEX charge_hold ON charge (account_id, hold_id) WHERE hold_id IS NOT NULL;

-- A session that is charged what it reported last, and whose app sends the usage event all the same, is
-- charged by the event: the rater marks the hold, reconciliation takes its own charge back.
ALTER TABLE credit_hold
    ADD COLUMN report text NOT NULL DEFAULT '' CHECK (report IN ('', 'charged', 'overtaken', 'replaced')),
    ADD CHECK (report = '' OR state = 'settled');
CREATE INDEX credit_hold_overtaken ON credit_hold (account_id, hold_id) WHERE report = 'overtaken';

-- The account's row is locked and read by the statement that inserts: the key would be looked up again,
-- row by row.
ALTER TABLE refresh DROP CONSTRAINT refresh_account_id_fkey;

-- Every index costs a refresh of a million accounts a million entries. No grant is found by its account
-- but through burn order; a grant without an end never expires; most transactions have no key.
DROP INDEX credit_grant_of_account;
DROP INDEX credit_grant_expiry;
CREATE INDEX credit_grant_expiry ON credit_grant (expires_at) WHERE NOT spent AND expires_at IS NOT NULL;
ALTER TABLE credit_transaction DROP CONSTRAINT credit_transaction_idempotency_key_key;
CREATE UNIQUE INDEX credit_transaction_key ON credit_transaction (idempotency_key) WHERE idempotency_key IS NOT NULL;
