-- Tollgate's ClickHouse schema, to read. Migrations are what runs; a test holds the two equal.
--
-- A copy of PostgreSQL's ledger for analysts. Nothing reads it to decide about credits, and
-- `tollgate rebuild` can make it anew at any time.
--
-- Units: every *_micro column is an integer of micro-credits (1 credit = 1,000,000). The views
-- usage, net_usage, corrections, credits, their sums by day and rerates say credits, as exact decimals:
-- start there.
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
    service_tier        LowCardinality(String) DEFAULT 'standard',
    billed_currency     LowCardinality(String),
    billed_pico         Int64,
    counter             LowCardinality(String),
    counter_units       Int64,
    counter_before      Int64,
    generation          UInt32,
    CONSTRAINT shipped_generation CHECK generation = 0
)
ENGINE = ReplacingMergeTree
PARTITION BY toYYYYMM(occurred_at)
PRIMARY KEY (account_id, occurred_at)
ORDER BY (account_id, occurred_at, event_id)
SETTINGS non_replicated_deduplication_window = 10000, fsync_after_insert = 1, fsync_part_directory = 1;

-- One row per change of a balance that is not a usage charge. metadata: the caller's JSON object, or
-- empty.
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
    metadata            String,
    generation          UInt32,
    CONSTRAINT shipped_generation CHECK generation = 0
)
ENGINE = ReplacingMergeTree
PARTITION BY toYYYYMM(created_at)
PRIMARY KEY (account_id, created_at)
ORDER BY (account_id, created_at, transaction_id)
SETTINGS non_replicated_deduplication_window = 10000, fsync_after_insert = 1, fsync_part_directory = 1;

-- One row per correction of a charge: the event's whole state after it, and what of the state before it
-- the roll-up has to take away (was_*). Sorted as charge is, by the charge's own time.
CREATE TABLE IF NOT EXISTS charge_correction (
    correction_id          Int64,
    account_id             String,
    event_id               String,
    sequence               Int32,
    kind                   LowCardinality(String),
    run_id                 Nullable(Int64),
    voided                 Bool,
    occurred_at            DateTime64(6, 'UTC'),
    price_version          Int32,
    rule                   LowCardinality(String),
    rated_micro            Int64,
    amount_micro           Int64,
    rated_change_micro     Int64,
    amount_change_micro    Int64,
    tier                   LowCardinality(String),
    demo                   Bool,
    action                 LowCardinality(String),
    provider               LowCardinality(String),
    model                  LowCardinality(String),
    power_level            LowCardinality(String),
    service_tier           LowCardinality(String),
    input_tokens           Int64,
    cache_read_tokens      Int64,
    cache_write_tokens     Int64,
    output_tokens          Int64,
    reasoning_tokens       Int64,
    other_meters           String,
    quantity               Int64,
    own_key                Bool,
    billed_currency        LowCardinality(String),
    billed_pico            Int64,
    counter                LowCardinality(String),
    counter_units          Int64,
    counter_before         Int64,
    transaction_id         Nullable(Int64),
    actor                  LowCardinality(String),
    reason                 String,
    idempotency_key        Nullable(String),
    tx                     UInt64,
    created_at             DateTime64(6, 'UTC'),
    source                 LowCardinality(String),
    hold_id                Nullable(String),
    resource_id            String,
    attributes             String,
    posted_at              DateTime64(6, 'UTC'),
    was_voided             Bool,
    was_demo               Bool,
    was_action             LowCardinality(String),
    was_provider           LowCardinality(String),
    was_model              LowCardinality(String),
    was_quantity           Int64,
    was_input_tokens       Int64,
    was_cache_read_tokens  Int64,
    was_cache_write_tokens Int64,
    was_output_tokens      Int64,
    was_reasoning_tokens   Int64,
    generation             UInt32,
    CONSTRAINT shipped_generation CHECK generation = 0
)
ENGINE = ReplacingMergeTree
PARTITION BY toYYYYMM(occurred_at)
PRIMARY KEY (account_id, occurred_at)
ORDER BY (account_id, occurred_at, event_id, sequence)
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

