-- Entries of all accounts are counted by status, for a stretch of time. Transactions are written in the
-- order of time: a range of pages has a first and a last moment, and an insert costs next to nothing. A
-- hold pays only when it ends without a charge.
-- See sql/postgres/schema.sql for the contract of each table.

CREATE INDEX credit_transaction_by_time ON credit_transaction USING brin (created_at) WITH (autosummarize = on);
CREATE INDEX credit_hold_failed ON credit_hold (closed_at) WHERE state IN ('released', 'expired');
