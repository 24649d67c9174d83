-- Credits and the gate: caps, sessions, idempotency keys, coupons, allowances, jobs, callers, audit.
-- See sql/postgres/schema.sql for the contract of each table.

ALTER TABLE account
    ADD COLUMN monthly_cap_micro bigint CHECK (monthly_cap_micro >= 0),
    ADD COLUMN spend_month date NOT NULL DEFAULT '1970-01-01',
    ADD COLUMN spend_micro bigint NOT NULL DEFAULT 0;

ALTER TABLE credit_transaction ADD COLUMN metadata text NOT NULL DEFAULT '';

CREATE INDEX grant_draw_repaid ON grant_draw (grant_id) WHERE cause LIKE 'repay:%';

ALTER TABLE credit_hold
    ADD COLUMN kind text NOT NULL DEFAULT 'hold' CHECK (kind IN ('hold', 'session')),
    ADD COLUMN actor text NOT NULL DEFAULT '',
    ADD COLUMN metadata text NOT NULL DEFAULT '',
    ADD COLUMN usage text NOT NULL DEFAULT '',
    ADD COLUMN expires_at timestamptz,
    ADD COLUMN touched_at timestamptz NOT NULL DEFAULT now(),
    ADD COLUMN closed_by text NOT NULL DEFAULT '';
CREATE INDEX credit_hold_of_account ON credit_hold (account_id, created_at, hold_id);
CREATE INDEX credit_hold_pending ON credit_hold (touched_at) WHERE state = 'open' AND touched_at IS NOT NULL;

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

-- A hold that is plainly allowed, in one statement: the account's lock, what the decision reads under
-- it, the hold, and the reply to its key. It knows only yes: in every other case (no such account, not
-- enough, a cap, too many open, an id or a key that is there) it changes nothing and returns NULL, and
-- the gate decides again as always and says why. So it may be stricter than core/holds.py and never
-- laxer; tests/integration/test_hold_at_once_equals_core.py holds the two equal.
-- Each statement in it sees what was committed before it (read committed): also before the lock was given.
-- Returns the reply, as it is kept with the key.
CREATE FUNCTION hold_at_once(
    the_hold text, the_account text, amount bigint, the_kind text, the_actor text, the_metadata text,
    live_seconds integer, minimum_micro bigint, open_max integer, cap_micro bigint,
    of_caller text, the_key text, the_operation text, the_hash bytea
) RETURNS text LANGUAGE plpgsql AS $$
DECLARE
    locked          account;
    over_micro      bigint;
    open_holds      bigint;
    available_micro bigint;
    room_micro      bigint;
    made            credit_hold;
    reply           text;
BEGIN
    IF the_key IS NOT NULL AND EXISTS (SELECT FROM idempotency_key WHERE caller = of_caller AND key = the_key) THEN
        RETURN NULL;
    END IF;
    SELECT * INTO locked FROM account WHERE account_id = the_account FOR NO KEY UPDATE;
    SELECT coalesce(sum(remaining_micro), 0) INTO over_micro FROM credit_grant
    WHERE account_id = the_account AND NOT spent AND expires_at <= now();
    SELECT count(*) INTO open_holds FROM credit_hold WHERE account_id = the_account AND state = 'open';
    available_micro := locked.balance_micro - locked.held_micro - over_micro;
    room_micro := coalesce(locked.monthly_cap_micro, cap_micro) - locked.held_micro
        - CASE WHEN locked.spend_month >= date_trunc('month', now() AT TIME ZONE 'UTC')::date
               THEN locked.spend_micro ELSE 0 END;
    IF amount > 0 AND available_micro >= greatest(amount, minimum_micro) AND open_holds < open_max
       AND (room_micro IS NULL OR room_micro >= amount) THEN
        INSERT INTO credit_hold (hold_id, account_id, amount_micro, kind, actor, metadata, expires_at)
        VALUES (the_hold, the_account, amount, the_kind, the_actor, the_metadata,
                now() + make_interval(secs => live_seconds::double precision))
        ON CONFLICT DO NOTHING
        RETURNING * INTO made;
        IF FOUND THEN
            UPDATE account SET held_micro = held_micro + amount WHERE account_id = the_account;
            reply := json_build_object(
                'hold_id', made.hold_id, 'account_id', made.account_id, 'kind', made.kind,
                'amount_micro', made.amount_micro, 'available_micro', available_micro - amount,
                'created_at', made.created_at, 'expires_at', made.expires_at, 'outcome', 'held')::text;
            IF the_key IS NOT NULL THEN
                INSERT INTO idempotency_key (caller, key, operation, body_hash, response)
                VALUES (of_caller, the_key, the_operation, the_hash, reply);
            END IF;
        END IF;
    END IF;
    RETURN reply;
END $$;
