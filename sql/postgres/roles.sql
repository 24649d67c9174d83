-- Who may do what in PostgreSQL: one group for each stage, none of which can log in. `tollgate migrate
-- --roles` runs this as often as it likes; every `migrate` after it does, so that a new table gets its rights.
--
-- A right stands here when a statement that the stage's code can reach needs it, and only then: a test
-- compares this file with what PostgreSQL says that each statement needs. Tables are named one by one, so
-- that a new one is closed until somebody opens it. UPDATE is by column; where a statement only locks rows,
-- a column that nothing changes stands for it.

DO $$
DECLARE
    wanted text;
BEGIN
    FOREACH wanted IN ARRAY ARRAY['tollgate_owner', 'tollgate_rater', 'tollgate_warehouse',
                                  'tollgate_scheduler', 'tollgate_api', 'tollgate_operator',
                                  'tollgate_analyst']
    LOOP
        BEGIN
            IF to_regrole(wanted) IS NULL THEN
                EXECUTE format('CREATE ROLE %I NOLOGIN', wanted);
            END IF;
        EXCEPTION WHEN duplicate_object OR unique_violation THEN
            NULL; -- made meanwhile, for another database of the server
        END;
        IF NOT has_database_privilege(wanted, current_database(), 'CONNECT') THEN
            EXECUTE format('GRANT CONNECT ON DATABASE %I TO %I', current_database(), wanted);
        END IF;
        IF NOT has_schema_privilege(wanted, current_schema(), 'USAGE') THEN
            EXECUTE format('GRANT USAGE ON SCHEMA %I TO %I', current_schema(), wanted);
        END IF;
    END LOOP;
END $$;

-- The owner's members migrate: they make schemas (to compare with schema.sql) and change tables.
DO $$
DECLARE
    thing record;
BEGIN
    IF NOT pg_has_role(current_user, 'tollgate_owner', 'MEMBER') THEN
        GRANT tollgate_owner TO CURRENT_USER;
    END IF;
    IF NOT has_database_privilege('tollgate_owner', current_database(), 'CREATE') THEN
        EXECUTE format('GRANT CREATE ON DATABASE %I TO tollgate_owner', current_database());
    END IF;
    IF NOT has_schema_privilege('tollgate_owner', current_schema(), 'CREATE') THEN
        EXECUTE format('GRANT CREATE ON SCHEMA %I TO tollgate_owner', current_schema());
    END IF;
    -- What the migrations made, and nothing that somebody else put beside it.
    FOR thing IN
        SELECT format(CASE relkind WHEN 'S' THEN 'SEQUENCE %s' ELSE 'TABLE %s' END, pg_class.oid::regclass) AS name
        FROM pg_class
        WHERE relnamespace = current_schema()::regnamespace AND relkind IN ('r', 'p', 'S')
          AND relowner IN (current_user::regrole, (SELECT relowner FROM pg_class WHERE oid = 'charge'::regclass))
          AND relowner <> 'tollgate_owner'::regrole
          AND NOT EXISTS (SELECT FROM pg_depend WHERE objid = pg_class.oid AND deptype = 'i') -- of an identity
        UNION ALL
        SELECT format('FUNCTION %s', oid::regprocedure)
        FROM pg_proc
        WHERE pronamespace = current_schema()::regnamespace AND proowner <> 'tollgate_owner'::regrole
          AND proowner IN (current_user::regrole, (SELECT relowner FROM pg_class WHERE oid = 'charge'::regclass))
    LOOP
        EXECUTE format('ALTER %s OWNER TO tollgate_owner', thing.name);
    END LOOP;
END $$;

-- All is taken back first, in the same transaction: what no longer stands here is gone.
DO $$
DECLARE
    stage text;
BEGIN
    FOREACH stage IN ARRAY ARRAY['tollgate_rater', 'tollgate_warehouse', 'tollgate_scheduler', 'tollgate_api',
                                 'tollgate_operator', 'tollgate_analyst']
    LOOP
        EXECUTE format('REVOKE ALL ON ALL TABLES IN SCHEMA %I FROM %I', current_schema(), stage);
        EXECUTE format('REVOKE ALL ON ALL SEQUENCES IN SCHEMA %I FROM %I', current_schema(), stage);
    END LOOP;
END $$;

