-- name: own_schema
-- a row is: a statement that creates schema pgrunbook empty, or gives this session the rights on it that it has here
SELECT pg_catalog.format('CREATE SCHEMA pgrunbook AUTHORIZATION %I;', pg_catalog.pg_get_userbyid(n.nspowner))
FROM pg_catalog.pg_namespace AS n
WHERE n.nspname = 'pgrunbook'
UNION ALL
SELECT pg_catalog.format('GRANT %s ON SCHEMA pgrunbook TO %I;', x.privilege, session_user)
FROM pg_catalog.pg_namespace AS n
CROSS JOIN pg_catalog.unnest('{USAGE,CREATE}'::text[]) AS x (privilege)
WHERE n.nspname = 'pgrunbook'
  AND pg_catalog.has_schema_privilege(n.oid, x.privilege)
