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

-- name: unlink
-- a row is: a link of a database's objects to a role, which is deleted
DELETE FROM pg_catalog.pg_shdepend AS s
USING pg_catalog.pg_database AS d
WHERE d.oid = s.dbid
  AND d.datname = %s
RETURNING pg_catalog.to_jsonb(s)

-- name: link
-- a row is: nothing; the links that unlink has deleted are there again
INSERT INTO pg_catalog.pg_shdepend
SELECT s.*
FROM pg_catalog.jsonb_populate_recordset(NULL::pg_catalog.pg_shdepend, %s) AS s

-- name: called
-- a row is: a statement that creates a function as triggers of ours call it, without what it does
SELECT pg_catalog.format('CREATE FUNCTION pgrunbook.%I() RETURNS trigger LANGUAGE plpgsql AS ''BEGIN RETURN NULL; END'';', p.proname)
FROM pg_catalog.pg_proc AS p
WHERE p.pronamespace = pg_catalog.to_regnamespace('pgrunbook')::oid
  AND p.prorettype = 'pg_catalog.trigger'::pg_catalog.regtype
ORDER BY p.proname

-- name: surroundings
-- a row is: its kind, its name, and a statement that makes a schema or an extension, or gives this session its rights on it
SELECT 'schema' AS kind, n.nspname AS name,
       pg_catalog.format('CREATE SCHEMA IF NOT EXISTS %I; ALTER SCHEMA %I OWNER TO %I;', n.nspname, n.nspname,
                         pg_catalog.pg_get_userbyid(n.nspowner)) AS made
FROM pg_catalog.pg_namespace AS n
WHERE n.nspname !~ '^pg_' AND n.nspname NOT IN ('information_schema', 'pgrunbook')
UNION ALL
SELECT 'schema', n.nspname, pg_catalog.format('GRANT %s ON SCHEMA %I TO %I;', x.privilege, n.nspname, session_user)
FROM pg_catalog.pg_namespace AS n
CROSS JOIN (VALUES ('USAGE'), ('CREATE')) AS x (privilege)
WHERE n.nspname !~ '^pg_' AND n.nspname NOT IN ('information_schema', 'pgrunbook')
  AND pg_catalog.has_schema_privilege(session_user, n.oid, x.privilege)
  AND NOT pg_catalog.pg_has_role(session_user, n.nspowner, 'USAGE')
UNION ALL
SELECT 'extension', e.extname,
       pg_catalog.format('CREATE EXTENSION IF NOT EXISTS %I SCHEMA %I;', e.extname, n.nspname)
FROM pg_catalog.pg_extension AS e
JOIN pg_catalog.pg_namespace AS n ON n.oid = e.extnamespace
WHERE e.extname <> 'plpgsql'
ORDER BY kind DESC, made;
