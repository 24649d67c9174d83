-- Tollgate's PostgreSQL schema, to read. Migrations are what runs; a test holds the two equal.
--
-- Units: every *_micro column is an integer of micro-credits (1 credit = 1,000,000). No float, no numeric.
-- Text keys are COLLATE "C": they are opaque identifiers, compared by bytes.

-- Who has credits. Locked first by every transaction that moves credits, sorted by account_id.
-- balance_micro = sum(credit_grant.remaining_micro) - overdraft_micro.
CREATE TABLE account (
    account_id      text COLLATE "C" PRIMARY KEY,
    tier            text NOT NULL,
    demo            boolean NOT NULL DEFAULT false,
    balance_micro   bigint NOT NULL DEFAULT 0,
    overdraft_micro bigint NOT NULL DEFAULT 0 CHECK (overdraft_micro >= 0),
    held_micro      bigint NOT NULL DEFAULT 0 CHECK (held_micro >= 0),
    created_at      timestamptz NOT NULL DEFAULT now(),
    monthly_cap_micro bigint CHECK (monthly_cap_micro >= 0), -- NULL: no cap
    spend_month     date NOT NULL DEFAULT '1970-01-01',      -- the month (UTC, by posting) of spend_micro
    spend_micro     bigint NOT NULL DEFAULT 0                -- burned down in it, less what was given back
) WITH (fillfactor = 70);

-- Credits given, with a life. Burned down by priority, then earliest expiry, then oldest, then id.
CREATE TABLE credit_grant (
    grant_id        bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
    account_id      text COLLATE "C" NOT NULL REFERENCES account,
    source          text NOT NULL,
    granted_by      text NOT NULL,
    notes           text NOT NULL DEFAULT '',
    priority        smallint NOT NULL DEFAULT 100,
    amount_micro    bigint NOT NULL CHECK (amount_micro > 0),
    remaining_micro bigint NOT NULL CHECK (remaining_micro BETWEEN 0 AND amount_micro),
    spent           boolean NOT NULL DEFAULT false,
    expires_at      timestamptz,
    created_at      timestamptz NOT NULL DEFAULT now(),
    CHECK (spent = (remaining_micro = 0))
) WITH (fillfactor = 70);
-- `spent` and not remaining_micro is the predicate, so that a draw stays a heap-only update.
CREATE INDEX credit_grant_burn_order ON credit_grant (account_id, priority, expires_at, created_at, grant_id) WHERE NOT spent;
CREATE INDEX credit_grant_expiry ON credit_grant (expires_at) WHERE NOT spent AND expires_at IS NOT NULL;

-- How much of a grant one batch (or one single operation) used. amount - remaining = sum of its draws.
-- No foreign key and no second index: it is written on the hot path and read by the audit as a whole.
CREATE TABLE grant_draw (
    draw_id      bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
    grant_id     bigint NOT NULL,
    cause        text NOT NULL,        -- batch:<id>, repay:<grant_id>, expiry:<grant_id>
    amount_micro bigint NOT NULL CHECK (amount_micro > 0),
    drawn_at     timestamptz NOT NULL DEFAULT now()
);
-- For a grant that is asked for again by its key. The draws of batches, which are many, are not in it.
CREATE INDEX grant_draw_repaid ON grant_draw (grant_id) WHERE cause LIKE 'repay:%';

