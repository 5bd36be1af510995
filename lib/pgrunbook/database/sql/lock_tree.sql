-- name: sessions
-- a row is: a session or background process of the server, or a prepared transaction, which has no process (pid 0)
SELECT
    a.pid,
    a.backend_start,
    coalesce(a.leader_pid, 0) AS leader_pid,
    -- It is hidden, and then tells by what is not: who has a user and a database is a client.
    coalesce(a.backend_type,
             CASE
                 WHEN a.pid IN (SELECT r.pid FROM pg_catalog.pg_stat_replication AS r) THEN 'walsender'
                 WHEN a.usename IS NOT NULL AND a.datname IS NOT NULL THEN 'client backend'
                 ELSE ''
             END) AS backend_type,
    coalesce(a.application_name, '') AS application,
    coalesce(a.usename::text, '') AS username,
    coalesce(a.datname::text, '') AS database,
    coalesce(a.client_addr::text, '') AS client,
    coalesce(a.state, '') AS state,
    coalesce(a.wait_event_type || ' ' || a.wait_event, '') AS wait_event,
    extract(epoch FROM pg_catalog.clock_timestamp() - a.xact_start)::float8 AS xact_age_s,
    extract(epoch FROM pg_catalog.clock_timestamp() - a.query_start)::float8 AS query_age_s,
    extract(epoch FROM pg_catalog.clock_timestamp() - a.state_change)::float8 AS state_age_s,
    a.backend_xid IS NOT NULL AS has_written,
    coalesce(pg_catalog.left(a.query, 1000), '') AS query,
    a.backend_type IS NULL AS is_hidden,
    '' AS gid,
    '' AS transaction,
    -- Or that of another operator, who may write what runs write: the name alone anybody may take.
    a.usename IS NOT DISTINCT FROM session_user
        OR coalesce((SELECT pg_catalog.has_table_privilege(a.usesysid, c.oid, 'INSERT')
                     FROM pg_catalog.pg_class AS c
                     JOIN pg_catalog.pg_namespace AS n ON n.oid = c.relnamespace
                     WHERE n.nspname = 'pgrunbook' AND c.relname = 'step'), false) AS is_own_role
FROM pg_catalog.pg_stat_activity AS a
WHERE a.pid <> pg_catalog.pg_backend_pid()
UNION ALL
SELECT
    0, p.prepared, 0, 'prepared transaction', '', p.owner::text, p.database::text, '', 'prepared', '',
    extract(epoch FROM pg_catalog.clock_timestamp() - p.prepared)::float8, NULL,
    extract(epoch FROM pg_catalog.clock_timestamp() - p.prepared)::float8,
    true, '', false, p.gid, p.transaction::text, false
FROM pg_catalog.pg_prepared_xacts AS p

-- name: waits
-- a row is: a process that waits for a lock, whom the server says it waits for, and who holds a lock on the same object
WITH locks AS MATERIALIZED (
    SELECT l.*,
           pg_catalog.concat_ws('/', l.locktype, l.database, l.relation, l.page, l.tuple, l.virtualxid, l.transactionid,
                                l.classid, l.objid, l.objsubid) AS tag
    FROM pg_catalog.pg_locks AS l
)
SELECT
    w.pid,
    w.mode,
    w.locktype AS kind,
    CASE
        WHEN w.relation IS NULL THEN ''
        WHEN c.oid IS NOT NULL THEN pg_catalog.format('%I.%I', n.nspname, c.relname)
        ELSE pg_catalog.format('relation %s of database %s', w.relation, coalesce(d.datname, w.database::text))
    END AS relation,
    CASE WHEN w.locktype = 'advisory' THEN pg_catalog.format('%s, %s', w.classid, w.objid) ELSE '' END AS key,
    extract(epoch FROM pg_catalog.clock_timestamp() - w.waitstart)::float8 AS waited_s,
    pg_catalog.pg_blocking_pids(w.pid) AS blockers,
    coalesce(h.held, '[]') AS held
FROM locks AS w
LEFT JOIN pg_catalog.pg_database AS d ON d.oid = w.database
LEFT JOIN pg_catalog.pg_class AS c ON c.oid = w.relation AND d.datname = pg_catalog.current_database()
LEFT JOIN pg_catalog.pg_namespace AS n ON n.oid = c.relnamespace
LEFT JOIN (
    SELECT g.tag,
           pg_catalog.jsonb_agg(pg_catalog.jsonb_build_array(
               coalesce(g.pid, 0), coalesce(t.transactionid::text, ''), g.mode)) AS held
    FROM locks AS g
    -- A prepared transaction has no process: it is known by the lock on its own transaction id.
    LEFT JOIN locks AS t
      ON g.pid IS NULL AND t.pid IS NULL AND t.locktype = 'transactionid' AND t.virtualtransaction = g.virtualtransaction
    WHERE g.granted
    GROUP BY g.tag
) AS h ON h.tag = w.tag
WHERE NOT w.granted
  AND w.pid IS NOT NULL
  AND w.pid <> pg_catalog.pg_backend_pid()
ORDER BY w.waitstart, w.pid

-- name: cancel
-- a row is: whether the server took the request to cancel the statement of that session, and of no later one
SELECT pg_catalog.pg_cancel_backend(a.pid) AS taken
FROM pg_catalog.pg_stat_activity AS a
WHERE a.pid = %(pid)s
  AND a.backend_start = %(backend_start)s
  AND a.backend_type IN ('client backend', 'autovacuum worker')

-- name: terminate
-- a row is: whether the server took the request to end that session, and no later one
SELECT pg_catalog.pg_terminate_backend(a.pid) AS taken
FROM pg_catalog.pg_stat_activity AS a
WHERE a.pid = %(pid)s
  AND a.backend_start = %(backend_start)s
  AND a.backend_type IN ('client backend', 'autovacuum worker')
