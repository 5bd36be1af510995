-- name: holders
-- a row is: a session that holds a lock which conflicts with one that is wanted, the oldest transaction first
SELECT
    l.pid,
    coalesce(nullif(a.application_name, ''), nullif(a.backend_type, 'client backend'), '(no name)') AS application,
    coalesce(a.state, a.backend_type, 'prepared transaction') AS state,
    l.mode,
    l.relation::regclass::text AS relation,
    coalesce(extract(epoch FROM pg_catalog.clock_timestamp() - coalesce(a.xact_start, p.prepared)) * 1000, 0)::float8
        AS xact_age_ms,
    left(coalesce(a.query, ''), 200) AS query
FROM pg_catalog.unnest(%(relations)s::text[], %(modes)s::text[]) AS w (relation, mode)
JOIN pg_catalog.pg_locks l
    ON l.relation = pg_catalog.to_regclass(w.relation)
    AND l.mode = w.mode
    AND l.granted
    AND l.database = (SELECT d.oid FROM pg_catalog.pg_database d WHERE d.datname = pg_catalog.current_database())
LEFT JOIN pg_catalog.pg_stat_activity a ON a.pid = l.pid
LEFT JOIN pg_catalog.pg_prepared_xacts p ON l.pid IS NULL AND '-1/' || p.transaction::text = l.virtualtransaction
WHERE l.pid IS DISTINCT FROM %(but_not)s
ORDER BY xact_age_ms DESC
