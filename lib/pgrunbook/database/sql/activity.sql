-- name: identity
-- a row is: the server and database of this session
SELECT
    pg_catalog.current_setting('server_version') AS server_version,
    pg_catalog.current_setting('server_version_num')::int AS server_version_num,
    pg_catalog.current_database() AS database,
    pg_catalog.pg_database_size(pg_catalog.current_database()) AS size_bytes,
    pg_catalog.pg_is_in_recovery() AS in_recovery,
    session_user::text AS session_user,
    (SELECT r.rolsuper FROM pg_catalog.pg_roles r WHERE r.rolname = current_user) AS superuser,
    (SELECT c.system_identifier::text FROM pg_catalog.pg_control_system() c) AS system_identifier,
    pg_catalog.pg_backend_pid() AS backend_pid,
    pg_catalog.current_setting('archive_mode') AS archive_mode,
    pg_catalog.pg_postmaster_start_time() AS started_at

-- name: sessions
-- a row is: the client sessions of one application and user in this database
SELECT
    coalesce(nullif(a.application_name, ''), '(no name)') AS application,
    a.usename::text AS username,
    count(*)::int AS sessions,
    count(*) FILTER (WHERE a.state = 'active')::int AS active,
    count(*) FILTER (WHERE a.state LIKE 'idle in transaction%')::int AS idle_in_transaction,
    coalesce(max(extract(epoch FROM pg_catalog.clock_timestamp() - a.xact_start)), 0)::float8 AS oldest_s
FROM pg_catalog.pg_stat_activity a
WHERE a.datname = pg_catalog.current_database()
  AND coalesce(a.backend_type, 'client backend') = 'client backend'  -- that of others is hidden without pg_monitor
  AND a.usename IS NOT NULL
  AND a.pid <> pg_catalog.pg_backend_pid()
GROUP BY 1, 2
ORDER BY 3 DESC, 1, 2

-- name: oldest_transaction
-- a row is: the oldest open transaction that can block us in this database
SELECT
    x.pid,
    x.application,
    x.state,
    x.age_s
FROM (
    SELECT
        a.pid,
        coalesce(nullif(a.application_name, ''), a.backend_type) AS application,
        a.state,
        extract(epoch FROM pg_catalog.clock_timestamp() - a.xact_start)::float8 AS age_s
    FROM pg_catalog.pg_stat_activity a
    WHERE a.datname = pg_catalog.current_database()
      AND a.xact_start IS NOT NULL
      AND a.pid <> pg_catalog.pg_backend_pid()
      AND a.backend_type IN ('client backend', 'walsender')
    UNION ALL
    SELECT
        NULL,
        'prepared transaction ' || p.gid,
        'prepared',
        extract(epoch FROM pg_catalog.clock_timestamp() - p.prepared)::float8
    FROM pg_catalog.pg_prepared_xacts p
    WHERE p.database = pg_catalog.current_database()
) x
ORDER BY x.age_s DESC
LIMIT 1

-- name: replication
-- a row is: the standby furthest behind, and the slot that keeps the most WAL
SELECT
    (SELECT count(*)::int FROM pg_catalog.pg_stat_replication r WHERE r.state IS DISTINCT FROM 'backup') AS standbys,
    (
        SELECT count(*)::int FROM pg_catalog.pg_stat_replication r
        WHERE r.state IS DISTINCT FROM 'backup' AND r.replay_lsn IS NULL
    ) AS standbys_without_lag,
    (
        SELECT coalesce(max(pg_catalog.pg_wal_lsn_diff(pg_catalog.pg_current_wal_lsn(), r.replay_lsn)), 0)::bigint
        FROM pg_catalog.pg_stat_replication r
    ) AS replay_lag_bytes,
    (SELECT count(*)::int FROM pg_catalog.pg_replication_slots) AS slots,
    (
        SELECT coalesce(pg_catalog.string_agg(s.slot_name::text, ', ' ORDER BY s.slot_name), '')
        FROM pg_catalog.pg_replication_slots s
        WHERE NOT s.active
    ) AS slots_without_reader,
    (
        SELECT coalesce(pg_catalog.string_agg(s.slot_name::text, ', ' ORDER BY s.slot_name), '')
        FROM pg_catalog.pg_replication_slots s
        WHERE s.wal_status = 'lost'
    ) AS slots_lost,
    pg_catalog.current_setting('max_slot_wal_keep_size') AS slot_bound,
    (
        SELECT coalesce(max(pg_catalog.pg_wal_lsn_diff(pg_catalog.pg_current_wal_lsn(), s.restart_lsn)), 0)::bigint
        FROM pg_catalog.pg_replication_slots s
    ) AS slot_retained_bytes

