-- The scheduler: the usage of a hold is found by its name, and a refresh writes no row for nothing.
-- See sql/postgres/schema.sql for the contract of each table.

CREATE INDEX charge_hold ON charge (account_id, hold_id) WHERE hold_id IS NOT NULL;

-- The account's row is locked and read by the statement that inserts: the key would be looked up again,
-- row by row.
ALTER TABLE refresh DROP CONSTRAINT refresh_account_id_fkey;
