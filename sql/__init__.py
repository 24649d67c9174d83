"""Every SQL statement, schema and migration, as files; adapters/queries.py reads them."""
