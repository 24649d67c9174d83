-- The rows of the audit log are chained by hashes: a row that is changed, taken out or put in shows.
-- The chain begins with the rows that are there now: what happened to them before can not be known.
-- See sql/postgres/schema.sql for the contract of each table.

ALTER TABLE audit_log DISABLE TRIGGER audit_log_append_only;
ALTER TABLE audit_log ALTER audit_id DROP IDENTITY;
ALTER TABLE audit_log ADD previous_hash bytea, ADD hash bytea;

CREATE FUNCTION audit_row_hash(act audit_log) RETURNS bytea LANGUAGE sql STABLE AS $$
    SELECT sha256(convert_to(jsonb_build_array(
        encode(act.previous_hash, 'hex'), act.audit_id, (extract(epoch FROM act.at) * 1000000)::bigint,
        act.actor, act.action, act.subject, act.before::text, act.after::text, act.reason,
        act.request_id)::text, 'UTF8'))
$$;

CREATE FUNCTION chain_audit_row() RETURNS trigger LANGUAGE plpgsql AS $$
BEGIN
    PERFORM pg_advisory_xact_lock(hashtext('tollgate audit log'));
    SELECT audit_id, hash INTO NEW.audit_id, NEW.previous_hash FROM audit_log ORDER BY audit_id DESC LIMIT 1;
    NEW.audit_id := coalesce(NEW.audit_id, 0) + 1;
    NEW.previous_hash := coalesce(NEW.previous_hash, '');
    NEW.hash := audit_row_hash(NEW);
    RETURN NEW;
END $$;

DO $$
DECLARE
    act audit_log;
    last_hash bytea := '';
BEGIN
    FOR act IN SELECT * FROM audit_log ORDER BY audit_id LOOP
        act.previous_hash := last_hash;
        last_hash := audit_row_hash(act);
        UPDATE audit_log SET previous_hash = act.previous_hash, hash = last_hash WHERE audit_id = act.audit_id;
    END LOOP;
END $$;

ALTER TABLE audit_log ALTER previous_hash SET NOT NULL, ALTER hash SET NOT NULL;
ALTER TABLE audit_log ENABLE TRIGGER audit_log_append_only;
CREATE TRIGGER audit_log_chained BEFORE INSERT ON audit_log FOR EACH ROW EXECUTE FUNCTION chain_audit_row();