-- name: archiver
-- a row is: how far the archiver is, and whether its last attempt failed
SELECT
    pg_catalog.current_setting('archive_mode') AS archive_mode,
    a.last_archived_wal,
    a.last_archived_time,
    a.last_failed_wal,
    pg_catalog.to_char(a.last_failed_time AT TIME ZONE 'UTC', 'YYYY-MM-DD HH24:MI:SS') AS last_failed_utc,
    pg_catalog.current_setting('archive_command') IN ('', '(disabled)')
        AND coalesce(pg_catalog.current_setting('archive_library', true), '') = '' AS goes_nowhere,
    coalesce(a.last_failed_time > coalesce(a.last_archived_time, '-infinity'), false) AS failing
FROM pg_catalog.pg_stat_archiver a

-- name: vacuums
-- a row is: a vacuum at work in this database
SELECT
    v.relid::regclass::text AS table_name,
    v.phase,
    a.query LIKE '%to prevent wraparound%' AS prevents_wraparound
FROM pg_catalog.pg_stat_progress_vacuum v
JOIN pg_catalog.pg_stat_activity a USING (pid)
WHERE v.datid = (SELECT d.oid FROM pg_catalog.pg_database d WHERE d.datname = pg_catalog.current_database())
ORDER BY 1

-- name: wraparound
-- a row is: how much of the transaction ids this database has used up since its last freeze, in percent
SELECT
    pg_catalog.age(d.datfrozenxid)::bigint AS age,
    (100.0 * pg_catalog.age(d.datfrozenxid) / 2147483647)::float8 AS percent
FROM pg_catalog.pg_database d
WHERE d.datname = pg_catalog.current_database()

-- name: rights
-- a row is: which of the rights that a migration needs the current user has here
SELECT
    CASE
        WHEN r.schema IS NULL THEN pg_catalog.has_database_privilege(pg_catalog.current_database(), 'CREATE')
        ELSE pg_catalog.has_schema_privilege(r.schema, 'USAGE')
            AND pg_catalog.has_schema_privilege(r.schema, 'CREATE')
            AND coalesce(r.may_write, true)
    END AS may_keep_the_record,
    pg_catalog.quote_ident(current_user) AS me,
    pg_catalog.quote_ident(r.owner) AS owner,
    pg_catalog.has_function_privilege('pg_catalog.pg_create_restore_point(text)', 'EXECUTE')
        AND pg_catalog.has_function_privilege('pg_catalog.pg_switch_wal()', 'EXECUTE') AS may_create_restore_point,
    pg_catalog.pg_has_role('pg_read_all_stats', 'USAGE') AS may_read_stats,
    (
        SELECT count(*)::int
        FROM pg_catalog.pg_class c
        JOIN pg_catalog.pg_namespace n ON n.oid = c.relnamespace
        WHERE c.relkind IN ('r', 'p', 'v', 'm', 'S')
          AND n.nspname !~ '^pg_' AND n.nspname <> 'information_schema'
          AND NOT pg_catalog.pg_has_role(c.relowner, 'USAGE')
          AND NOT EXISTS (
              SELECT FROM pg_catalog.pg_depend d
              WHERE d.classid = 'pg_catalog.pg_class'::regclass AND d.objid = c.oid AND d.deptype = 'e'
          )
    ) AS not_owned
FROM (
    SELECT
        min(n.oid) AS schema,
        min(pg_catalog.pg_get_userbyid(n.nspowner)) AS owner,
        pg_catalog.bool_and(pg_catalog.has_table_privilege(c.oid, 'SELECT')
                            AND pg_catalog.has_table_privilege(c.oid, 'INSERT')
                            AND pg_catalog.has_table_privilege(c.oid, 'UPDATE')
                            AND pg_catalog.has_table_privilege(c.oid, 'DELETE')) FILTER (WHERE c.oid IS NOT NULL) AS may_write
    FROM pg_catalog.pg_namespace n
    LEFT JOIN pg_catalog.pg_class c
      ON c.relnamespace = n.oid AND c.relkind = 'r' AND c.relname IN ('step', 'restore_point', 'batch', 'way_back', 'shadow', 'published', 'kept')
    WHERE n.nspname = 'pgrunbook'
) r