-- Credits reserved before work starts. held_micro of the account = sum of its open holds.
CREATE TABLE credit_hold (
    hold_id       text COLLATE "C" PRIMARY KEY,
    account_id    text COLLATE "C" NOT NULL REFERENCES account,
    amount_micro  bigint NOT NULL CHECK (amount_micro > 0),
    state         text NOT NULL DEFAULT 'open' CHECK (state IN ('open', 'settled', 'released', 'expired')),
    charged_micro bigint,
    created_at    timestamptz NOT NULL DEFAULT now(),
    closed_at     timestamptz,
    kind          text NOT NULL DEFAULT 'hold' CHECK (kind IN ('hold', 'session')),
    actor         text NOT NULL DEFAULT '',
    -- JSON object of the caller, '' when none
    metadata      text NOT NULL DEFAULT '' CHECK (octet_length(metadata) <= 32768),
    -- A session's usage so far, JSON: what an abandoned one is charged.
    usage         text NOT NULL DEFAULT '' CHECK (octet_length(usage) <= 32768),
    expires_at    timestamptz,               -- reconciliation looks at it from then on; NULL: by its age
    touched_at    timestamptz NOT NULL DEFAULT now(),
    closed_by     text NOT NULL DEFAULT '',
    -- A session's last report: '' not charged; charged by reconciliation; overtaken by a usage event that
    -- names the hold and was charged after it; replaced, when reconciliation has taken its charge back.
    report        text NOT NULL DEFAULT '' CHECK (report IN ('', 'charged', 'overtaken', 'replaced')),
    CHECK ((state = 'open') = (closed_at IS NULL)),
    CHECK (report = '' OR state = 'settled')
);
CREATE INDEX credit_hold_open ON credit_hold (account_id) WHERE state = 'open';
CREATE INDEX credit_hold_of_account ON credit_hold (account_id, created_at, hold_id);
-- IS NOT NULL, though it never is: so the count of an account's open holds can not choose it, which it
-- did where statistics were not there yet, and then read every open hold of all accounts.
CREATE INDEX credit_hold_pending ON credit_hold (touched_at) WHERE state = 'open' AND touched_at IS NOT NULL;
-- Of all accounts, for a stretch of time. Placing or settling a hold writes nothing here.
CREATE INDEX credit_hold_failed ON credit_hold (closed_at) WHERE state IN ('released', 'expired');
-- Only what is to be taken back: a walk through it costs nothing when there is nothing.
CREATE INDEX credit_hold_overtaken ON credit_hold (account_id, hold_id) WHERE report = 'overtaken';

-- Dated prices. Append-only: a version is never edited, a later one supersedes it from effective_from on.
CREATE TABLE price_version (
    price_version  integer GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
    effective_from timestamptz NOT NULL,
    document       jsonb NOT NULL,
    digest         text NOT NULL,
    published_by   text NOT NULL,
    published_at   timestamptz NOT NULL DEFAULT now()
);

-- One charged usage event: the claim, the price and the ledger row in one. Immutable.
-- The primary key is the promise: one (account, event) is charged once, whatever happens.
CREATE TABLE charge (
    account_id         text COLLATE "C" NOT NULL,
    event_id           text COLLATE "C" NOT NULL,
    partition          integer NOT NULL,
    epoch              integer NOT NULL,
    "offset"           bigint NOT NULL,
    occurred_at        timestamptz NOT NULL,
    posted_at          timestamptz NOT NULL DEFAULT now(),
    payload_hash       bigint NOT NULL,
    price_version      integer NOT NULL,
    rule               text NOT NULL,     -- which rule of the book priced it: model:openai/gpt-4o, action:bulk_operation, flat
    rated_micro        bigint NOT NULL,   -- what the book says
    amount_micro       bigint NOT NULL,   -- what was charged: rated_micro, or 0 for a demo account
    balance_after_micro bigint NOT NULL,
    tier               text NOT NULL,
    demo               boolean NOT NULL,
    source             text NOT NULL,
    action             text NOT NULL,
    provider           text NOT NULL,
    model              text NOT NULL,
    power_level        text NOT NULL,
    input_tokens       bigint NOT NULL,   -- the total, cached and audio included
    cache_read_tokens  bigint NOT NULL,
    cache_write_tokens bigint NOT NULL,
    output_tokens      bigint NOT NULL,   -- the total, reasoning included
    reasoning_tokens   bigint NOT NULL,
    other_meters       text NOT NULL,     -- JSON object of the rarer meters, '' when none
    quantity           bigint NOT NULL,
    own_key            boolean NOT NULL,  -- used the account's own provider key: charged the platform fee
    hold_id            text,
    resource_id        text NOT NULL,
    attributes         text NOT NULL,     -- JSON object of strings, '' when none
    service_tier       text NOT NULL DEFAULT 'standard', -- how the provider processed it: batch, priority, ...
    billed_currency    text NOT NULL DEFAULT '',         -- the provider's own bill, when the event carries it
    billed_pico        bigint NOT NULL DEFAULT 0,        -- in 10^-12 of the currency
    counter            text NOT NULL DEFAULT '',         -- the counter that its price depended on, '' when none
    counter_units      bigint NOT NULL DEFAULT 0,        -- what it added to the counter
    counter_before     bigint NOT NULL DEFAULT 0,        -- where the counter stood: what the account had used that month
    PRIMARY KEY (account_id, event_id)
);
-- The warehouse reads ranges by it; a second charge for one source position is refused by it.
CREATE UNIQUE INDEX charge_position ON charge (epoch, partition, "offset");
-- An account's history, newest first. Equal times of a batch share an entry, so it stays small.
CREATE INDEX charge_history ON charge (account_id, posted_at);
-- Reconciliation asks whether a hold that is still open has usage.
CREATE INDEX charge_hold ON charge (account_id, hold_id) WHERE hold_id IS NOT NULL;

