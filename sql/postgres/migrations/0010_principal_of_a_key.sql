-- A key that is made by rotating another acts as the same subject. Keys that were rotated before this stay
-- subjects of their own, as they were.
-- See sql/postgres/schema.sql for the contract of each table.

ALTER TABLE api_key ADD COLUMN principal text COLLATE "C";
UPDATE api_key SET principal = key_id;
ALTER TABLE api_key ALTER principal SET NOT NULL;
