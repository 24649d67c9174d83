-- Large gifts of credits wait for a second admin.
-- See sql/postgres/schema.sql for the contract of each table.

CREATE TABLE credit_proposal (
    proposal_id    bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
    kind           text NOT NULL CHECK (kind IN ('grant', 'adjustment', 'coupon')),
    account_id     text COLLATE "C" REFERENCES account,
    amount_micro   bigint NOT NULL CHECK (amount_micro <> 0),
    terms          jsonb NOT NULL,
    reason         text NOT NULL,
    key            text COLLATE "C",
    proposed_by    text NOT NULL,
    request_id     text NOT NULL,
    proposed_at    timestamptz NOT NULL DEFAULT now(),
    expires_at     timestamptz NOT NULL,
    state          text NOT NULL DEFAULT 'pending'
                   CHECK (state IN ('pending', 'approved', 'rejected', 'withdrawn', 'expired')),
    decided_by     text,
    decided_at     timestamptz,
    decision       text NOT NULL DEFAULT '',
    transaction_id bigint UNIQUE,
    CHECK ((kind = 'coupon') = (account_id IS NULL)),
    CHECK ((state = 'pending') = (decided_at IS NULL)),
    CHECK ((decided_by IS NULL) = (decided_at IS NULL)),
    CHECK (state <> 'approved' OR decided_by <> proposed_by),
    CHECK ((state = 'approved' AND kind <> 'coupon') = (transaction_id IS NOT NULL))
);
CREATE UNIQUE INDEX credit_proposal_key ON credit_proposal (key) WHERE key IS NOT NULL;

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
