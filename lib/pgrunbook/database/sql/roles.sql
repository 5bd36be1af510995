-- name: session
-- a row is: who this session logged in as, the superuser that the cluster was made with, and the database
SELECT
    session_user::text AS role,
    (SELECT r.rolname::text FROM pg_catalog.pg_roles r WHERE r.oid = 10) AS bootstrap,
    pg_catalog.current_database()::text AS database

-- name: roles
-- a row is: a role that is not PostgreSQL's own, and what it may do
SELECT
    r.rolname::text AS name,
    pg_catalog.concat_ws(
        ' ',
        CASE WHEN r.rolsuper THEN 'SUPERUSER' ELSE 'NOSUPERUSER' END,
        CASE WHEN r.rolinherit THEN 'INHERIT' ELSE 'NOINHERIT' END,
        CASE WHEN r.rolcreaterole THEN 'CREATEROLE' ELSE 'NOCREATEROLE' END,
        CASE WHEN r.rolcreatedb THEN 'CREATEDB' ELSE 'NOCREATEDB' END,
        CASE WHEN r.rolcanlogin THEN 'LOGIN' ELSE 'NOLOGIN' END,
        CASE WHEN r.rolreplication THEN 'REPLICATION' ELSE 'NOREPLICATION' END,
        CASE WHEN r.rolbypassrls THEN 'BYPASSRLS' ELSE 'NOBYPASSRLS' END
    ) AS attributes
FROM pg_catalog.pg_roles r
WHERE r.rolname !~ '^pg_'
ORDER BY r.oid

-- name: memberships
-- a row is: a role that is a member of another one, with the options of the grant (the last two from PostgreSQL 16 on)
SELECT
    r.rolname::text AS role,
    m.rolname::text AS member,
    g.rolname::text AS grantor,
    a.admin_option,
    pg_catalog.to_jsonb(a) ->> 'inherit_option' AS inherit_option,
    pg_catalog.to_jsonb(a) ->> 'set_option' AS set_option
FROM pg_catalog.pg_auth_members a
JOIN pg_catalog.pg_roles r ON r.oid = a.roleid
JOIN pg_catalog.pg_roles m ON m.oid = a.member
LEFT JOIN pg_catalog.pg_roles g ON g.oid = a.grantor
WHERE m.rolname !~ '^pg_'
ORDER BY a.grantor <> 10, r.oid, m.oid

-- name: settings
-- a row is: a setting that sessions start with, of the server, of a role, of this database, or of both; none that loads libraries or names a place of the machine
WITH found AS (
    SELECT NULL::text AS role, false AS is_of_database, s.name, s.reset_val AS value, 0 AS place, 0 AS line
    FROM pg_catalog.pg_settings s
    WHERE ((
        s.category ~ '^(Client Connection Defaults|Version and Platform Compatibility|Customized Options)'
        OR s.name = 'password_encryption'
    )
      AND s.context IN ('user', 'superuser')
      AND s.name !~ '^(lc_messages|client_encoding|default_tablespace|temp_tablespaces|transaction_.*)$'
      AND s.name !~ '(_path|_timeout|_command)$|^log_'
      AND (
          s.source NOT IN ('default', 'client', 'global', 'database', 'user', 'database user', 'session')
          OR s.name = 'default_text_search_config'
      )) OR (
        s.name IN (
            'search_path', 'row_security', 'DateStyle', 'IntervalStyle', 'quote_all_identifiers', 'array_nulls',
            'transform_null_equals', 'standard_conforming_strings'
        ) AND s.reset_val <> s.boot_val
    )  -- our session has others of these
    UNION ALL
    SELECT
        r.rolname::text,
        s.setdatabase <> 0,
        pg_catalog.split_part(c.line, '=', 1),
        pg_catalog.substr(c.line, pg_catalog.strpos(c.line, '=') + 1),
        CASE WHEN s.setdatabase = 0 AND s.setrole = 0 THEN 1 WHEN s.setdatabase = 0 THEN 2 ELSE 3 END,
        c.place
    FROM pg_catalog.pg_db_role_setting s
    CROSS JOIN LATERAL pg_catalog.unnest(s.setconfig) WITH ORDINALITY AS c (line, place)
    LEFT JOIN pg_catalog.pg_roles r ON r.oid = s.setrole
    WHERE s.setdatabase IN (
        0, (SELECT d.oid FROM pg_catalog.pg_database d WHERE d.datname = pg_catalog.current_database())
    )
      AND (s.setrole = 0 OR r.rolname IS NOT NULL)
)
SELECT f.role, f.is_of_database, f.name, f.value
FROM found f
WHERE f.name !~ 'preload_libraries$'
  AND f.name <> 'restrict_nonsystem_relation_kind'
ORDER BY f.place, f.role, f.line

-- name: parameters
-- a row is: a right on a configuration parameter, which PostgreSQL 15 and later know; no grantee is PUBLIC
SELECT p.parname::text AS name, r.rolname::text AS grantee, x.privilege_type::text AS privilege, x.is_grantable
FROM pg_catalog.pg_parameter_acl p
CROSS JOIN LATERAL pg_catalog.aclexplode(p.paracl) AS x
LEFT JOIN pg_catalog.pg_roles r ON r.oid = x.grantee
WHERE x.grantee = 0 OR (r.rolname IS NOT NULL AND r.oid <> 10)
ORDER BY p.parname, r.oid, x.privilege_type

-- name: database
-- a row is: a right on this database, with the database's owner; no grantee is PUBLIC
SELECT o.rolname::text AS owner, r.rolname::text AS grantee, x.privilege_type::text AS privilege, x.is_grantable
FROM pg_catalog.pg_database d
LEFT JOIN pg_catalog.pg_roles o ON o.oid = d.datdba
CROSS JOIN LATERAL pg_catalog.aclexplode(coalesce(d.datacl, pg_catalog.acldefault('d', d.datdba))) AS x
LEFT JOIN pg_catalog.pg_roles r ON r.oid = x.grantee
WHERE d.datname = pg_catalog.current_database()
  AND (x.grantee = 0 OR r.rolname IS NOT NULL)
ORDER BY r.oid, x.privilege_type

-- name: lacks
-- a row is: an object of a new database that this one has not any more, as DROP names it
SELECT n.what
FROM (VALUES
    ('SCHEMA public', EXISTS (SELECT FROM pg_catalog.pg_namespace AS s WHERE s.nspname = 'public')),
    ('EXTENSION plpgsql', EXISTS (SELECT FROM pg_catalog.pg_extension AS e WHERE e.extname = 'plpgsql'))
) AS n (what, is_there)
WHERE NOT n.is_there