-- name: connection_limits
-- a row is: a limit of connections that holds for this session, and how many other sessions count
SELECT pg_catalog.format('ROLE %I', r.rolname) AS of,
       r.rolconnlimit AS most,
       (SELECT count(*)::int
        FROM pg_catalog.pg_stat_activity a
        WHERE a.usesysid = r.oid
          AND coalesce(a.backend_type, 'client backend') = 'client backend'
          AND a.pid <> pg_catalog.pg_backend_pid()) AS others
FROM pg_catalog.pg_roles r
WHERE r.rolname = session_user
  AND r.rolconnlimit >= 0
  AND NOT r.rolsuper
UNION ALL
SELECT pg_catalog.format('DATABASE %I', d.datname),
       d.datconnlimit,
       (SELECT count(*)::int
        FROM pg_catalog.pg_stat_activity a
        WHERE a.datid = d.oid
          AND coalesce(a.backend_type, 'client backend') = 'client backend'
          AND a.usename IS NOT NULL
          AND a.pid <> pg_catalog.pg_backend_pid())
FROM pg_catalog.pg_database d
JOIN pg_catalog.pg_roles r ON r.rolname = session_user
WHERE d.datname = pg_catalog.current_database()
  AND d.datconnlimit >= 0
  AND NOT r.rolsuper

-- name: lock_holder
-- a row is: the session that holds the advisory lock of a run
SELECT
    l.pid,
    coalesce(nullif(a.application_name, ''), '(no name)') AS application,
    coalesce(extract(epoch FROM pg_catalog.clock_timestamp() - a.backend_start), 0)::float8 AS age_s
FROM pg_catalog.pg_locks l
LEFT JOIN pg_catalog.pg_stat_activity a USING (pid)
WHERE l.locktype = 'advisory'
  AND l.granted
  AND l.database = (SELECT d.oid FROM pg_catalog.pg_database d WHERE d.datname = pg_catalog.current_database())
  AND (NOT %(able)s
       OR a.usename = session_user
       OR (SELECT pg_catalog.has_table_privilege(a.usesysid, c.oid, 'INSERT')
           FROM pg_catalog.pg_class c
           JOIN pg_catalog.pg_namespace n ON n.oid = c.relnamespace
           WHERE n.nspname = 'pgrunbook' AND c.relname = 'step'))
  AND l.classid = %(classid)s
  AND l.objid = %(objid)s
  AND l.objsubid = 2

-- name: blockers
-- a row is: a session that is ahead of the given one in a lock queue, the head of the queue first
SELECT
    b.pid,
    coalesce(nullif(a.application_name, ''), nullif(a.backend_type, 'client backend'), x.gid, '(no name)')
        AS application,
    coalesce(a.usename::text, x.owner::text, '') AS username,
    coalesce(a.state, CASE WHEN b.pid = 0 THEN 'prepared transaction' ELSE 'state not visible' END) AS state,
    coalesce(extract(epoch FROM pg_catalog.clock_timestamp() - coalesce(a.xact_start, x.prepared)), 0)::float8
        AS xact_age_s,
    left(coalesce(a.query, ''), 200) AS query,
    pg_catalog.pg_blocking_pids(b.pid) <> '{}' AS waits_too,
    coalesce(w.relation::regclass::text, w.locktype) AS waits_for,
    coalesce(extract(epoch FROM pg_catalog.clock_timestamp() - w.waitstart) * 1000, 0)::float8 AS waited_ms
FROM (
    SELECT DISTINCT u.pid
    FROM pg_catalog.unnest(pg_catalog.pg_blocking_pids(%(pid)s)) AS u (pid)
    WHERE u.pid <> pg_catalog.pg_backend_pid()
) b
LEFT JOIN pg_catalog.pg_stat_activity a ON a.pid = b.pid
-- A wait that ended between the two looks is none.
JOIN pg_catalog.pg_locks w ON w.pid = %(pid)s AND NOT w.granted
LEFT JOIN LATERAL (
    SELECT p.gid, p.owner, p.prepared
    FROM pg_catalog.pg_locks h
    JOIN pg_catalog.pg_locks t ON t.virtualtransaction = h.virtualtransaction AND t.locktype = 'transactionid'
    JOIN pg_catalog.pg_prepared_xacts p ON p.transaction = t.transactionid
    WHERE b.pid = 0 AND h.pid IS NULL AND t.granted AND (h.relation = w.relation OR h.transactionid = w.transactionid)
    ORDER BY p.prepared
    LIMIT 1
) x ON true
ORDER BY waits_too, xact_age_s DESC

