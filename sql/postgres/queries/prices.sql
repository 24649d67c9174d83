-- The price book: append-only versions. Nothing here updates or deletes one.

-- name: lock_versions
-- One publisher at a time, until its transaction ends; readers are not stopped.
SELECT pg_advisory_xact_lock(hashtext('tollgate price versions'));

-- name: versions_above
-- The next versions without their catalogs, in the order of their numbers. Equal catalogs have equal
-- digests: a price change seldom touches the 2,330 models of the catalog, so the reader parses each
-- catalog once. $1: above this number, $2: at most so many.
SELECT price_version,
       effective_from,
       (document - 'catalog')::text AS document,
       md5((document -> 'catalog')::text) AS catalog_digest
FROM price_version
WHERE price_version > $1
ORDER BY price_version
LIMIT $2;

-- name: catalog
-- $1: a version; its catalog as JSON text.
SELECT (document -> 'catalog')::text FROM price_version WHERE price_version = $1;

-- name: rules
-- $1: numbers of versions; each with its document without the catalog, in which nothing is counted.
SELECT price_version, (document - 'catalog')::text
FROM price_version
WHERE price_version = ANY ($1::integer[])
ORDER BY price_version;

-- name: start
-- $1: the wanted start, NULL for now. Returns the start, whether it is in the past, and the time. "Now"
-- is the clock, not the start of the transaction, which may have waited for another publisher; and it
-- is the second after the next, so that the version is there for all to see before it begins.
SELECT coalesce($1::timestamptz, date_trunc('second', clock_timestamp()) + interval '2 seconds')
           AS effective_from,
       coalesce($1::timestamptz < clock_timestamp(), false) AS past,
       clock_timestamp() AS now;

-- name: next_start
-- $1: a start; when the next version takes over from one that begins then, NULL when none does.
SELECT min(effective_from) FROM price_version WHERE effective_from > $1;

-- name: in_force
-- $1: a moment; the number of the version that holds then, no row before the first version.
SELECT price_version
FROM price_version
WHERE effective_from <= $1
ORDER BY effective_from DESC, price_version DESC
LIMIT 1;

-- name: overview
-- Every version by number: when it holds (`until` NULL: for good; equal to its start: never, since
-- a newer one begins at the same moment), who published it, and what its catalog was taken from.
SELECT price_version,
       effective_from,
       lead(effective_from) OVER (ORDER BY effective_from, price_version) AS until,
       published_by,
       published_at,
       document -> 'catalog' ->> 'source' AS catalog
FROM price_version
ORDER BY price_version;

-- name: document
-- $1: a version; its whole document as JSON text, no row when there is no such version.
SELECT document::text FROM price_version WHERE price_version = $1;

-- name: charges_between
-- $1 start, $2 end (NULL: none): how many charges are for usage of that time. Reads the whole
-- ledger: only for a person who publishes a correction.
SELECT count(*) FROM charge WHERE occurred_at >= $1 AND ($2::timestamptz IS NULL OR occurred_at < $2);

-- name: has_versions
-- Whether any version was ever published.
SELECT EXISTS (SELECT FROM price_version);

-- name: add_version
-- $1 start, $2 document as JSON text, $3 its digest, $4 who publishes. Returns the version's number.
INSERT INTO price_version (effective_from, document, digest, published_by)
VALUES ($1, $2::jsonb, $3, $4)
RETURNING price_version;
