-- The price book: append-only versions. Nothing here updates or deletes one.

-- name: lock_versions
-- One publisher at a time, until its transaction ends; readers are not stopped.
LOCK TABLE price_version IN SHARE ROW EXCLUSIVE MODE;

-- name: versions
-- Every version without its catalog, oldest first. Equal catalogs have equal digests: a price
-- change seldom touches the 2,330 models of the catalog, so the reader parses each catalog once.
SELECT price_version,
       effective_from,
       (document - 'catalog')::text AS document,
       md5((document -> 'catalog')::text) AS catalog_digest
FROM price_version
ORDER BY price_version;

-- name: catalog
-- $1: a version; its catalog as JSON text.
SELECT (document -> 'catalog')::text FROM price_version WHERE price_version = $1;

-- name: digest_in_force
-- $1: a moment; the digest of the version that holds then, no row before the first version.
SELECT digest
FROM price_version
WHERE effective_from <= $1
ORDER BY effective_from DESC, price_version DESC
LIMIT 1;

-- name: start
-- $1: the wanted start, NULL for now. Returns the start and whether it is in the past.
SELECT coalesce($1::timestamptz, now()) AS effective_from,
       coalesce($1::timestamptz < now(), false) AS past;

-- name: has_versions
-- Whether any version was ever published.
SELECT EXISTS (SELECT FROM price_version);

-- name: add_version
-- $1 start, $2 document as JSON text, $3 its digest, $4 who publishes. Returns the version's number.
INSERT INTO price_version (effective_from, document, digest, published_by)
VALUES ($1, $2::jsonb, $3, $4)
RETURNING price_version;
