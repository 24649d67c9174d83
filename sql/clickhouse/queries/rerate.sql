-- The lines of re-rating runs, and what they come to. Sums are of Int128, read with FINAL.
-- {name:Type} are ClickHouse's own query parameters.

-- name: partitions_of_run
-- Partitions that hold lines of a run of this number: of an earlier life of PostgreSQL, when the run is
-- only about to begin. {run_id}.
SELECT DISTINCT partition_id
FROM system.parts
WHERE database = currentDatabase() AND table = 'rerate_line' AND active
  AND partition = toString({run_id:UInt64})

-- name: drop_partition
-- {partition_id}: one of partitions_of_run.
ALTER TABLE rerate_line DROP PARTITION ID {partition_id:String}

-- name: count_lines
-- How many events of the run have a line. {run_id}.
SELECT count() FROM rerate_line FINAL WHERE run_id = {run_id:UInt64}

-- name: line_groups
-- What a run found, by account, model (or action) and day (UTC), the largest differences first; what
-- uncharged events would cost is beside the difference, because it is not booked by a re-rate.
-- {run_id}, {groups_max}: at most so many.
SELECT
    account_id,
    multiIf(model = '', toString(action), provider = '', toString(model), concat(provider, '/', model)) AS priced_as,
    toDate(occurred_at) AS day,
    count() AS events,
    countIf(verdict = 'changed') AS changed,
    countIf(verdict = 'unpriced') AS unpriced,
    countIf(verdict = 'voided') AS voided,
    countIf(verdict = 'uncharged') AS uncharged,
    sum(toInt128(l.old_micro)) AS old_micro,
    sumIf(toInt128(l.new_micro), verdict != 'uncharged') AS new_micro,
    sumIf(toInt128(l.new_micro) - toInt128(l.old_micro), verdict != 'uncharged') AS difference_micro,
    sumIf(toInt128(l.new_micro), verdict = 'uncharged') AS uncharged_micro
FROM rerate_line AS l FINAL
WHERE run_id = {run_id:UInt64}
GROUP BY account_id, priced_as, day
ORDER BY abs(difference_micro) DESC, uncharged_micro DESC, account_id, priced_as, day
LIMIT {groups_max:UInt64}
