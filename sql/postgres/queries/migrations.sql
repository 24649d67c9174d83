-- Which versions of the schema a database has, and what its schema looks like.

-- name: create_history
-- The table of applied migrations; it belongs to no migration, because it must be there first.
CREATE TABLE IF NOT EXISTS schema_migration (
    number     integer PRIMARY KEY,
    name       text NOT NULL,
    checksum   text NOT NULL,
    applied_at timestamptz NOT NULL DEFAULT now()
)

-- name: has_history
-- False for a database that was never migrated.
SELECT to_regclass('schema_migration') IS NOT NULL

-- name: read_history
-- What was applied, in order.
SELECT number, name, checksum, applied_at FROM schema_migration ORDER BY number

-- name: note_migration
-- $1 number, $2 name, $3 checksum.
INSERT INTO schema_migration (number, name, checksum) VALUES ($1, $2, $3)

-- name: lock_migrations
-- One `tollgate migrate` at a time; ends with the transaction. $1 a number that nothing else uses.
SELECT pg_advisory_xact_lock($1)

-- name: count_tables
-- Tables of the schema in use: 0 is an empty database.
SELECT count(*) FROM pg_class
WHERE relnamespace = current_schema()::regnamespace AND relkind IN ('r', 'p')

-- name: current_schema
-- The schema in use, public unless the role says otherwise.
SELECT current_schema()

-- name: open_reference
-- An empty schema, in which schema.sql is built for comparison; rolled back afterwards.
CREATE SCHEMA tollgate_reference

-- name: enter_reference
-- What is created from here to the end of the (sub)transaction lands in the reference.
SET LOCAL search_path = tollgate_reference

-- name: describe_schema
-- Every object of the schema $1 with its definition, without the schema's name; the history of
-- migrations is left out.
WITH relation AS (
    SELECT oid, relname, relkind, reloptions, relpersistence
    FROM pg_class
    WHERE relnamespace = $1::text::regnamespace AND relname NOT LIKE 'schema_migration%'
), described (kind, name, definition) AS (
    SELECT 'table', relname::text, concat_ws(' ', relkind, relpersistence, reloptions::text)
    FROM relation WHERE relkind IN ('r', 'p', 'v', 'm')
    UNION ALL
    SELECT 'column', relname || '.' || attname,
           concat_ws(' ', format_type(atttypid, atttypmod), attnotnull, attidentity, attgenerated,
                     collname, pg_get_expr(adbin, adrelid))
    FROM relation
    JOIN pg_attribute ON attrelid = relation.oid AND attnum > 0 AND NOT attisdropped
    LEFT JOIN pg_attrdef ON adrelid = attrelid AND adnum = attnum
    LEFT JOIN pg_collation ON pg_collation.oid = attcollation
    WHERE relkind IN ('r', 'p', 'v', 'm')
    UNION ALL
    SELECT 'index', indexed.relname::text, pg_get_indexdef(indexed.oid)
    FROM relation AS indexed WHERE relkind = 'i'
    UNION ALL
    SELECT 'constraint', relname || '.' || conname, pg_get_constraintdef(pg_constraint.oid)
    FROM relation JOIN pg_constraint ON conrelid = relation.oid
    UNION ALL
    SELECT 'trigger', relname || '.' || tgname, concat_ws(' ', tgenabled, pg_get_triggerdef(pg_trigger.oid))
    FROM relation JOIN pg_trigger ON tgrelid = relation.oid AND NOT tgisinternal
    UNION ALL
    SELECT 'sequence', relname::text, concat_ws(' ', seqtypid::regtype, seqstart, seqincrement, seqmax, seqmin, seqcycle)
    FROM relation JOIN pg_sequence ON seqrelid = relation.oid
    UNION ALL
    SELECT 'function', proname || '(' || pg_get_function_identity_arguments(pg_proc.oid) || ')',
           concat_ws(' ', provolatile, proisstrict, prosecdef, prosrc)
    FROM pg_proc WHERE pronamespace = $1::text::regnamespace
    UNION ALL
    SELECT 'type', typname::text, typtype::text
    FROM pg_type WHERE typnamespace = $1::text::regnamespace AND typtype IN ('e', 'd')
)
SELECT kind, name, replace(replace(definition, $1 || '.', ''), 'tollgate_reference.', '') AS definition
FROM described
ORDER BY kind, name

-- name: uses_roles
-- Whether roles.sql was ever run here: somebody was granted something on the ledger as its rater.
SELECT EXISTS (
    SELECT FROM pg_class, aclexplode(relacl) AS granted
    WHERE oid = to_regclass('charge') AND granted.grantee = to_regrole('tollgate_rater')::oid)

-- name: read_rights
-- Every right that one of our roles has in the schema, by its name alone.
WITH ours AS (
    SELECT oid, rolname FROM pg_roles WHERE rolname ~ '^tollgate_'
), things AS (
    SELECT relname, '' AS attname, relacl AS acl FROM pg_class WHERE relnamespace = current_schema()::regnamespace
    UNION ALL
    SELECT relname, attname, attacl FROM pg_class JOIN pg_attribute ON attrelid = pg_class.oid
    WHERE relnamespace = current_schema()::regnamespace
)
SELECT rolname::text AS role, privilege_type AS verb, relname::text AS thing, attname::text AS column
FROM things, aclexplode(acl), ours
WHERE ours.oid = grantee AND rolname <> 'tollgate_owner'
UNION ALL
SELECT rolname, 'EXISTS', '', '' FROM ours
ORDER BY 1, 3, 2, 4
