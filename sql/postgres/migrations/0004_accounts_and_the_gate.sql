-- Credits and the gate: caps, sessions, idempotency keys, coupons, allowances, jobs, callers, audit.
-- See sql/postgres/schema.sql for the contract of each table.

ALTER TABLE account
    ADD COLUMN monthly_cap_micro bigint CHECK (monthly_cap_micro >= 0),
    ADD COLUMN spend_month date NOT NULL DEFAULT '1970-01-01',
    ADD COLUMN spend_micro bigint NOT NULL DEFAULT 0;

ALTER TABLE credit_transaction ADD COLUMN metadata text NOT NULL DEFAULT '';

ALTER TABLE credit_hold
    ADD COLUMN kind text NOT NULL DEFAULT 'hold' CHECK (kind IN ('hold', 'session')),
    ADD COLUMN actor text NOT NULL DEFAULT '',
    ADD COLUMN metadata text NOT NULL DEFAULT '',
    ADD COLUMN usage text NOT NULL DEFAULT '',
    ADD COLUMN expires_at timestamptz,
    ADD COLUMN touched_at timestamptz NOT NULL DEFAULT now(),
    ADD COLUMN closed_by text NOT NULL DEFAULT '';
CREATE INDEX credit_hold_of_account ON credit_hold (account_id, created_at, hold_id);
CREATE INDEX credit_hold_pending ON credit_hold (touched_at) WHERE state = 'open';

CREATE TABLE idempotency_key (
    caller     text COLLATE "C" NOT NULL,
    key        text COLLATE "C" NOT NULL,
    operation  text NOT NULL,
    body_hash  bytea NOT NULL,
    response   text NOT NULL,
    created_at timestamptz NOT NULL DEFAULT now(),
    PRIMARY KEY (caller, key)
);
CREATE INDEX idempotency_key_age ON idempotency_key (created_at);

CREATE TABLE coupon (
    code             text COLLATE "C" PRIMARY KEY,
    kind             text NOT NULL CHECK (kind IN ('fixed', 'percentage')),
    amount_micro     bigint NOT NULL DEFAULT 0,
    percent_micro    bigint NOT NULL DEFAULT 0,
    uses_max         bigint CHECK (uses_max > 0),
    account_uses_max integer NOT NULL DEFAULT 1 CHECK (account_uses_max > 0),
    uses             bigint NOT NULL DEFAULT 0 CHECK (uses >= 0 AND (uses_max IS NULL OR uses <= uses_max)),
    grant_days       integer CHECK (grant_days > 0),
    expires_at       timestamptz,
    disabled_at      timestamptz,
    created_by       text NOT NULL,
    created_at       timestamptz NOT NULL DEFAULT now(),
    CHECK ((kind = 'fixed' AND amount_micro > 0 AND percent_micro = 0)
        OR (kind = 'percentage' AND percent_micro > 0 AND amount_micro = 0))
);

CREATE TABLE coupon_redemption (
    code           text COLLATE "C" NOT NULL REFERENCES coupon,
    account_id     text COLLATE "C" NOT NULL REFERENCES account,
    use            integer NOT NULL CHECK (use > 0),
    base_micro     bigint NOT NULL,
    amount_micro   bigint NOT NULL,
    transaction_id bigint NOT NULL,
    redeemed_at    timestamptz NOT NULL DEFAULT now(),
    PRIMARY KEY (code, account_id, use)
);
CREATE INDEX coupon_redemption_of_account ON coupon_redemption (account_id, redeemed_at);

CREATE TABLE allowance (
    account_id      text COLLATE "C" PRIMARY KEY REFERENCES account,
    due_at          timestamptz NOT NULL,
    refreshed_at    timestamptz,
    paused          boolean NOT NULL DEFAULT false,
    preferred_day   smallint CHECK (preferred_day BETWEEN 1 AND 31),
    custom_micro    bigint CHECK (custom_micro >= 0),
    grant_id        bigint
) WITH (fillfactor = 70);
CREATE INDEX allowance_due ON allowance (due_at, account_id) WHERE NOT paused;

CREATE TABLE refresh (
    refresh_id           bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
    account_id           text COLLATE "C" NOT NULL REFERENCES account,
    period               timestamptz NOT NULL,
    tier                 text NOT NULL,
    amount_micro         bigint NOT NULL,
    replaced_micro       bigint NOT NULL,
    balance_before_micro bigint NOT NULL,
    balance_after_micro  bigint NOT NULL,
    grant_id             bigint,
    run_id               bigint NOT NULL,
    actor                text NOT NULL,
    reason               text NOT NULL,
    undone_at            timestamptz,
    undone_by            text,
    refreshed_at         timestamptz NOT NULL DEFAULT now(),
    UNIQUE (account_id, period)
);

CREATE TABLE job_run (
    run_id       bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
    job          text NOT NULL,
    job_key      text COLLATE "C" NOT NULL UNIQUE,
    dry_run      boolean NOT NULL,
    requested_by text NOT NULL,
    state        text NOT NULL DEFAULT 'running' CHECK (state IN ('running', 'done', 'failed')),
    figures      jsonb NOT NULL DEFAULT '{}',
    error        text NOT NULL DEFAULT '',
    started_at   timestamptz NOT NULL DEFAULT now(),
    finished_at  timestamptz,
    CHECK ((state = 'running') = (finished_at IS NULL))
);
CREATE INDEX job_run_latest ON job_run (job, run_id);

CREATE TABLE api_key (
    key_id     text COLLATE "C" PRIMARY KEY,
    digest     bytea NOT NULL UNIQUE,
    name       text NOT NULL,
    role       text NOT NULL CHECK (role IN ('user', 'service', 'admin')),
    scopes     text[] NOT NULL,
    account_id text COLLATE "C" REFERENCES account,
    created_by text NOT NULL,
    created_at timestamptz NOT NULL DEFAULT now(),
    expires_at timestamptz,
    revoked_at timestamptz,
    CHECK ((role = 'user') = (account_id IS NOT NULL))
);

CREATE TABLE provider_key (
    account_id      text COLLATE "C" NOT NULL REFERENCES account,
    provider        text COLLATE "C" NOT NULL,
    ciphertext      bytea NOT NULL,
    hint            text NOT NULL,
    remote_limit    text,
    remote_usage    text,
    synced_at       timestamptz,
    created_at      timestamptz NOT NULL DEFAULT now(),
    rotated_at      timestamptz,
    PRIMARY KEY (account_id, provider)
);

CREATE TABLE audit_log (
    audit_id   bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
    at         timestamptz NOT NULL DEFAULT now(),
    actor      text NOT NULL,
    action     text NOT NULL,
    subject    text NOT NULL,
    before     jsonb,
    after      jsonb,
    reason     text NOT NULL DEFAULT '',
    request_id text NOT NULL DEFAULT ''
);
CREATE INDEX audit_log_of_subject ON audit_log (subject, audit_id);
CREATE TRIGGER audit_log_append_only BEFORE UPDATE OR DELETE OR TRUNCATE ON audit_log
    FOR EACH STATEMENT EXECUTE FUNCTION refuse_change();