-- What corrections changed in charge_by_day: each adds the state after it and takes away the one before.
-- Partial sums, as there; negative where there is less.
CREATE TABLE IF NOT EXISTS charge_correction_by_day (
    day                Date,
    account_id         String,
    provider           LowCardinality(String),
    model              LowCardinality(String),
    action             LowCardinality(String),
    demo               Bool,
    events             Int64,
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

CREATE MATERIALIZED VIEW IF NOT EXISTS charge_correction_to_day TO charge_correction_by_day AS
SELECT
    day, account_id, provider, model, action, demo,
    sum(s.sign) AS events,
    sum(s.sign * toInt128(s.quantity)) AS quantity,
    sum(s.sign * toInt128(s.input_tokens)) AS input_tokens,
    sum(s.sign * toInt128(s.cache_read_tokens)) AS cache_read_tokens,
    sum(s.sign * toInt128(s.cache_write_tokens)) AS cache_write_tokens,
    sum(s.sign * toInt128(s.output_tokens)) AS output_tokens,
    sum(s.sign * toInt128(s.reasoning_tokens)) AS reasoning_tokens,
    sum(s.sign * toInt128(s.rated_micro)) AS rated_micro,
    sum(s.sign * toInt128(s.amount_micro)) AS amount_micro
FROM (
    SELECT
        sign, toDate(c.occurred_at) AS day, c.account_id AS account_id,
        if(sign = 1, c.provider, c.was_provider) AS provider,
        if(sign = 1, c.model, c.was_model) AS model,
        if(sign = 1, c.action, c.was_action) AS action,
        if(sign = 1, c.demo, c.was_demo) AS demo,
        if(sign = 1, c.quantity, c.was_quantity) AS quantity,
        if(sign = 1, c.input_tokens, c.was_input_tokens) AS input_tokens,
        if(sign = 1, c.cache_read_tokens, c.was_cache_read_tokens) AS cache_read_tokens,
        if(sign = 1, c.cache_write_tokens, c.was_cache_write_tokens) AS cache_write_tokens,
        if(sign = 1, c.output_tokens, c.was_output_tokens) AS output_tokens,
        if(sign = 1, c.reasoning_tokens, c.was_reasoning_tokens) AS reasoning_tokens,
        if(sign = 1, c.rated_micro, c.rated_micro - c.rated_change_micro) AS rated_micro,
        if(sign = 1, c.amount_micro, c.amount_micro - c.amount_change_micro) AS amount_micro
    FROM charge_correction AS c
    ARRAY JOIN [1, -1] AS sign
    WHERE NOT if(sign = 1, c.voided, c.was_voided)
) AS s
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

-- What a re-rating run found out, one row per charge it looked at: a report, and no part of the copy.
-- `tollgate rebuild` leaves it as it is; a run's lines are dropped 90 days after they were written.
CREATE TABLE IF NOT EXISTS rerate_line (
    run_id      UInt64,
    account_id  String,
    event_id    String,
    occurred_at DateTime64(6, 'UTC'),
    provider    LowCardinality(String),
    model       LowCardinality(String),
    action      LowCardinality(String),
    old_version Int32,
    new_version Int32,
    old_micro   Int64,
    new_micro   Int64,
    verdict     LowCardinality(String),
    written_at  DateTime('UTC') DEFAULT now('UTC')
)
ENGINE = ReplacingMergeTree
PARTITION BY run_id
ORDER BY (run_id, account_id, occurred_at, event_id)
TTL written_at + INTERVAL 90 DAY
SETTINGS non_replicated_deduplication_window = 10000, ttl_only_drop_parts = 1;

-- For analysts: one row per charged event as it was charged, amounts in credits. Corrections change
-- nothing here: net_usage is what is left after them. Demo accounts are in it, with demo = true and
-- credits = 0; list_credits is what the price book says either way.
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
    rule, price_version, hold_id, other_meters, attributes, posted_at,
    service_tier, billed_currency,
    CAST(billed_pico AS Decimal(38, 12)) / 1000000000000 AS billed,
    counter, counter_units, counter_before
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

-- For analysts: one row per correction, in credits: what the event costs after it, and by how much more.
CREATE OR REPLACE VIEW corrections AS
SELECT
    correction_id, account_id, event_id, sequence, created_at AS corrected_at, kind, run_id, voided,
    occurred_at, toDate(occurred_at) AS day, action, provider, model, demo,
    CAST(amount_change_micro AS Decimal(38, 6)) / 1000000 AS credits_change,
    CAST(amount_micro AS Decimal(38, 6)) / 1000000 AS credits,
    CAST(rated_change_micro AS Decimal(38, 6)) / 1000000 AS list_credits_change,
    CAST(rated_micro AS Decimal(38, 6)) / 1000000 AS list_credits,
    rule, price_version, transaction_id, actor, reason
FROM charge_correction FINAL;

-- For analysts: one row per event that counts, in its state after its latest correction. Voided events
-- are not there; corrections = 0: as it was charged.
CREATE OR REPLACE VIEW net_usage AS
SELECT
    account_id, event_id, occurred_at, toDate(occurred_at) AS day,
    action, provider, model, tier, power_level, demo, own_key, source, resource_id,
    input_tokens, cache_read_tokens, cache_write_tokens, output_tokens, reasoning_tokens,
    input_tokens + output_tokens AS tokens,
    quantity,
    CAST(amount_micro AS Decimal(38, 6)) / 1000000 AS credits,
    CAST(rated_micro AS Decimal(38, 6)) / 1000000 AS list_credits,
    rule, price_version, hold_id, other_meters, attributes, posted_at,
    service_tier, billed_currency,
    CAST(billed_pico AS Decimal(38, 12)) / 1000000000000 AS billed,
    counter, counter_units, counter_before,
    corrections, corrected_at, correction_reason
FROM (
    SELECT
        account_id, event_id, occurred_at, action, provider, model, tier, power_level, demo, own_key,
        source, resource_id, input_tokens, cache_read_tokens, cache_write_tokens, output_tokens,
        reasoning_tokens, quantity, amount_micro, rated_micro, rule, price_version, hold_id,
        other_meters, attributes, posted_at, service_tier, billed_currency, billed_pico,
        counter, counter_units, counter_before,
        toInt32(0) AS corrections,
        CAST(NULL AS Nullable(DateTime64(6, 'UTC'))) AS corrected_at,
        '' AS correction_reason
    FROM charge FINAL
    WHERE (account_id, occurred_at, event_id) NOT IN (
        SELECT account_id, occurred_at, event_id FROM charge_correction
    )
    UNION ALL
    SELECT
        account_id, event_id, occurred_at, action, provider, model, tier, power_level, demo, own_key,
        source, resource_id, input_tokens, cache_read_tokens, cache_write_tokens, output_tokens,
        reasoning_tokens, quantity, amount_micro, rated_micro, rule, price_version, hold_id,
        other_meters, attributes, posted_at, service_tier, billed_currency, billed_pico,
        counter, counter_units, counter_before,
        sequence AS corrections,
        CAST(created_at AS Nullable(DateTime64(6, 'UTC'))) AS corrected_at,
        reason AS correction_reason
    FROM charge_correction FINAL
    WHERE NOT voided AND (account_id, occurred_at, event_id, sequence) IN (
        SELECT account_id, occurred_at, event_id, max(sequence)
        FROM charge_correction
        GROUP BY account_id, occurred_at, event_id
    )
);

-- For analysts: net_usage by day, account, provider, model and action, from the roll-ups: much less to
-- read. A group whose events were all voided or amended away is not there.
CREATE OR REPLACE VIEW net_usage_by_day AS
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
FROM (
    SELECT day, account_id, provider, model, action, demo, toInt64(events) AS events, quantity,
           input_tokens, cache_read_tokens, cache_write_tokens, output_tokens, reasoning_tokens,
           rated_micro, amount_micro
    FROM charge_by_day
    UNION ALL
    SELECT day, account_id, provider, model, action, demo, events, quantity,
           input_tokens, cache_read_tokens, cache_write_tokens, output_tokens, reasoning_tokens,
           rated_micro, amount_micro
    FROM charge_correction_by_day
) AS r
GROUP BY day, account_id, provider, model, action, demo
HAVING sum(r.events) != 0;

-- For analysts: every change of a balance that is not usage, in credits.
CREATE OR REPLACE VIEW credits AS
SELECT
    transaction_id, account_id, created_at, toDate(created_at) AS day, type, status,
    CAST(amount_micro AS Decimal(38, 6)) / 1000000 AS credits,
    CAST(balance_after_micro AS Decimal(38, 6)) / 1000000 AS balance_after,
    actor, reason, event_id, hold_id, grant_id, metadata
FROM credit_transaction FINAL;

CREATE OR REPLACE VIEW credits_by_day AS
SELECT
    day, account_id, type, status,
    sum(r.transactions) AS transactions,
    toDecimal128(toString(sum(r.amount_micro)), 6) / 1000000 AS credits
FROM credit_by_day AS r
GROUP BY day, account_id, type, status;

-- For analysts: what re-rating runs found out, in credits.
CREATE OR REPLACE VIEW rerates AS
SELECT
    run_id, account_id, event_id, occurred_at, toDate(occurred_at) AS day, provider, model, action,
    old_version, new_version,
    CAST(old_micro AS Decimal(38, 6)) / 1000000 AS old_credits,
    CAST(new_micro AS Decimal(38, 6)) / 1000000 AS new_credits,
    new_credits - old_credits AS difference,
    verdict
FROM rerate_line FINAL;
