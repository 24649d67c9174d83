-- Prices with counters, service tiers and the provider's own bill; corrections of charges; letters
-- that wait for a price. See sql/postgres/schema.sql for the contract of each table.

ALTER TABLE charge
    ADD COLUMN service_tier text NOT NULL DEFAULT 'standard',
    ADD COLUMN billed_currency text NOT NULL DEFAULT '',
    ADD COLUMN billed_pico bigint NOT NULL DEFAULT 0,
    ADD COLUMN counter text NOT NULL DEFAULT '',
    ADD COLUMN counter_units bigint NOT NULL DEFAULT 0,
    ADD COLUMN counter_before bigint NOT NULL DEFAULT 0;

CREATE TABLE usage_counter (
    account_id text COLLATE "C" NOT NULL,
    counter    text COLLATE "C" NOT NULL,
    month      date NOT NULL,
    units      bigint NOT NULL,
    PRIMARY KEY (account_id, counter, month)
) WITH (fillfactor = 70);

CREATE TABLE charge_correction (
    correction_id      bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
    account_id         text COLLATE "C" NOT NULL,
    event_id           text COLLATE "C" NOT NULL,
    sequence           integer NOT NULL,
    kind               text NOT NULL CHECK (kind IN ('void', 'amend', 'rerate', 'revert')),
    run_id             bigint,
    voided             boolean NOT NULL,
    occurred_at        timestamptz NOT NULL,
    price_version      integer NOT NULL,
    rule               text NOT NULL,
    rated_micro        bigint NOT NULL,
    amount_micro       bigint NOT NULL,
    rated_change_micro bigint NOT NULL,
    amount_change_micro bigint NOT NULL,
    tier               text NOT NULL,
    demo               boolean NOT NULL,
    action             text NOT NULL,
    provider           text NOT NULL,
    model              text NOT NULL,
    power_level        text NOT NULL,
    service_tier       text NOT NULL,
    input_tokens       bigint NOT NULL,
    cache_read_tokens  bigint NOT NULL,
    cache_write_tokens bigint NOT NULL,
    output_tokens      bigint NOT NULL,
    reasoning_tokens   bigint NOT NULL,
    other_meters       text NOT NULL,
    quantity           bigint NOT NULL,
    own_key            boolean NOT NULL,
    billed_currency    text NOT NULL,
    billed_pico        bigint NOT NULL,
    counter            text NOT NULL,
    counter_units      bigint NOT NULL,
    counter_before     bigint NOT NULL,
    transaction_id     bigint,
    actor              text NOT NULL,
    reason             text NOT NULL,
    idempotency_key    text UNIQUE,
    tx                 xid8 NOT NULL DEFAULT pg_current_xact_id(),
    created_at         timestamptz NOT NULL DEFAULT now(),
    UNIQUE (account_id, event_id, sequence),
    CHECK ((amount_change_micro = 0) = (transaction_id IS NULL)),
    CHECK ((run_id IS NULL) = (kind IN ('void', 'amend')))
);
CREATE UNIQUE INDEX charge_correction_once_a_run ON charge_correction (run_id, account_id, event_id) WHERE run_id IS NOT NULL;
CREATE INDEX charge_correction_horizon ON charge_correction (tx, correction_id);
CREATE TRIGGER charge_correction_append_only BEFORE UPDATE OR DELETE OR TRUNCATE ON charge_correction
    FOR EACH STATEMENT EXECUTE FUNCTION refuse_change();

ALTER TABLE dead_letter
    ADD COLUMN model text,
    ADD COLUMN tried_version integer NOT NULL DEFAULT 0;
CREATE INDEX dead_letter_parked ON dead_letter (tried_version, dead_letter_id) WHERE reason = 'unpriced' AND requeued_at IS NULL;
CREATE INDEX dead_letter_requeued ON dead_letter (account_id, event_id) WHERE requeued_at IS NOT NULL;
CREATE INDEX dead_letter_event ON dead_letter (event_id);

ALTER TABLE ship_range DROP CONSTRAINT ship_range_stream_check;
ALTER TABLE ship_range ADD CONSTRAINT ship_range_stream_check CHECK (stream IN ('charge', 'credit', 'correction'));
