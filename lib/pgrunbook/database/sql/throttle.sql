-- name: tree
-- a row is: a table, or a partition of it; pg_partition_tree would request a lock on each
WITH RECURSIVE tree AS (
    SELECT %(table)s::oid AS oid
    UNION ALL
    SELECT h.inhrelid
    FROM tree
    JOIN pg_catalog.pg_inherits AS h ON h.inhparent = tree.oid
)
SELECT tree.oid::bigint AS oid
FROM tree

-- name: table
-- a row is: a table with its partitions: live and dead rows, and whether autovacuum will come for the dead ones
SELECT coalesce(sum(t.live), 0)::bigint AS live,
       coalesce(sum(t.dead), 0)::bigint AS dead,
       coalesce(pg_catalog.bool_or(t.is_enabled AND t.dead > t.threshold), false)
           AND pg_catalog.current_setting('autovacuum') = 'on'
           AND pg_catalog.current_setting('track_counts') = 'on' AS is_vacuumed
FROM (
    SELECT greatest(pg_catalog.pg_stat_get_live_tuples(c.oid), c.reltuples) AS live,  -- the first is 0 after a crash
           pg_catalog.pg_stat_get_dead_tuples(c.oid) AS dead,
           coalesce((o.options ->> 'autovacuum_enabled')::boolean, true) AS is_enabled,
           coalesce((o.options ->> 'autovacuum_vacuum_threshold')::float8,
                    pg_catalog.current_setting('autovacuum_vacuum_threshold')::float8)
               + greatest(c.reltuples, 0)
                   * coalesce((o.options ->> 'autovacuum_vacuum_scale_factor')::float8,
                              pg_catalog.current_setting('autovacuum_vacuum_scale_factor')::float8) AS threshold
    FROM pg_catalog.pg_class AS c
    CROSS JOIN LATERAL (SELECT pg_catalog.jsonb_object_agg(x.option_name, x.option_value) AS options
                        FROM pg_catalog.pg_options_to_table(c.reloptions) AS x) AS o
    WHERE c.oid = ANY (%(tables)s::oid[])
      AND c.relkind = 'r'
) AS t

-- name: vacuums
-- a row is: a vacuum at work on the table or one of its partitions
SELECT v.phase,
       CASE WHEN v.heap_blks_total > 0 THEN (100 * v.heap_blks_scanned / v.heap_blks_total)::int ELSE 0 END AS percent
FROM pg_catalog.pg_stat_progress_vacuum AS v
WHERE v.datname = pg_catalog.current_database()
  AND v.relid = ANY (%(tables)s::oid[])
LIMIT 1

-- name: oldest
-- a row is: the session or prepared transaction whose snapshot keeps dead rows of this database longest
SELECT o.who,
       o.age_s
FROM (
    SELECT pg_catalog.format('process %s ("%s", %s)', a.pid, a.application_name, a.state) AS who,
           extract(epoch FROM pg_catalog.clock_timestamp() - a.xact_start)::float8 AS age_s
    FROM pg_catalog.pg_stat_activity AS a
    WHERE a.datname = pg_catalog.current_database()
      AND a.backend_type = 'client backend'
      AND a.xact_start IS NOT NULL
      AND (a.backend_xmin IS NOT NULL OR a.backend_xid IS NOT NULL)
      AND a.pid <> pg_catalog.pg_backend_pid()
    UNION ALL
    SELECT pg_catalog.format('prepared transaction "%s"', x.gid),
           extract(epoch FROM pg_catalog.clock_timestamp() - x.prepared)::float8
    FROM pg_catalog.pg_prepared_xacts AS x
    WHERE x.database = pg_catalog.current_database()
) AS o
ORDER BY o.age_s DESC
LIMIT 1