-- Charges: the ledger is added to, never changed. Of accounts it moves money, not terms.
GRANT SELECT ON account, batch_outcome, charge, credit_grant, credit_hold, dead_letter, price_version,
    stream_position, usage_counter TO tollgate_rater;
GRANT INSERT ON account, batch_outcome, charge, credit_grant, credit_transaction, dead_letter, deployment,
    grant_draw, stream_position, usage_counter TO tollgate_rater;
GRANT UPDATE (balance_micro, held_micro, overdraft_micro, spend_micro, spend_month) ON account TO
    tollgate_rater;
GRANT UPDATE (remaining_micro, spent) ON credit_grant TO tollgate_rater;
GRANT UPDATE (charged_micro, closed_at, report, state) ON credit_hold TO tollgate_rater;
GRANT UPDATE (published_at, requeued_at, tried_version) ON dead_letter TO tollgate_rater;
GRANT UPDATE (last_digest, next_offset, updated_at) ON stream_position TO tollgate_rater;
GRANT UPDATE (units) ON usage_counter TO tollgate_rater;
GRANT USAGE ON SEQUENCE batch_id_seq TO tollgate_rater;

-- Copies and audits: reads the ledger, writes how far the copy is.
GRANT SELECT ON account, audit_log, batch_outcome, charge, charge_correction, coupon, coupon_redemption,
    credit_grant, credit_hold, credit_transaction, dead_letter, deployment, grant_draw, refresh,
    ship_position, ship_range, stream_position, usage_counter TO tollgate_warehouse;
GRANT INSERT ON deployment, ship_position, ship_range TO tollgate_warehouse;
GRANT UPDATE (name) ON deployment TO tollgate_warehouse;
GRANT UPDATE (id_after, next_offset, tx_after) ON ship_position TO tollgate_warehouse;
GRANT UPDATE (done_at) ON ship_range TO tollgate_warehouse;

-- Jobs: refresh, reconcile, expire, audit, and the only DELETE of the daily work, the purge.
GRANT SELECT ON account, allowance, audit_log, batch_outcome, charge, charge_correction, coupon,
    coupon_redemption, credit_grant, credit_hold, credit_transaction, dead_letter, deployment, grant_draw,
    idempotency_key, job_run, price_version, refresh, ship_position, stream_position, usage_counter TO
    tollgate_scheduler;
GRANT INSERT ON allowance, credit_grant, credit_transaction, grant_draw, job_run, refresh TO
    tollgate_scheduler;
GRANT DELETE ON idempotency_key, job_run TO tollgate_scheduler;
GRANT UPDATE (balance_micro, held_micro, overdraft_micro, spend_micro, spend_month) ON account TO
    tollgate_scheduler;
GRANT UPDATE (due_at, grant_id, refreshed_at) ON allowance TO tollgate_scheduler;
GRANT UPDATE (remaining_micro, spent) ON credit_grant TO tollgate_scheduler;
GRANT UPDATE (charged_micro, closed_at, closed_by, report, state) ON credit_hold TO tollgate_scheduler;
GRANT UPDATE (created_at) ON idempotency_key TO tollgate_scheduler;
GRANT UPDATE (error, figures, finished_at, job_key, state) ON job_run TO tollgate_scheduler;

-- The gate and everything of apps, users and admins. No position, no charge, no price.
GRANT SELECT ON account, allowance, api_key, audit_log, batch_outcome, charge, coupon, coupon_redemption,
    credit_grant, credit_hold, credit_proposal, credit_transaction, grant_draw, idempotency_key, job_run,
    price_version, provider_key, refresh, usage_counter TO tollgate_api;
GRANT INSERT ON account, allowance, audit_log, coupon, coupon_redemption, credit_grant, credit_hold,
    credit_proposal, credit_transaction, grant_draw, idempotency_key, job_run, provider_key, refresh TO tollgate_api;
GRANT DELETE ON provider_key TO tollgate_api;
GRANT UPDATE (balance_micro, demo, held_micro, monthly_cap_micro, overdraft_micro, spend_micro, spend_month,
    tier) ON account TO tollgate_api;
GRANT UPDATE (custom_micro, due_at, grant_id, paused, preferred_day, refreshed_at) ON allowance TO
    tollgate_api;
GRANT UPDATE (disabled_at, uses) ON coupon TO tollgate_api;
GRANT UPDATE (remaining_micro, spent) ON credit_grant TO tollgate_api;
GRANT UPDATE (amount_micro, charged_micro, closed_at, closed_by, expires_at, state, touched_at, usage) ON
    credit_hold TO tollgate_api;
