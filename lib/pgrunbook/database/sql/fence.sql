-- name: look
-- a row is: whether a database lets anybody in, and the roles that may connect to it, PUBLIC as ""
SELECT d.datallowconn AS lets_in,
       coalesce((SELECT pg_catalog.array_agg(CASE x.grantee WHEN 0 THEN ''
                                             ELSE pg_catalog.pg_get_userbyid(x.grantee)::text END
                                             ORDER BY x.grantee)
                 FROM pg_catalog.aclexplode(coalesce(d.datacl, pg_catalog.acldefault('d', d.datdba))) AS x
                 WHERE x.privilege_type = 'CONNECT'
                   AND x.grantee <> d.datdba), '{}') AS may_connect
FROM pg_catalog.pg_database AS d
WHERE d.datname = %(database)s

-- name: sessions
-- a row is: a session in a database that could write, but for some of ours
SELECT a.pid,
       a.backend_start,
       a.backend_type,
       coalesce(a.usename, '')::text AS role,
       coalesce(a.application_name, '') AS application,
       coalesce(a.state, '') AS state
FROM pg_catalog.pg_stat_activity AS a
WHERE a.datname = %(database)s
  AND a.pid <> ALL (%(ours)s::integer[])
  AND a.backend_type NOT IN ('autovacuum worker', 'parallel worker')
ORDER BY a.backend_start

-- name: end
-- a row is: whether the server took the request to end that session, and no later one with its number
SELECT pg_catalog.pg_terminate_backend(a.pid) AS taken
FROM pg_catalog.pg_stat_activity AS a
WHERE a.pid = %(pid)s
  AND a.backend_start = %(backend_start)s

-- name: prepared
-- a row is: a prepared transaction of a database
SELECT x.gid
FROM pg_catalog.pg_prepared_xacts AS x
WHERE x.database = %(database)s
ORDER BY x.gid

-- name: sequences
-- a row is: a sequence that has given a number
SELECT pg_catalog.format('%I.%I', s.schemaname, s.sequencename) AS name,
       s.last_value,
       s.increment_by > 0 AS counts_up
FROM pg_catalog.pg_sequences AS s
WHERE s.last_value IS NOT NULL
  AND s.schemaname <> 'pgrunbook'
ORDER BY 1
