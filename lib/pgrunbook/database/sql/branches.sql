-- name: sessions
-- a row is: a client's session on this database beside ours
SELECT a.pid,
       coalesce(a.usename, '')::text AS role,
       a.application_name::text AS application,
       a.backend_start
FROM pg_catalog.pg_stat_activity AS a
WHERE a.datname = pg_catalog.current_database()
  AND a.backend_type = 'client backend'
  AND a.pid <> pg_catalog.pg_backend_pid()
ORDER BY a.backend_start
