-- What callers say of a hold or a charge has limits where they say it: at most 17,538 bytes of metadata, and
-- less than 20,000 of a usage. This is for whoever writes rows otherwise; a row of the ledger stays for ever.
-- See sql/postgres/schema.sql for the contract of each table.

ALTER TABLE credit_hold
    ADD CHECK (octet_length(metadata) <= 32768),
    ADD CHECK (octet_length(usage) <= 32768);
ALTER TABLE credit_transaction ADD CHECK (octet_length(metadata) <= 32768);
