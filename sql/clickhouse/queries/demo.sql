-- What `tollgate demo` shows from ClickHouse, as an analyst would ask it.

-- name: top_accounts
-- The accounts that spent most, with their share of all.
SELECT account_id, count() AS events, sum(toInt128(amount_micro)) AS spent_micro,
       round(100 * events / sum(events) OVER (), 1) AS percent
FROM charge FINAL
WHERE NOT demo
GROUP BY account_id
ORDER BY spent_micro DESC, account_id
LIMIT 5

-- name: top_models
-- The models that cost most, with their tokens.
SELECT if(model = '', action, concat(provider, '/', model)) AS what, count() AS events,
       sum(input_tokens) AS input, sum(output_tokens) AS output,
       sum(toInt128(amount_micro)) AS spent_micro
FROM charge FINAL
WHERE NOT demo
GROUP BY what
ORDER BY spent_micro DESC, what
LIMIT 5

-- name: seen
-- Which events of one account can be read.
SELECT event_id FROM charge WHERE account_id = {account_id:String} AND event_id IN {event_ids:Array(String)}
