-- Tollgate's ClickHouse schema, to read. Migrations are what runs; a test holds the two equal.
--
-- A copy of PostgreSQL's ledger for analysts. Nothing reads it to decide about credits, and
-- `tollgate rebuild` can make it anew at any time.
--
-- Units: every *_micro column is an integer of micro-credits (1 credit = 1,000,000). The views
-- usage, usage_by_day, credits and credits_by_day say credits, as exact decimals: start there.
--
-- Three rules that keep the copy exact:
--   * every table that a copied row reaches, the targets of materialized views included, keeps a
--     window of deduplication tokens: a repeated insert is dropped by its token
--   * the backstop is ReplacingMergeTree on the ledger's own key, all of whose columns, that of the
--     partition included, never change: money is read with FINAL
--   * `shipped_generation` refuses rows that belong to an earlier rebuild. 0: nothing was copied yet.

-- One row per charged usage event. Sorted for questions about one account over time.
CREATE TABLE IF NOT EXISTS charge (
    account_id          String,
    event_id            String,
    partition           Int32,
    epoch               Int32,
    offset              Int64,
    occurred_at         DateTime64(6, 'UTC'),
    posted_at           DateTime64(6, 'UTC'),
    payload_hash        Int64,
    price_version       Int32,
    rule                LowCardinality(String),
    rated_micro         Int64,
    amount_micro        Int64,
    balance_after_micro Int64,
    tier                LowCardinality(String),
    demo                Bool,
    source              LowCardinality(String),
    action              LowCardinality(String),
    provider            LowCardinality(String),
    model               LowCardinality(String),
    power_level         LowCardinality(String),
    input_tokens        Int64,
    cache_read_tokens   Int64,
    cache_write_tokens  Int64,
    output_tokens       Int64,
    reasoning_tokens    Int64,
    other_meters        String,
    quantity            Int64,
    own_key             Bool,
    hold_id             Nullable(String),
    resource_id         String,
    attributes          String,
    generation          UInt32,
    CONSTRAINT shipped_generation CHECK generation = 0
)
ENGINE = ReplacingMergeTree
PARTITION BY toYYYYMM(occurred_at)
PRIMARY KEY (account_id, occurred_at)
ORDER BY (account_id, occurred_at, event_id)
SETTINGS non_replicated_deduplication_window = 10000, fsync_after_insert = 1, fsync_part_directory = 1;

-- One row per change of a balance that is not a usage charge.
CREATE TABLE IF NOT EXISTS credit_transaction (
    transaction_id      Int64,
    account_id          String,
    type                LowCardinality(String),
    status              LowCardinality(String),
    amount_micro        Int64,
    balance_after_micro Int64,
    event_id            Nullable(String),
    hold_id             Nullable(String),
    grant_id            Nullable(Int64),
    actor               LowCardinality(String),
    reason              String,
    idempotency_key     Nullable(String),
    tx                  UInt64,
    created_at          DateTime64(6, 'UTC'),
    generation          UInt32,
    CONSTRAINT shipped_generation CHECK generation = 0
)
ENGINE = ReplacingMergeTree
PARTITION BY toYYYYMM(created_at)
PRIMARY KEY (account_id, created_at)
ORDER BY (account_id, created_at, transaction_id)
SETTINGS non_replicated_deduplication_window = 10000, fsync_after_insert = 1, fsync_part_directory = 1;

-- Usage summed by day (UTC). Sorted for questions about a span of days over all accounts.
-- Rows are partial sums until merged: read it with sum() and GROUP BY, or through usage_by_day.
CREATE TABLE IF NOT EXISTS charge_by_day (
    day                Date,
    account_id         String,
    provider           LowCardinality(String),
    model              LowCardinality(String),
    action             LowCardinality(String),
    demo               Bool,
    events             UInt64,
    quantity           Int128,
    input_tokens       Int128,
    cache_read_tokens  Int128,
    cache_write_tokens Int128,
    output_tokens      Int128,
    reasoning_tokens   Int128,
    rated_micro        Int128,
    amount_micro       Int128
)
ENGINE = SummingMergeTree
PARTITION BY toYYYYMM(day)
ORDER BY (day, account_id, provider, model, action, demo)
SETTINGS non_replicated_deduplication_window = 10000, fsync_after_insert = 1, fsync_part_directory = 1;

