-- name: holders
-- a row is: a lock of a session with an old transaction that our lock would wait for, the strongest first
SELECT
    l.pid,
    coalesce(nullif(a.application_name, ''), nullif(a.backend_type, 'client backend'), '(no name)') AS application,
    coalesce(a.state, 'state not visible') AS state,
    coalesce(
        extract(epoch FROM pg_catalog.clock_timestamp() - a.xact_start)::float8 * 1000, 'Infinity'::float8
    ) AS xact_age_ms,
    pg_catalog.regexp_replace(left(coalesce(a.query, ''), 200), '\s+', ' ', 'g') AS query,
    w.object,
    l.mode,
    NOT l.granted AS waits,
    l.virtualtransaction AS transaction
FROM ROWS FROM (
    pg_catalog.unnest(%(objects)s::text[]),
    pg_catalog.unnest(%(conflicts)s::text[])
) AS w (object, conflicts)
JOIN pg_catalog.pg_locks l
    ON l.relation = pg_catalog.to_regclass(w.object)::oid
   AND l.mode = ANY (w.conflicts::text[])
LEFT JOIN pg_catalog.pg_stat_get_activity(NULL) a ON a.pid = l.pid
WHERE l.database = (SELECT d.oid FROM pg_catalog.pg_database d WHERE d.datname = pg_catalog.current_database())
  AND l.pid IS DISTINCT FROM pg_catalog.pg_backend_pid()
  AND a.backend_type IS DISTINCT FROM 'parallel worker'
  AND CASE
      WHEN l.pid IS NULL THEN true
      -- Gone, or idle: its transaction ended or began after the locks were read and before the sessions were.
      WHEN a.xact_start IS NULL THEN a.pid IS NOT NULL AND a.state IS DISTINCT FROM 'idle'
      ELSE a.xact_start <= pg_catalog.clock_timestamp() - %(older_than_ms)s::float8 * interval '1 ms'
  END
ORDER BY
    l.granted DESC,
    pg_catalog.array_position('{
        AccessExclusiveLock, ExclusiveLock, ShareRowExclusiveLock, ShareLock, ShareUpdateExclusiveLock,
        RowExclusiveLock, RowShareLock, AccessShareLock
    }'::text[], l.mode)

-- name: prepared
-- a row is: a prepared transaction of this database that holds locks
SELECT
    l.virtualtransaction,
    p.gid,
    extract(epoch FROM pg_catalog.clock_timestamp() - p.prepared)::float8 * 1000 AS age_ms
FROM pg_catalog.pg_prepared_xacts p
JOIN pg_catalog.pg_locks l ON l.transactionid = p.transaction AND l.locktype = 'transactionid' AND l.pid IS NULL
WHERE p.database = pg_catalog.current_database()