-- What an account has used in a month (UTC, by event time) of something whose price depends on it.
-- Read and written under the account's lock, only by events priced by a counter.
-- units = sum(counter_units) of its charges, each in its state after the latest correction.
CREATE TABLE usage_counter (
    account_id text COLLATE "C" NOT NULL,
    counter    text COLLATE "C" NOT NULL,
    month      date NOT NULL,
    units      bigint NOT NULL,
    PRIMARY KEY (account_id, counter, month)
) WITH (fillfactor = 70);

-- A void, an amendment, or a new price of a charge: what it says and costs from then on. The charge
-- itself stays; its latest correction counts. Immutable.
CREATE TABLE charge_correction (
    correction_id      bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
    account_id         text COLLATE "C" NOT NULL,
    event_id           text COLLATE "C" NOT NULL,
    sequence           integer NOT NULL,  -- 1 for the first correction of the charge: two at once can not both be next
    kind               text NOT NULL CHECK (kind IN ('void', 'amend', 'rerate', 'revert')),
    run_id             bigint,            -- the re-rate (or its revert) that made it
    voided             boolean NOT NULL,  -- after it the event counts for nothing
    occurred_at        timestamptz NOT NULL, -- the charge's
    price_version      integer NOT NULL,
    rule               text NOT NULL,
    rated_micro        bigint NOT NULL,   -- what the event costs after it, and the same for all that follow
    amount_micro       bigint NOT NULL,
    rated_change_micro bigint NOT NULL,   -- against the state before it; less is negative
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
    transaction_id     bigint,            -- the credit transaction of -amount_change_micro
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

-- Every change of a balance that is not a usage charge: grants, welcome credits, expiry, adjustments.
CREATE TABLE credit_transaction (
    transaction_id      bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
    account_id          text COLLATE "C" NOT NULL,
    type                text NOT NULL,
    status              text NOT NULL DEFAULT 'COMPLETED' CHECK (status IN ('PENDING', 'COMPLETED', 'FAILED')),
    amount_micro        bigint NOT NULL,
    balance_after_micro bigint NOT NULL,
    event_id            text,
    hold_id             text,
    grant_id            bigint,
    actor               text NOT NULL,
    reason              text NOT NULL DEFAULT '',
    idempotency_key     text,             -- unique; most entries have none
    tx                  xid8 NOT NULL DEFAULT pg_current_xact_id(),
    created_at          timestamptz NOT NULL DEFAULT now(),
    -- JSON object of the caller: provider, model, tokens; '' when none
    metadata            text NOT NULL DEFAULT '' CHECK (octet_length(metadata) <= 32768)
);
CREATE UNIQUE INDEX credit_transaction_key ON credit_transaction (idempotency_key) WHERE idempotency_key IS NOT NULL;
-- An account's history, newest first.
CREATE INDEX credit_transaction_of_account ON credit_transaction (account_id, created_at, transaction_id);
-- Of all accounts, for a stretch of time.
CREATE INDEX credit_transaction_by_time ON credit_transaction USING brin (created_at) WITH (autosummarize = on);
-- The warehouse ships by (tx, transaction_id) up to the oldest unfinished transaction.
CREATE INDEX credit_transaction_horizon ON credit_transaction (tx, transaction_id);

-- Where each stream stands: the truth about what was applied. Locked first by every batch.
CREATE TABLE stream_position (
    topic         text NOT NULL,
    partition     integer NOT NULL,
    epoch         integer NOT NULL DEFAULT 1,
    next_offset   bigint NOT NULL DEFAULT 0,
    first_offset  bigint NOT NULL DEFAULT 0, -- where this epoch began: offsets below it were never ours
    last_digest   bigint,                    -- crc32 of the record at next_offset - 1
    updated_at    timestamptz NOT NULL DEFAULT now(),
    PRIMARY KEY (topic, partition)
) WITH (fillfactor = 50);

-- What one batch did with one partition: every offset is charged, duplicate, conflict or dead.
CREATE TABLE batch_outcome (
    batch_id     bigint NOT NULL,
    topic        text NOT NULL,
    partition    integer NOT NULL,
    epoch        integer NOT NULL,
    from_offset  bigint NOT NULL,
    to_offset    bigint NOT NULL,            -- exclusive
    charged      integer NOT NULL,
    duplicate    integer NOT NULL,
    dead         integer NOT NULL,           -- conflicts included: they are dead letters too
    posted_at    timestamptz NOT NULL DEFAULT now(),
    PRIMARY KEY (topic, partition, epoch, from_offset),
    CHECK (to_offset - from_offset = charged + duplicate + dead)
);
CREATE SEQUENCE batch_id_seq;

-- A record that could not be charged, with the reason and its bytes. Published to usage.dead from here.
CREATE TABLE dead_letter (
    dead_letter_id bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
    topic          text NOT NULL,
    partition      integer NOT NULL,
    epoch          integer NOT NULL,
    "offset"       bigint NOT NULL,
    reason         text NOT NULL,
    detail         text NOT NULL,
    account_id     text,
    event_id       text,
    key            bytea,
    payload        bytea NOT NULL,           -- the first 64 KiB of the record's value
    payload_bytes  integer NOT NULL,
    payload_sha256 bytea NOT NULL,
    appended_at    timestamptz NOT NULL,     -- Kafka's append time
    dead_at        timestamptz NOT NULL DEFAULT now(),
    published_at   timestamptz,
    requeued_at    timestamptz,
    model          text,                     -- provider/model or the action, when the event could be read
    tried_version  integer NOT NULL DEFAULT 0, -- the newest price version that could not price it
    UNIQUE (topic, epoch, partition, "offset")
);
CREATE INDEX dead_letter_unpublished ON dead_letter (dead_letter_id) WHERE published_at IS NULL;
CREATE INDEX dead_letter_reason ON dead_letter (reason, dead_letter_id);
-- Unpriced events wait for a version that prices them.
CREATE INDEX dead_letter_parked ON dead_letter (tried_version, dead_letter_id) WHERE reason = 'unpriced' AND requeued_at IS NULL;
-- A re-rate looks for charges of letters that waited long.
CREATE INDEX dead_letter_requeued ON dead_letter (account_id, event_id) WHERE requeued_at IS NOT NULL;
-- A copy of an event is as old as its first record.
CREATE INDEX dead_letter_event ON dead_letter (event_id);

-- A fixed slice of a stream on its way to ClickHouse: the intent, committed before the copy.
-- charge: per partition, from and to offsets (exclusive). credit, correction: (tx, id) keyset bounds.
CREATE TABLE ship_range (
    range_id     bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
    stream       text NOT NULL CHECK (stream IN ('charge', 'credit', 'correction')),
    generation   integer NOT NULL,            -- raised by rebuild: a new generation never meets an old token
    epoch        integer NOT NULL,
    partitions   integer[] NOT NULL,
    from_offsets bigint[] NOT NULL,
    to_offsets   bigint[] NOT NULL,
    tx_after     xid8 NOT NULL,
    id_after     bigint NOT NULL,
    tx_to        xid8 NOT NULL,
    id_to        bigint NOT NULL,
    row_count    bigint NOT NULL,
    sum_micro    bigint NOT NULL,
    opened_at    timestamptz NOT NULL DEFAULT now(),
    done_at      timestamptz
);
CREATE UNIQUE INDEX ship_range_one_open ON ship_range (stream) WHERE done_at IS NULL;

-- How far each stream is in ClickHouse, moved in the transaction that closes a range.
CREATE TABLE ship_position (
    stream      text NOT NULL,
    generation  integer NOT NULL,
    epoch       integer NOT NULL,
    partition   integer NOT NULL,             -- -1 for the credit and correction streams
    next_offset bigint NOT NULL DEFAULT 0,
    tx_after    xid8 NOT NULL DEFAULT '0',
    id_after    bigint NOT NULL DEFAULT 0,
    PRIMARY KEY (stream, generation, epoch, partition)
);

-- One re-rating: a stretch of charges (by event time) priced again, or such a run taken back. What is
-- read and how far it is are noted with each chunk, so that a run goes on after any crash.
CREATE TABLE rerate_run (
    run_id         bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
    kind           text NOT NULL CHECK (kind IN ('what-if', 'apply', 'revert')),
    source         text NOT NULL CHECK (source IN ('ledger', 'topic')),
    reverts        bigint UNIQUE REFERENCES rerate_run, -- the applied run that it takes back: once
    occurred_from  timestamptz NOT NULL,
    occurred_to    timestamptz NOT NULL,                -- exclusive
    account_ids    text[],                              -- only these; NULL: all
    book           text NOT NULL,                       -- what prices: published, version 3, file prices.yaml
    price_version  integer,                             -- the one version that prices; NULL: by event time
    newest_version integer NOT NULL,                    -- later versions do not count in this run
    document       text,                                -- the book itself when it is a file, as JSON
    extent         jsonb NOT NULL,                      -- batches or offsets, fixed when the run began
    position       jsonb NOT NULL,                      -- what of them is done
    chunks         integer NOT NULL DEFAULT 0,
    events         bigint NOT NULL DEFAULT 0,           -- what was found so far, and in whose sum
    changed        bigint NOT NULL DEFAULT 0,
    unpriced       bigint NOT NULL DEFAULT 0,
    voided         bigint NOT NULL DEFAULT 0,
    uncharged      bigint NOT NULL DEFAULT 0,
    superseded     bigint NOT NULL DEFAULT 0,           -- corrected after the run: a revert leaves them
    old_micro      bigint NOT NULL DEFAULT 0,
    new_micro      bigint NOT NULL DEFAULT 0,
    actor          text NOT NULL,
    reason         text NOT NULL,
    started_at     timestamptz NOT NULL DEFAULT now(),
    moved_at       timestamptz NOT NULL DEFAULT now(),
    finished_at    timestamptz,
    CHECK ((kind = 'revert') = (reverts IS NOT NULL)),
    CHECK (kind = 'what-if' OR source = 'ledger')
);
-- Two runs that move credits would work against each other.
CREATE UNIQUE INDEX rerate_run_one_booking ON rerate_run ((true)) WHERE kind <> 'what-if' AND finished_at IS NULL;

-- What a run has counted so far of something whose price depends on the month's usage.
CREATE TABLE rerate_counter (
    run_id     bigint NOT NULL REFERENCES rerate_run,
    account_id text COLLATE "C" NOT NULL,
    counter    text COLLATE "C" NOT NULL,
    month      date NOT NULL,
    units      bigint NOT NULL,
    PRIMARY KEY (run_id, account_id, counter, month)
) WITH (fillfactor = 70);

-- A run finds its first and last batch by time, and reads them in the order in which they charged.
CREATE INDEX batch_outcome_posted ON batch_outcome (posted_at);
CREATE INDEX batch_outcome_order ON batch_outcome (batch_id, epoch, partition, to_offset);

-- Small facts that a deployment keeps: the generation of ClickHouse's copy.
CREATE TABLE deployment (
    name  text PRIMARY KEY,
    value text NOT NULL
);

-- What a caller's key was answered, kept in the transaction that had the effect: a retry gets it back.
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

-- A code that gives credits: a fixed amount, or a percentage of a purchase. uses is moved under the
-- row's lock, so that a limit holds under any concurrency.
CREATE TABLE coupon (
    code             text COLLATE "C" PRIMARY KEY,
    kind             text NOT NULL CHECK (kind IN ('fixed', 'percentage')),
    amount_micro     bigint NOT NULL DEFAULT 0,
    percent_micro    bigint NOT NULL DEFAULT 0,    -- in millionths of a percent
    uses_max         bigint CHECK (uses_max > 0),
    account_uses_max integer NOT NULL DEFAULT 1 CHECK (account_uses_max > 0),
    uses             bigint NOT NULL DEFAULT 0 CHECK (uses >= 0 AND (uses_max IS NULL OR uses <= uses_max)),
    grant_days       integer CHECK (grant_days > 0), -- the life of what it gives; NULL: no end
    expires_at       timestamptz,
    disabled_at      timestamptz,
    created_by       text NOT NULL,
    created_at       timestamptz NOT NULL DEFAULT now(),
    CHECK ((kind = 'fixed' AND amount_micro > 0 AND percent_micro = 0)
        OR (kind = 'percentage' AND percent_micro > 0 AND amount_micro = 0))
);

-- One use of a coupon by an account; `use` counts from 1, so two at once can not both be the last.
CREATE TABLE coupon_redemption (
    code           text COLLATE "C" NOT NULL REFERENCES coupon,
    account_id     text COLLATE "C" NOT NULL REFERENCES account,
    use            integer NOT NULL CHECK (use > 0),
    base_micro     bigint NOT NULL,          -- the purchase that a percentage is of; 0 for a fixed amount
    amount_micro   bigint NOT NULL,
    transaction_id bigint NOT NULL,
    redeemed_at    timestamptz NOT NULL DEFAULT now(),
    PRIMARY KEY (code, account_id, use)
);
CREATE INDEX coupon_redemption_of_account ON coupon_redemption (account_id, redeemed_at);

-- The monthly allowance of an account: when it is due, and what the account asked for.
-- An account without a row has not been enrolled yet.
CREATE TABLE allowance (
    account_id      text COLLATE "C" PRIMARY KEY REFERENCES account,
    due_at          timestamptz NOT NULL,    -- the period of the next refresh
    refreshed_at    timestamptz,
    paused          boolean NOT NULL DEFAULT false,
    preferred_day   smallint CHECK (preferred_day BETWEEN 1 AND 31),
    custom_micro    bigint CHECK (custom_micro >= 0), -- wins over the tier's amount
    grant_id        bigint                   -- the latest allowance, whose remainder the next one replaces
) WITH (fillfactor = 70);
CREATE INDEX allowance_due ON allowance (due_at, account_id) WHERE NOT paused;

-- Every refresh: what it gave, what it replaced, who asked. One for an account and period, ever.
CREATE TABLE refresh (
    refresh_id           bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
    account_id           text COLLATE "C" NOT NULL, -- no foreign key: written by the million, under the account's lock
    period               timestamptz NOT NULL,     -- the due time that it answers
    tier                 text NOT NULL,
    amount_micro         bigint NOT NULL,
    replaced_micro       bigint NOT NULL,          -- remainder of the last allowance that was booked out
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

-- A run of a scheduler job. Its key is the message's: the same job twice is one run.
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

-- Keys of services and people, as digests; a key of role user is bound to its account.
CREATE TABLE api_key (
    key_id     text COLLATE "C" PRIMARY KEY,
    digest     bytea NOT NULL UNIQUE,        -- sha256 of the secret, which is random and long
    name       text NOT NULL,
    role       text NOT NULL CHECK (role IN ('user', 'service', 'admin')),
    scopes     text[] NOT NULL,
    account_id text COLLATE "C" REFERENCES account,
    created_by text NOT NULL,
    created_at timestamptz NOT NULL DEFAULT now(),
    expires_at timestamptz,
    revoked_at timestamptz,
    principal  text COLLATE "C" NOT NULL,    -- whom it acts as: the first key of those it succeeds, or itself
    CHECK ((role = 'user') = (account_id IS NOT NULL))
);

-- An account's own key at a provider, encrypted; only its last characters can be shown.
CREATE TABLE provider_key (
    account_id      text COLLATE "C" NOT NULL REFERENCES account,
    provider        text COLLATE "C" NOT NULL,
    ciphertext      bytea NOT NULL,
    hint            text NOT NULL,           -- its last four characters
    remote_limit    text,                    -- as the provider said, decimals in its currency
    remote_usage    text,
    synced_at       timestamptz,
    created_at      timestamptz NOT NULL DEFAULT now(),
    rotated_at      timestamptz,
    PRIMARY KEY (account_id, provider)
);

-- Who changed what, when: every action of an admin. Immutable, and chained: each row has the hash of
-- the row before it, and its own over that and everything in it. One row at a time: audit_id has no gaps.
CREATE TABLE audit_log (
    audit_id   bigint PRIMARY KEY,       -- given by the trigger, in the order of the chain
    at         timestamptz NOT NULL DEFAULT now(),
    actor      text NOT NULL,
    action     text NOT NULL,
    subject    text NOT NULL,
    before     jsonb,
    after      jsonb,
    reason     text NOT NULL DEFAULT '',
    request_id text NOT NULL DEFAULT '',
    previous_hash bytea NOT NULL,        -- of the row before, empty for the first
    hash       bytea NOT NULL            -- sha256, see audit_row_hash
);
CREATE INDEX audit_log_of_subject ON audit_log (subject, audit_id);

-- A gift that is too large for one admin, until another one decides; terms are what its kind has beside
-- the amount. Decided once, and never changed or deleted. Pending after expires_at, it is over.
CREATE TABLE credit_proposal (
    proposal_id    bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
    kind           text NOT NULL CHECK (kind IN ('grant', 'adjustment', 'coupon')),
    account_id     text COLLATE "C" REFERENCES account,  -- of a coupon NULL
    amount_micro   bigint NOT NULL CHECK (amount_micro <> 0),  -- less than 0: to take; of a coupon: one use
    terms          jsonb NOT NULL,
    reason         text NOT NULL,
    key            text COLLATE "C",       -- of the grant's entry in the ledger, once it is approved
    proposed_by    text NOT NULL,
    request_id     text NOT NULL,
    proposed_at    timestamptz NOT NULL DEFAULT now(),
    expires_at     timestamptz NOT NULL,
    state          text NOT NULL DEFAULT 'pending'
                   CHECK (state IN ('pending', 'approved', 'rejected', 'withdrawn', 'expired')),
    decided_by     text,                   -- never approved by who proposed
    decided_at     timestamptz,
    decision       text NOT NULL DEFAULT '',  -- why
    transaction_id bigint UNIQUE,          -- what it booked
    CHECK ((kind = 'coupon') = (account_id IS NULL)),
    CHECK ((state = 'pending') = (decided_at IS NULL)),
    CHECK ((decided_by IS NULL) = (decided_at IS NULL)),
    CHECK (state <> 'approved' OR decided_by <> proposed_by),
    CHECK ((state = 'approved' AND kind <> 'coupon') = (transaction_id IS NOT NULL))
);
CREATE UNIQUE INDEX credit_proposal_key ON credit_proposal (key) WHERE key IS NOT NULL;

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

-- The ledger is append-only, for everybody: a correction is a new row.
CREATE FUNCTION refuse_change() RETURNS trigger LANGUAGE plpgsql AS $$
BEGIN
    RAISE EXCEPTION '% is append-only: % is refused', TG_TABLE_NAME, TG_OP;
END $$;
CREATE TRIGGER charge_append_only BEFORE UPDATE OR DELETE OR TRUNCATE ON charge
    FOR EACH STATEMENT EXECUTE FUNCTION refuse_change();
CREATE TRIGGER credit_transaction_append_only BEFORE UPDATE OR DELETE OR TRUNCATE ON credit_transaction
    FOR EACH STATEMENT EXECUTE FUNCTION refuse_change();
CREATE TRIGGER grant_draw_append_only BEFORE UPDATE OR DELETE OR TRUNCATE ON grant_draw
    FOR EACH STATEMENT EXECUTE FUNCTION refuse_change();
CREATE TRIGGER price_version_append_only BEFORE UPDATE OR DELETE OR TRUNCATE ON price_version
    FOR EACH STATEMENT EXECUTE FUNCTION refuse_change();
CREATE TRIGGER batch_outcome_append_only BEFORE UPDATE OR DELETE OR TRUNCATE ON batch_outcome
    FOR EACH STATEMENT EXECUTE FUNCTION refuse_change();
CREATE TRIGGER charge_correction_append_only BEFORE UPDATE OR DELETE OR TRUNCATE ON charge_correction
    FOR EACH STATEMENT EXECUTE FUNCTION refuse_change();
CREATE TRIGGER audit_log_append_only BEFORE UPDATE OR DELETE OR TRUNCATE ON audit_log
    FOR EACH STATEMENT EXECUTE FUNCTION refuse_change();

-- The hash of a row. tollgate verify computes it by itself, from the same columns.
CREATE FUNCTION audit_row_hash(act audit_log) RETURNS bytea LANGUAGE sql STABLE AS $$
    SELECT sha256(convert_to(jsonb_build_array(
        encode(act.previous_hash, 'hex'), act.audit_id, (extract(epoch FROM act.at) * 1000000)::bigint,
        act.actor, act.action, act.subject, act.before::text, act.after::text, act.reason,
        act.request_id)::text, 'UTF8'))
$$;

-- One act at a time gets the next number and the hash of the last one; the lock ends with the transaction.
-- It comes after every other lock: an act is noted when what it did is done.
CREATE FUNCTION chain_audit_row() RETURNS trigger LANGUAGE plpgsql AS $$
BEGIN
    PERFORM pg_advisory_xact_lock(hashtext('tollgate audit log'));
    SELECT audit_id, hash INTO NEW.audit_id, NEW.previous_hash FROM audit_log ORDER BY audit_id DESC LIMIT 1;
    NEW.audit_id := coalesce(NEW.audit_id, 0) + 1;
    NEW.previous_hash := coalesce(NEW.previous_hash, '');
    NEW.hash := audit_row_hash(NEW);
    RETURN NEW;
END $$;
CREATE TRIGGER audit_log_chained BEFORE INSERT ON audit_log
    FOR EACH ROW EXECUTE FUNCTION chain_audit_row();

-- Of a proposal only the decision is added, once.
CREATE FUNCTION decide_once() RETURNS trigger LANGUAGE plpgsql AS $$
DECLARE
    decided text[] := '{state,decided_by,decided_at,decision,transaction_id}';
BEGIN
    IF OLD.state <> 'pending' OR to_jsonb(NEW) - decided <> to_jsonb(OLD) - decided THEN
        RAISE EXCEPTION 'a proposal is decided once and never changed';
    END IF;
    RETURN NEW;
END $$;
CREATE TRIGGER credit_proposal_decided_once BEFORE UPDATE ON credit_proposal
    FOR EACH ROW EXECUTE FUNCTION decide_once();
CREATE TRIGGER credit_proposal_append_only BEFORE DELETE OR TRUNCATE ON credit_proposal
    FOR EACH STATEMENT EXECUTE FUNCTION refuse_change();