CREATE MATERIALIZED VIEW IF NOT EXISTS charge_to_day TO charge_by_day AS
SELECT
    toDate(occurred_at) AS day, account_id, provider, model, action, demo,
    count() AS events,
    sum(toInt128(charge.quantity)) AS quantity,
    sum(toInt128(charge.input_tokens)) AS input_tokens,
    sum(toInt128(charge.cache_read_tokens)) AS cache_read_tokens,
    sum(toInt128(charge.cache_write_tokens)) AS cache_write_tokens,
    sum(toInt128(charge.output_tokens)) AS output_tokens,
    sum(toInt128(charge.reasoning_tokens)) AS reasoning_tokens,
    sum(toInt128(charge.rated_micro)) AS rated_micro,
    sum(toInt128(charge.amount_micro)) AS amount_micro
FROM charge
GROUP BY day, account_id, provider, model, action, demo;

-- Grants, expiries and adjustments summed by day (UTC) and type. Partial sums, as above.
CREATE TABLE IF NOT EXISTS credit_by_day (
    day          Date,
    account_id   String,
    type         LowCardinality(String),
    status       LowCardinality(String),
    transactions UInt64,
    amount_micro Int128
)
ENGINE = SummingMergeTree
PARTITION BY toYYYYMM(day)
ORDER BY (day, account_id, type, status)
SETTINGS non_replicated_deduplication_window = 10000, fsync_after_insert = 1, fsync_part_directory = 1;

CREATE MATERIALIZED VIEW IF NOT EXISTS credit_to_day TO credit_by_day AS
SELECT
    toDate(created_at) AS day, account_id, type, status,
    count() AS transactions,
    sum(toInt128(credit_transaction.amount_micro)) AS amount_micro
FROM credit_transaction
GROUP BY day, account_id, type, status;

-- For analysts: one row per charged event, amounts in credits. Demo accounts are in it, with
-- demo = true and credits = 0; list_credits is what the price book says either way.
CREATE OR REPLACE VIEW usage AS
SELECT
    account_id, event_id, occurred_at, toDate(occurred_at) AS day,
    action, provider, model, tier, power_level, demo, own_key, source, resource_id,
    input_tokens, cache_read_tokens, cache_write_tokens, output_tokens, reasoning_tokens,
    input_tokens + output_tokens AS tokens,
    quantity,
    CAST(amount_micro AS Decimal(38, 6)) / 1000000 AS credits,
    CAST(rated_micro AS Decimal(38, 6)) / 1000000 AS list_credits,
    CAST(balance_after_micro AS Decimal(38, 6)) / 1000000 AS balance_after,
    rule, price_version, hold_id, other_meters, attributes, posted_at
FROM charge FINAL;

-- For analysts: usage by day, account, provider, model and action. Much less to read than usage.
CREATE OR REPLACE VIEW usage_by_day AS
SELECT
    day, account_id, provider, model, action, demo,
    sum(r.events) AS events,
    sum(r.quantity) AS quantity,
    sum(r.input_tokens) AS input_tokens,
    sum(r.cache_read_tokens) AS cache_read_tokens,
    sum(r.cache_write_tokens) AS cache_write_tokens,
    sum(r.output_tokens) AS output_tokens,
    sum(r.reasoning_tokens) AS reasoning_tokens,
    input_tokens + output_tokens AS tokens,
    toDecimal128(toString(sum(r.amount_micro)), 6) / 1000000 AS credits,
    toDecimal128(toString(sum(r.rated_micro)), 6) / 1000000 AS list_credits
FROM charge_by_day AS r
GROUP BY day, account_id, provider, model, action, demo;

-- For analysts: every change of a balance that is not usage, in credits.
CREATE OR REPLACE VIEW credits AS
SELECT
    transaction_id, account_id, created_at, toDate(created_at) AS day, type, status,
    CAST(amount_micro AS Decimal(38, 6)) / 1000000 AS credits,
    CAST(balance_after_micro AS Decimal(38, 6)) / 1000000 AS balance_after,
    actor, reason, event_id, hold_id, grant_id
FROM credit_transaction FINAL;

CREATE OR REPLACE VIEW credits_by_day AS
SELECT
    day, account_id, type, status,
    sum(r.transactions) AS transactions,
    toDecimal128(toString(sum(r.amount_micro)), 6) / 1000000 AS credits
FROM credit_by_day AS r
GROUP BY day, account_id, type, status;