-- name: others
-- a row is: how many sessions there have been on the server, which of ours there are, and whether any other is at work,
-- or was a moment ago, or hides that
WITH counted AS MATERIALIZED (
    SELECT sum(d.sessions)::bigint AS sessions
    FROM pg_catalog.pg_stat_database AS d
),
there AS MATERIALIZED (
    SELECT a.pid,
           a.backend_start,
           a.usesysid = (SELECT o.usesysid
                         FROM pg_catalog.pg_stat_activity AS o
                         WHERE o.pid = pg_catalog.pg_backend_pid())
               AND a.application_name LIKE %(ours)s
               AND a.application_name <> %(traffic)s AS is_ours,
           a.state IS DISTINCT FROM 'idle'
               OR a.state_change > pg_catalog.clock_timestamp() - pg_catalog.make_interval(secs => %(quiet_s)s)
               AS is_at_work
    FROM pg_catalog.pg_stat_activity AS a
    WHERE a.datid IS NOT NULL
      AND a.usesysid IS NOT NULL
      AND a.pid <> pg_catalog.pg_backend_pid()
      AND a.backend_type IS DISTINCT FROM 'walsender'
)
SELECT c.sessions,
       ARRAY(SELECT pg_catalog.concat(t.pid, ' ', t.backend_start) FROM there AS t WHERE t.is_ours) AS ours,
       EXISTS (SELECT FROM there AS t WHERE t.is_at_work AND NOT t.is_ours) AS are_at_work
FROM counted AS c

-- name: waiters
-- a row is: how many others wait for a lock on the table or one of its partitions, and the mode that the first wants
SELECT count(*)::int AS waiting,
       min(l.mode) AS mode
FROM pg_catalog.pg_locks AS l
WHERE NOT l.granted
  AND l.locktype = 'relation'
  AND l.database = (SELECT d.oid FROM pg_catalog.pg_database AS d WHERE d.datname = pg_catalog.current_database())
  AND l.relation = ANY (%(tables)s::oid[])
HAVING count(*) > 0

-- name: archive
-- a row is: how many segments of WAL wait to be archived, where an archiver is at work
SELECT ((pg_catalog.pg_wal_lsn_diff(pg_catalog.pg_current_wal_lsn(), '0/0')
         / (SELECT s.setting::numeric FROM pg_catalog.pg_settings AS s WHERE s.name = 'wal_segment_size'))::bigint
        - (('x' || pg_catalog.substr(a.last_archived_wal, 9, 8))::bit(32)::bigint
           * (4294967296 / (SELECT s.setting::bigint FROM pg_catalog.pg_settings AS s WHERE s.name = 'wal_segment_size'))
           + ('x' || pg_catalog.substr(a.last_archived_wal, 17, 8))::bit(32)::bigint + 1))::bigint AS segments
FROM pg_catalog.pg_stat_archiver AS a
WHERE pg_catalog.current_setting('archive_mode') <> 'off'
  AND a.last_archived_wal ~ '^[0-9A-F]{24}$'

-- name: behind
-- a row is: how many sessions wait for a lock that this process holds
SELECT count(*)::int
FROM pg_catalog.pg_locks AS l
WHERE NOT l.granted
  AND l.pid IS NOT NULL
  AND %(pid)s::int = ANY (pg_catalog.pg_blocking_pids(l.pid))

-- name: probed
-- a row is: the largest of a table and its partitions, and how many pages it has
SELECT n.nspname::text AS schema,
       c.relname::text AS name,
       greatest(c.relpages, 1) AS pages
FROM pg_catalog.pg_class AS c
JOIN pg_catalog.pg_namespace AS n ON n.oid = c.relnamespace
WHERE c.oid = ANY (%(tables)s::oid[])
  AND c.relkind = 'r'
ORDER BY c.relpages DESC
LIMIT 1

-- name: probe
-- a row is: nothing that counts; one row of a random page is read, and a message that nobody reads is written to WAL
SELECT pg_catalog.pg_logical_emit_message(true, 'pgrunbook', ''),
       (SELECT 1 FROM {table} AS t WHERE t.ctid OPERATOR(pg_catalog.=) {row}) AS found