-- name: in_the_way
-- a row is: a session that the given one waits for while it waits for that, if by way of others; or, where soon, one
-- that waits to keep others out of a table that the given one has locked, where it or one behind it has waited for a
-- share of deadlock_timeout
WITH RECURSIVE ahead (pid) AS (
    SELECT pg_catalog.unnest(pg_catalog.pg_blocking_pids(%(pid)s))
    UNION
    SELECT b.pid
    FROM ahead AS a
    CROSS JOIN LATERAL pg_catalog.unnest(pg_catalog.pg_blocking_pids(a.pid)) AS b (pid)
    WHERE a.pid <> %(pid)s
)
SELECT a.pid
FROM ahead AS a
WHERE a.pid = %(pid)s
UNION ALL
SELECT w.pid
FROM pg_catalog.pg_locks AS w
JOIN pg_catalog.pg_locks AS q
  ON NOT q.granted
 AND (q.pid = w.pid OR w.pid = ANY (pg_catalog.pg_blocking_pids(q.pid)))
CROSS JOIN (SELECT s.setting::int AS ms FROM pg_catalog.pg_settings AS s WHERE s.name = 'deadlock_timeout') AS d
WHERE %(soon)s
  AND NOT w.granted
  AND w.locktype = 'relation'
  AND w.mode IN ('ShareLock', 'ShareRowExclusiveLock', 'ExclusiveLock', 'AccessExclusiveLock')
  AND pg_catalog.clock_timestamp() - q.waitstart > d.ms * %(share)s * interval '1 ms'
  AND %(pid)s = ANY (pg_catalog.pg_blocking_pids(w.pid))

-- name: progress
-- a row is: how far the given session has come with building an index, VACUUM, CLUSTER or ANALYZE
SELECT
    p.phase,
    p.unit,
    coalesce(p.done, 0)::bigint AS done,
    coalesce(p.total, 0)::bigint AS total,
    coalesce(p.lockers_done, 0)::int AS lockers_done,
    coalesce(p.lockers_total, 0)::int AS lockers_total,
    p.locker_pid,
    coalesce(nullif(a.application_name, ''), nullif(a.backend_type, 'client backend'), '(no name)') AS application,
    coalesce(a.state, 'state not visible') AS state,
    coalesce(extract(epoch FROM pg_catalog.clock_timestamp() - a.xact_start), 0)::float8 AS xact_age_s
FROM (
    SELECT
        i.phase,
        CASE WHEN i.phase LIKE '%%tuples%%' THEN 'rows' ELSE 'pages' END AS unit,
        CASE WHEN i.phase LIKE '%%tuples%%' THEN i.tuples_done ELSE i.blocks_done END AS done,
        CASE
            WHEN i.phase LIKE 'waiting%%' OR i.phase LIKE '%%sorting%%' THEN 0
            WHEN i.phase LIKE '%%tuples%%' THEN i.tuples_total
            ELSE i.blocks_total
        END AS total,
        i.lockers_done,
        i.lockers_total,
        nullif(nullif(i.current_locker_pid, 0), pg_catalog.pg_backend_pid())::int AS locker_pid
    FROM pg_catalog.pg_stat_progress_create_index i
    WHERE i.pid = %(pid)s
    UNION ALL
    SELECT
        v.phase,
        'pages',
        CASE v.phase WHEN 'scanning heap' THEN v.heap_blks_scanned WHEN 'vacuuming heap' THEN v.heap_blks_vacuumed END,
        CASE WHEN v.phase IN ('scanning heap', 'vacuuming heap') THEN v.heap_blks_total END,
        NULL,
        NULL,
        NULL
    FROM pg_catalog.pg_stat_progress_vacuum v
    WHERE v.pid = %(pid)s
    UNION ALL
    SELECT
        c.phase,
        'pages',
        CASE c.phase WHEN 'seq scanning heap' THEN c.heap_blks_scanned END,
        CASE c.phase WHEN 'seq scanning heap' THEN c.heap_blks_total END,
        NULL,
        NULL,
        NULL
    FROM pg_catalog.pg_stat_progress_cluster c
    WHERE c.pid = %(pid)s
    UNION ALL
    SELECT
        z.phase,
        'pages',
        z.sample_blks_scanned,
        CASE WHEN z.phase LIKE 'acquiring%%' THEN z.sample_blks_total END,
        NULL,
        NULL,
        NULL
    FROM pg_catalog.pg_stat_progress_analyze z
    WHERE z.pid = %(pid)s
) p
LEFT JOIN pg_catalog.pg_stat_activity a ON a.pid = p.locker_pid
LIMIT 1