GRANT UPDATE (decided_at, decided_by, decision, state, transaction_id) ON credit_proposal TO tollgate_api;
GRANT UPDATE (error, figures, finished_at, job_key, state) ON job_run TO tollgate_api;
GRANT UPDATE (ciphertext, hint, remote_limit, remote_usage, rotated_at, synced_at) ON provider_key TO
    tollgate_api;
GRANT UPDATE (undone_at, undone_by) ON refresh TO tollgate_api;

-- What a person does with `tollgate`: corrections, prices, re-rates, epochs, keys.
GRANT SELECT ON account, allowance, api_key, audit_log, batch_outcome, charge, charge_correction, coupon,
    coupon_redemption, credit_grant, credit_hold, credit_proposal, credit_transaction, dead_letter,
    deployment, grant_draw, idempotency_key, job_run, price_version, provider_key, refresh, rerate_counter,
    rerate_run, ship_position, ship_range, stream_position, usage_counter TO tollgate_operator;
GRANT INSERT ON account, allowance, api_key, audit_log, charge_correction, coupon, coupon_redemption,
    credit_grant, credit_proposal, credit_transaction, deployment, grant_draw, idempotency_key, job_run, price_version,
    refresh, rerate_counter, rerate_run, ship_position, ship_range, usage_counter TO tollgate_operator;
GRANT DELETE ON deployment, idempotency_key, job_run TO tollgate_operator;
GRANT UPDATE (balance_micro, demo, held_micro, monthly_cap_micro, overdraft_micro, spend_micro, spend_month,
    tier) ON account TO tollgate_operator;
GRANT UPDATE (custom_micro, due_at, grant_id, paused, preferred_day, refreshed_at) ON allowance TO
    tollgate_operator;
GRANT UPDATE (expires_at, revoked_at) ON api_key TO tollgate_operator;
GRANT UPDATE (disabled_at, uses) ON coupon TO tollgate_operator;
GRANT UPDATE (remaining_micro, spent) ON credit_grant TO tollgate_operator;
GRANT UPDATE (charged_micro, closed_at, closed_by, report, state, touched_at) ON credit_hold TO
    tollgate_operator;
GRANT UPDATE (decided_at, decided_by, decision, state, transaction_id) ON credit_proposal TO
    tollgate_operator;
GRANT UPDATE (requeued_at) ON dead_letter TO tollgate_operator;
GRANT UPDATE (value) ON deployment TO tollgate_operator;
GRANT UPDATE (created_at) ON idempotency_key TO tollgate_operator;
GRANT UPDATE (error, figures, finished_at, job_key, state) ON job_run TO tollgate_operator;
GRANT UPDATE (ciphertext) ON provider_key TO tollgate_operator;
GRANT UPDATE (undone_at, undone_by) ON refresh TO tollgate_operator;
GRANT UPDATE (units) ON rerate_counter TO tollgate_operator;
GRANT UPDATE (changed, chunks, events, finished_at, moved_at, new_micro, old_micro, position, superseded,
    uncharged, unpriced, voided) ON rerate_run TO tollgate_operator;
GRANT UPDATE (id_after, next_offset, tx_after) ON ship_position TO tollgate_operator;
GRANT UPDATE (done_at) ON ship_range TO tollgate_operator;
GRANT UPDATE (epoch, first_offset, last_digest, next_offset, updated_at) ON stream_position TO
    tollgate_operator;
GRANT UPDATE (units) ON usage_counter TO tollgate_operator;
GRANT USAGE ON SEQUENCE credit_transaction_transaction_id_seq TO tollgate_operator;

-- Reads for reports. No keys, no replies, no codes that give credits, and of dead letters no bytes.
GRANT SELECT ON account, allowance, batch_outcome, charge, charge_correction, credit_grant, credit_hold,
    credit_transaction, grant_draw, job_run, price_version, refresh, rerate_run, ship_position, ship_range,
    stream_position, usage_counter TO tollgate_analyst;
GRANT SELECT (dead_letter_id, topic, partition, epoch, "offset", reason, account_id, event_id, payload_bytes,
    payload_sha256, appended_at, dead_at, published_at, requeued_at, model, tried_version)
    ON dead_letter TO tollgate_analyst;
