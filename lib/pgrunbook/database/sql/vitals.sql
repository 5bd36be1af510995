-- name: commands
-- a row is: a command whose progress the server reports, of any database
SELECT p.pid, p.command, p.phase, p.unit, coalesce(p.done, 0)::bigint AS done, coalesce(p.total, 0)::bigint AS total,
       CASE
           WHEN p.relid IS NULL THEN ''
           WHEN c.oid IS NOT NULL THEN pg_catalog.format('%I.%I', n.nspname, c.relname)
           ELSE pg_catalog.format('relation %s of database %s', p.relid, p.datname)
       END AS object
FROM (
    SELECT i.pid, i.command, i.datname, i.relid, i.phase,
           CASE WHEN i.tuples_total > 0 THEN 'rows' ELSE 'pages' END AS unit,
           CASE WHEN i.tuples_total > 0 THEN i.tuples_done ELSE i.blocks_done END AS done,
           CASE WHEN i.tuples_total > 0 THEN i.tuples_total ELSE i.blocks_total END AS total
    FROM pg_catalog.pg_stat_progress_create_index AS i
    UNION ALL
    SELECT v.pid, 'VACUUM', v.datname, v.relid, v.phase, 'pages',
           CASE WHEN v.phase = 'vacuuming heap' THEN v.heap_blks_vacuumed ELSE v.heap_blks_scanned END, v.heap_blks_total
    FROM pg_catalog.pg_stat_progress_vacuum AS v
    UNION ALL
    SELECT r.pid, r.command, r.datname, r.relid, r.phase, 'pages', r.heap_blks_scanned, r.heap_blks_total
    FROM pg_catalog.pg_stat_progress_cluster AS r
    UNION ALL
    SELECT a.pid, 'ANALYZE', a.datname, a.relid, a.phase, 'pages', a.sample_blks_scanned, a.sample_blks_total
    FROM pg_catalog.pg_stat_progress_analyze AS a
    UNION ALL
    SELECT y.pid, y.command, y.datname, y.relid, pg_catalog.lower(y.type), 'bytes', y.bytes_processed, y.bytes_total
    FROM pg_catalog.pg_stat_progress_copy AS y
    UNION ALL
    SELECT b.pid, 'BASE_BACKUP', NULL, NULL, b.phase, 'bytes', b.backup_streamed, b.backup_total
    FROM pg_catalog.pg_stat_progress_basebackup AS b
) AS p
LEFT JOIN pg_catalog.pg_class AS c ON c.oid = p.relid AND p.datname = pg_catalog.current_database()
LEFT JOIN pg_catalog.pg_namespace AS n ON n.oid = c.relnamespace
ORDER BY p.pid

-- name: standbys
-- a row is: a standby, and how far it is behind in bytes of WAL and in seconds; NULL where the server hides it
SELECT coalesce(nullif(r.application_name, ''), 'without a name') AS name,
       coalesce(r.client_addr::text, 'local') AS client,
       coalesce(r.state, '') AS state,
       coalesce(r.sync_state, '') AS sync_state,
       CASE
           WHEN pg_catalog.pg_is_in_recovery() THEN pg_catalog.pg_wal_lsn_diff(pg_catalog.pg_last_wal_receive_lsn(), r.replay_lsn)
           ELSE pg_catalog.pg_wal_lsn_diff(pg_catalog.pg_current_wal_lsn(), r.replay_lsn)
       END::bigint AS lag_bytes,
       extract(epoch FROM r.replay_lag)::float8 AS lag_s
FROM pg_catalog.pg_stat_replication AS r
WHERE r.state IS DISTINCT FROM 'backup'
ORDER BY name

-- name: slots
-- a row is: a replication slot, and how much WAL it keeps
SELECT s.slot_name::text AS name,
       s.slot_type AS kind,
       s.active,
       s.temporary,
       coalesce(s.wal_status, '') AS wal_status,
       CASE
           WHEN pg_catalog.pg_is_in_recovery() THEN pg_catalog.pg_wal_lsn_diff(pg_catalog.pg_last_wal_receive_lsn(), s.restart_lsn)
           ELSE pg_catalog.pg_wal_lsn_diff(pg_catalog.pg_current_wal_lsn(), s.restart_lsn)
       END::bigint AS kept_bytes
FROM pg_catalog.pg_replication_slots AS s
ORDER BY name

-- name: receiver
-- a row is: how far this standby is behind what it has received, in seconds since the last transaction it replayed
SELECT pg_catalog.pg_wal_lsn_diff(pg_catalog.pg_last_wal_receive_lsn(), pg_catalog.pg_last_wal_replay_lsn())::bigint
           AS lag_bytes,
       extract(epoch FROM pg_catalog.clock_timestamp() - pg_catalog.pg_last_xact_replay_timestamp())::float8 AS lag_s,
       pg_catalog.pg_is_wal_replay_paused() AS is_paused
WHERE pg_catalog.pg_is_in_recovery()

-- name: connections
-- a row is: how many client connections there are, and how many there may be
SELECT (SELECT count(*)::int
        FROM pg_catalog.pg_stat_activity AS a
        WHERE coalesce(a.backend_type, 'client backend') = 'client backend'  -- that of others is hidden without pg_monitor
          AND a.usename IS NOT NULL
          AND a.datname IS NOT NULL) AS used,
       pg_catalog.current_setting('max_connections')::int
           - pg_catalog.current_setting('superuser_reserved_connections')::int AS most

-- name: tables
-- a row is: a table, its partitions summed up, with dead rows or of many pages; sizes are those of the last VACUUM or ANALYZE
SELECT pg_catalog.format('%I.%I', n.nspname, c.relname) AS name,
       t.live::bigint,
       t.dead::bigint,
       t.parts::int,
       (t.pages * pg_catalog.current_setting('block_size')::bigint)::bigint AS bytes
FROM (
    -- pg_stat_user_tables would read all indexes of all tables as well.
    SELECT CASE WHEN h.relispartition THEN pg_catalog.pg_partition_root(h.oid)::oid ELSE h.oid END AS root,
           sum(pg_catalog.pg_stat_get_live_tuples(h.oid)) AS live,
           sum(pg_catalog.pg_stat_get_dead_tuples(h.oid)) AS dead,
           count(*) AS parts,
           sum(h.relpages) AS pages
    FROM pg_catalog.pg_class AS h
    WHERE h.relkind IN ('r', 'm')
      AND h.relnamespace NOT IN (SELECT n.oid
                                 FROM pg_catalog.pg_namespace AS n
                                 WHERE n.nspname IN ('pg_catalog', 'information_schema')
                                    OR pg_catalog.starts_with(n.nspname::text, 'pg_toast'))
    GROUP BY 1
) AS t
JOIN pg_catalog.pg_class AS c ON c.oid = t.root
JOIN pg_catalog.pg_namespace AS n ON n.oid = c.relnamespace
ORDER BY t.dead DESC, t.pages DESC, name
LIMIT 20
