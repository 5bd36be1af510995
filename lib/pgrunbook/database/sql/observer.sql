-- name: relations
-- a row is: a relation of the application, with the table of an index, and the file it lies in (0 for none)
SELECT
    c.oid::bigint AS oid,
    n.nspname::text AS schema,
    c.relname::text AS name,
    c.relkind::text AS kind,
    coalesce(i.indrelid, 0)::bigint AS table_oid,
    c.relfilenode::bigint AS file
FROM pg_catalog.pg_class c
JOIN pg_catalog.pg_namespace n ON n.oid = c.relnamespace
LEFT JOIN pg_catalog.pg_index i ON i.indexrelid = c.oid
WHERE c.relkind IN ('r', 'p', 'm', 'v', 'S', 'f', 'i', 'I')
  AND n.nspname !~ '^pg_'
  AND n.nspname NOT IN ('information_schema', 'pgrunbook')
  AND (%(of)s::bigint[] IS NULL OR c.oid = ANY (%(of)s::bigint[]) OR i.indrelid = ANY (%(of)s::bigint[]))

-- name: locks
-- a row is: a lock on a relation of this database that a session holds or waits for
SELECT
    l.relation::bigint AS oid,
    l.mode,
    l.granted,
    coalesce(extract(epoch FROM pg_catalog.clock_timestamp() - l.waitstart) * 1000, 0)::float8 AS waited_ms
FROM pg_catalog.pg_locks l
WHERE l.pid = %(pid)s
  AND l.locktype = 'relation'
  AND l.database = (SELECT d.oid FROM pg_catalog.pg_database d WHERE d.datname = pg_catalog.current_database())

-- name: wal
-- a row is: how many bytes of WAL the server has ever written
SELECT pg_catalog.pg_wal_lsn_diff(pg_catalog.pg_current_wal_insert_lsn(), '0/0')::bigint AS bytes

-- name: own_dead_rows
-- a row is: how many dead rows this session's transaction has made so far
SELECT coalesce(sum(s.n_tup_upd + s.n_tup_del), 0)::bigint AS rows
FROM pg_catalog.pg_stat_xact_user_tables s
WHERE s.schemaname !~ '^pgrunbook(_kept_|$)'
