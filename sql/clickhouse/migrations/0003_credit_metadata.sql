-- What the caller said of a deduction, a settlement or an adjustment (provider, model, tokens), as it is
-- in the ledger. Every statement can be repeated. Credits that were copied before it have none: where
-- `tollgate verify` names days because of that, `tollgate rebuild` copies them anew.

ALTER TABLE credit_transaction ADD COLUMN IF NOT EXISTS metadata String AFTER created_at;

-- For analysts: every change of a balance that is not usage, in credits.
CREATE OR REPLACE VIEW credits AS
SELECT
    transaction_id, account_id, created_at, toDate(created_at) AS day, type, status,
    CAST(amount_micro AS Decimal(38, 6)) / 1000000 AS credits,
    CAST(balance_after_micro AS Decimal(38, 6)) / 1000000 AS balance_after,
    actor, reason, event_id, hold_id, grant_id, metadata
FROM credit_transaction FINAL;
