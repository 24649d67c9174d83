-- Runs that price a stretch of charges again, and how batches are found by their time and in their
-- order. See sql/postgres/schema.sql for the contract of each table.

CREATE TABLE rerate_run (
    run_id         bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
    kind           text NOT NULL CHECK (kind IN ('what-if', 'apply', 'revert')),
    source         text NOT NULL CHECK (source IN ('ledger', 'topic')),
    reverts        bigint UNIQUE REFERENCES rerate_run,
    occurred_from  timestamptz NOT NULL,
    occurred_to    timestamptz NOT NULL,
    account_ids    text[],
    book           text NOT NULL,
    price_version  integer,
    newest_version integer NOT NULL,
    document       text,
    extent         jsonb NOT NULL,
    position       jsonb NOT NULL,
    chunks         integer NOT NULL DEFAULT 0,
    events         bigint NOT NULL DEFAULT 0,
    changed        bigint NOT NULL DEFAULT 0,
    unpriced       bigint NOT NULL DEFAULT 0,
    voided         bigint NOT NULL DEFAULT 0,
    uncharged      bigint NOT NULL DEFAULT 0,
    superseded     bigint NOT NULL DEFAULT 0,
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
CREATE UNIQUE INDEX rerate_run_one_booking ON rerate_run ((true)) WHERE kind <> 'what-if' AND finished_at IS NULL;

CREATE TABLE rerate_counter (
    run_id     bigint NOT NULL REFERENCES rerate_run,
    account_id text COLLATE "C" NOT NULL,
    counter    text COLLATE "C" NOT NULL,
    month      date NOT NULL,
    units      bigint NOT NULL,
    PRIMARY KEY (run_id, account_id, counter, month)
) WITH (fillfactor = 70);

CREATE INDEX batch_outcome_posted ON batch_outcome (posted_at);
CREATE INDEX batch_outcome_order ON batch_outcome (batch_id, epoch, partition, to_offset);
