-- An account's history is read by index, and its spend is what the ledger says also for what was booked
-- before the columns were there.
-- See sql/postgres/schema.sql for the contract of each table.

-- First of all, so that a rater is either done or waits before it has locked anything else.
LOCK TABLE account IN ACCESS EXCLUSIVE MODE;

CREATE INDEX charge_history ON charge (account_id, posted_at);
DROP INDEX credit_transaction_of_account;
CREATE INDEX credit_transaction_of_account ON credit_transaction (account_id, created_at, transaction_id);

UPDATE account SET spend_month = latest.month, spend_micro = latest.micro
FROM (
    SELECT DISTINCT ON (account_id) account_id, month, sum(micro)::bigint AS micro
    FROM (
        SELECT account_id, date_trunc('month', posted_at AT TIME ZONE 'UTC')::date AS month,
               amount_micro AS micro
        FROM charge
        UNION ALL
        SELECT account_id, date_trunc('month', created_at AT TIME ZONE 'UTC')::date, -amount_micro
        FROM credit_transaction
        WHERE type IN ('SETTLE', 'DEDUCT', 'CORRECTION') AND status = 'COMPLETED'
    ) AS moved
    GROUP BY account_id, month
    ORDER BY account_id, month DESC
) AS latest
WHERE account.account_id = latest.account_id;
