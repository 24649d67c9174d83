-- Why an event costs what it costs: where it is, and what its price depended on. Reads only.

-- name: accounts_charged_for
-- The accounts that were charged for an event of that id; an id belongs to one account, but two may
-- use the same. One look into the primary key for each account. $1 event id, $2 account or NULL: all.
SELECT account.account_id
FROM account
WHERE ($2::text IS NULL OR account.account_id = $2)
  AND EXISTS (
    SELECT FROM charge WHERE charge.account_id = account.account_id AND charge.event_id = $1
    OFFSET 0
  )
ORDER BY account.account_id
LIMIT 10

-- name: letters_of
-- Why an event was not charged, newest first. $1 event id, $2 account or NULL: all.
SELECT dead_letter_id, account_id, event_id, reason, detail, model, appended_at, dead_at,
       requeued_at, tried_version
FROM dead_letter
WHERE event_id = $1 AND ($2::text IS NULL OR account_id = $2)
ORDER BY dead_letter_id DESC
LIMIT 10

-- name: account_facts
-- What an account's price depends on. $1 account.
SELECT tier, demo FROM account WHERE account_id = $1

-- name: counted_units
-- Units that an account has used in a month; no row: none. $1 account, $2 counter, $3 month.
SELECT units FROM usage_counter WHERE account_id = $1 AND counter = $2 AND month = $3
