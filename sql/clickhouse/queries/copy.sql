-- The statements by which the warehouse knows and prepares ClickHouse's copy.
-- {name:Type} are ClickHouse's own query parameters. The database is that of the connection.

-- name: create_database
-- Idempotent. Run on another database: this one may not be there yet.
CREATE DATABASE IF NOT EXISTS {name:Identifier}

-- name: create_migrations
-- Which migrations were applied. Idempotent.
CREATE TABLE IF NOT EXISTS schema_migration (
    version    UInt32,
    name       String,
    digest     String,
    applied_at DateTime DEFAULT now()
) ENGINE = ReplacingMergeTree ORDER BY version

-- name: applied_migrations
-- Each applied version with the digest of its file.
SELECT version, digest FROM schema_migration FINAL ORDER BY version

-- name: note_migration
-- After the statements of the version: they can be repeated.
INSERT INTO schema_migration (version, name, digest)
VALUES ({version:UInt32}, {name:String}, {digest:String})

-- name: forget_migrations
-- For a rebuild, which makes every table anew.
TRUNCATE TABLE IF EXISTS schema_migration

-- name: tables
-- Everything in the database, as it was created.
SELECT name, engine, engine_full, create_table_query
FROM system.tables
WHERE database = currentDatabase()
ORDER BY name

-- name: accept_generation
-- From now on only rows of this generation are taken; what an older copy still sends is refused.
ALTER TABLE charge DROP CONSTRAINT shipped_generation,
    ADD CONSTRAINT shipped_generation CHECK generation = {generation:UInt32};
ALTER TABLE credit_transaction DROP CONSTRAINT shipped_generation,
    ADD CONSTRAINT shipped_generation CHECK generation = {generation:UInt32};
ALTER TABLE charge_correction DROP CONSTRAINT shipped_generation,
    ADD CONSTRAINT shipped_generation CHECK generation = {generation:UInt32}

-- name: drop_tables
-- Takes the copy away, with its tokens. An insert that is under way ends in the dropped table.
-- rerate_line stays: it is no copy of anything.
DROP TABLE IF EXISTS charge_to_day SYNC;
DROP TABLE IF EXISTS credit_to_day SYNC;
DROP TABLE IF EXISTS charge_correction_to_day SYNC;
DROP TABLE IF EXISTS charge SYNC;
DROP TABLE IF EXISTS credit_transaction SYNC;
DROP TABLE IF EXISTS charge_correction SYNC;
DROP TABLE IF EXISTS charge_by_day SYNC;
DROP TABLE IF EXISTS credit_by_day SYNC;
DROP TABLE IF EXISTS charge_correction_by_day SYNC
