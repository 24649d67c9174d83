"""ClickHouse's own engine (chdb) behind ClickHouse's HTTP interface, in a process of its own."""
