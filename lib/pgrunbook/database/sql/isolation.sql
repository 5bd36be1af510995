-- name: settings_of_sessions
-- a row is: the statement that takes back a setting of a role or database that would open a copy for its sessions
SELECT
    CASE
        WHEN r.setdatabase = 0 AND r.setrole = 0 THEN pg_catalog.format('ALTER ROLE ALL RESET %I', x.name)
        WHEN r.setrole = 0 THEN pg_catalog.format('ALTER DATABASE %I RESET %I', d.datname, x.name)
        WHEN r.setdatabase = 0 THEN pg_catalog.format('ALTER ROLE %I RESET %I', u.rolname, x.name)
        ELSE pg_catalog.format('ALTER ROLE %I IN DATABASE %I RESET %I', u.rolname, d.datname, x.name)
    END AS statement
FROM pg_catalog.pg_db_role_setting r
LEFT JOIN pg_catalog.pg_database d ON d.oid = r.setdatabase
LEFT JOIN pg_catalog.pg_roles u ON u.oid = r.setrole
CROSS JOIN LATERAL (
    SELECT pg_catalog.split_part(c.line, '=', 1) AS name
    FROM pg_catalog.unnest(r.setconfig) AS c (line)
) x
WHERE x.name IN ('session_preload_libraries', 'local_preload_libraries', 'restrict_nonsystem_relation_kind')

-- name: close_subscriptions
-- a row is: a subscription of any database that was enabled or had a slot, and is and has not any more
UPDATE pg_catalog.pg_subscription
SET subenabled = false,
    subslotname = NULL
WHERE subenabled
   OR subslotname IS NOT NULL
RETURNING subname::text

-- name: sources
-- a row is: a setting of the server, with where its value comes from
SELECT
    s.name,
    s.source
FROM pg_catalog.pg_settings s
WHERE s.name = ANY (%(names)s)
